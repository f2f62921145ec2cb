from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsedict as sd
from sparsedict.analysis import dead_latents, latent_types, match_neurons
from sparsedict.sites import Site

from ._models import HIDDEN, WIDTH, distiller, noise


@given(cosines=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=30), threshold=st.floats(-1, 1))
def test_every_latent_is_of_one_type(cosines: list[float], threshold: float) -> None:
    types = latent_types(torch.tensor(cosines), threshold)
    assert torch.equal(types.simulators, ~types.sparse)
    assert types.n_simulators + types.n_sparse == types.n_latents
    assert types.simulators.tolist() == (torch.tensor(cosines) > threshold).tolist()


def test_simulators_of_a_distiller_made_of_neurons_are_all(site: Site) -> None:
    types = latent_types(match_neurons(sd.SparseDistiller.from_neurons(site.neurons), site.neurons))
    assert types.n_simulators == HIDDEN
    assert types.share == 1


def test_planted_simulators_are_found_and_no_others(site: Site) -> None:
    own = torch.nn.functional.normalize(noise(HIDDEN, 64), dim=1)
    rows = torch.cat([own[:3] * 2.0, noise(10, 64, seed=1), -own[:2]])
    types = latent_types(match_neurons(rows, own))
    assert types.simulators.tolist() == [True] * 3 + [False] * 12


@given(
    latents=st.lists(st.tuples(st.floats(-1, 1, width=32), st.booleans()), min_size=1, max_size=30),
    threshold=st.floats(-1, 1),
)
def test_types_are_a_partition_where_dead_latents_are_given(
    latents: list[tuple[float, bool]], threshold: float
) -> None:
    cosines, dead = torch.tensor([c for c, _ in latents]), torch.tensor([d for _, d in latents])
    types = latent_types(cosines, threshold, dead=dead)
    assert types.dead is not None
    assert torch.equal(types.dead, dead)
    members = torch.stack([types.simulators, types.sparse, types.dead])
    assert (members.sum(0) == 1).all()
    assert types.n_simulators + types.n_sparse + (types.n_dead or 0) == types.n_latents
    assert types.simulators.tolist() == ((cosines > threshold) & ~dead).tolist()


def test_a_dead_latent_is_no_simulator() -> None:
    rows = torch.eye(4)
    types = latent_types(match_neurons(rows, rows), dead=torch.tensor([True, False, False, True]))
    assert (types.n_simulators, types.n_sparse, types.n_dead, types.share) == (2, 0, 2, 0.5)
    assert str(types) == "2 simulators (50.0%, cosine > 0.8), 0 sparse, 2 never fired"


def test_dead_latents_are_those_given() -> None:
    student = distiller()
    with torch.no_grad():
        student.encoder_bias[:4] = -100
    dead = dead_latents(student, noise(50, WIDTH))
    match = match_neurons(student, student)
    without, types = latent_types(match), latent_types(match, dead=dead)
    assert without.dead is without.n_dead is None
    assert types.n_dead == dead.n_dead >= 4
    assert torch.equal(types.simulators, without.simulators & ~dead.mask)
    assert "never fired" in str(types)
    assert "never fired" not in str(without)


def test_threshold_must_be_a_cosine() -> None:
    with pytest.raises(ValueError, match=r"`threshold` must lie in \[-1.0, 1.0\], got 80"):
        latent_types(torch.zeros(3), 80)


@pytest.mark.as_installed
def test_dead_must_be_of_these_latents() -> None:
    with pytest.raises(ValueError, match=r"`dead` must be a tensor of shape \(3,\)"):
        latent_types(torch.zeros(3), dead=torch.zeros(4, dtype=torch.bool))
