from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedict.analysis import _clusters, clusters

from ._models import Foreign, autoencoder, distiller, noise


def brute_force(rows: torch.Tensor, threshold: float) -> set[frozenset[int]]:
    unit = torch.nn.functional.normalize(rows, dim=1)
    reach = (unit @ unit.T > threshold) | torch.eye(len(rows), dtype=torch.bool)
    for _ in range(len(rows)):
        reach = (reach.float() @ reach.float()) > 0
    return {frozenset(row.nonzero().flatten().tolist()) for row in reach if row.sum() > 1}


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 25),
    seed=st.integers(0, 100),
    threshold=st.floats(0.2, 0.95),
    at_once=st.sampled_from([1, 40, 10**6]),
)
def test_clusters_are_connected_components(n: int, seed: int, threshold: float, at_once: int) -> None:
    rows = noise(n, 3, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_clusters, "N_COSINES", at_once)
        found = clusters(rows, threshold)
    assert {frozenset(group.tolist()) for group in found.members} == brute_force(rows, threshold)
    assert list(found.sizes) == sorted(found.sizes, reverse=True)
    for label, group in enumerate(found.members):
        assert (found.labels == label).nonzero().flatten().tolist() == group.tolist()
    assert (found.labels == -1).sum() == n - sum(found.sizes)


def test_planted_pairs_and_triplets_are_found() -> None:
    rows = noise(50, 64)
    rows[10], rows[20] = rows[0] * 3, rows[0] + 0.01
    rows[30] = rows[5]
    rows[40] = -rows[7]
    found = clusters(rows)
    assert [group.tolist() for group in found.members] == [[0, 10, 20], [5, 30]]
    assert len(found) == 2


def test_only_the_chosen_latents_are_grouped() -> None:
    rows = torch.eye(4)[[0, 0, 0, 1]]
    found = clusters(rows, latents=torch.tensor([True, False, True, True]))
    assert found.labels.tolist() == [0, -1, 0, -1]


def test_everything_parallel_is_one_cluster() -> None:
    assert clusters(torch.ones(3000, 2)).sizes == (3000,)


def test_either_side_of_a_dictionary_can_be_grouped() -> None:
    student = distiller(40)
    for side, rows in (("decoder", student.decoder), ("encoder", student.encoder)):
        expected = clusters(rows.detach(), 0.6)
        assert torch.equal(clusters(student, 0.6, side=side).labels, expected.labels)
        assert torch.equal(clusters(Foreign(student), 0.6, side=side).labels, expected.labels)


@pytest.mark.as_installed
def test_bad_arguments_raise() -> None:
    with pytest.raises(ValueError, match="`side` must be one of 'decoder', 'encoder', got 'both'"):
        clusters(autoencoder(), side="both")
    with pytest.raises(ValueError, match=r"`latents` must be a tensor of shape \(20,\)"):
        clusters(autoencoder(), latents=torch.ones(3, dtype=torch.bool))
