from __future__ import annotations

import pytest
import torch

import sparsedict as sd
from sparsedict import metrics
from sparsedict.analysis import (
    AblatedError,
    ReconstructionError,
    ablated_error,
    latent_means,
    latent_types,
    match_neurons,
)
from sparsedict.data import ActivationStream
from sparsedict.sites import Site

from ._models import HIDDEN, WIDTH, Foreign, autoencoder, distiller, noise, tokens


def masks(n_latents: int) -> dict[str, torch.Tensor]:
    return {
        "none": torch.zeros(n_latents, dtype=torch.bool),
        "some": torch.arange(n_latents) % 3 == 0,
        "all": torch.ones(n_latents, dtype=torch.bool),
    }


@pytest.mark.parametrize("skip", [False, True])
def test_errors_are_those_of_the_definition(skip: bool) -> None:
    student, x, y = distiller(skip=skip), noise(40, WIDTH), noise(40, WIDTH, seed=1)
    found = ablated_error(student, (x, y), masks(20))
    with torch.no_grad():
        latents = student.encode(x)
        for name, mask in masks(20).items():
            changed = torch.where(mask, latents.mean(0), latents)
            reconstruction = student.reconstruct(changed, x)
            assert found.ablated[name].fvu == pytest.approx(metrics.fvu(reconstruction, y), rel=1e-5)
            assert found.ablated[name].squared_error == pytest.approx(
                metrics.squared_error(reconstruction, y), rel=1e-5
            )
        assert found.full.fvu == pytest.approx(metrics.fvu(student(x).reconstruction, y), rel=1e-5)
    assert found.n_tokens == 40


def test_ablating_nothing_is_the_identity() -> None:
    found = ablated_error(autoencoder(), noise(30, WIDTH), masks(20))
    assert found.ablated["none"] == found.full


def test_ablating_everything_leaves_a_constant_that_explains_nothing(site: Site) -> None:
    student = sd.SparseDistiller.from_neurons(site.neurons)
    found = ablated_error(student, ActivationStream(site, tokens()), masks(HIDDEN))
    assert found.full.fvu == pytest.approx(0, abs=1e-9)
    assert found.ablated["all"].fvu == pytest.approx(1, abs=1e-5)


def test_types_are_ablated_in_turn(site: Site) -> None:
    student = sd.SparseDistiller.from_neurons(site.neurons)
    types = latent_types(match_neurons(student, site.neurons))
    found = ablated_error(student, ActivationStream(site, tokens()), types)
    assert found.sparse == found.full
    assert found.simulators.fvu == pytest.approx(1, abs=1e-5)
    assert [line.split()[0] for line in str(found).splitlines()[1:]] == ["full", "without", "without"]


def test_given_means_are_used_and_an_ablation_brings_its_own() -> None:
    coder, x, mask = autoencoder(), noise(30, WIDTH), masks(20)["some"]
    means = latent_means(coder, noise(30, WIDTH, seed=5))
    by_mask = ablated_error(coder, x, {"ablation": mask}, means)
    assert by_mask == ablated_error(coder, x, sd.Ablation(mask, means))
    assert by_mask != ablated_error(coder, x, {"ablation": mask})


def test_other_libraries_objects_serve() -> None:
    student, x, y = distiller(), noise(40, WIDTH), noise(40, WIDTH, seed=1)
    found = ablated_error(Foreign(student), (x, y), masks(20), reads="inputs")
    assert found.full.fvu == pytest.approx(ablated_error(student, (x, y), masks(20)).full.fvu, rel=1e-5)


@pytest.mark.parametrize("data", [noise(9, WIDTH), [noise(9, WIDTH)]])
def test_bare_tensors_raise_for_a_distiller(data: object) -> None:
    with pytest.raises(ValueError, match="`data` must contain inputs and outputs"):
        ablated_error(distiller(), data, masks(20), torch.zeros(20))


def test_data_that_can_be_read_once_needs_means() -> None:
    x = noise(9, WIDTH)
    with pytest.raises(ValueError, match="`means` must be passed for a generator"):
        ablated_error(autoencoder(), (x for _ in range(2)), masks(20))
    assert ablated_error(autoencoder(), (x for _ in range(2)), masks(20), torch.zeros(20)).n_tokens == 18


@pytest.mark.as_installed
def test_ablations_of_another_kind_raise() -> None:
    with pytest.raises(TypeError, match="`ablations` must be LatentTypes"):
        ablated_error(autoencoder(), noise(9, WIDTH), [1, 2])  # pyright: ignore[reportArgumentType]


def test_an_error_that_is_not_known_is_a_dash() -> None:
    full, unknown = ReconstructionError(0.5, 0.25), ReconstructionError(float("nan"), float("nan"))
    lines = str(AblatedError(full, {"simulators": unknown}, 40)).splitlines()
    assert [line.split()[-2:] for line in lines] == [["error", "FVU"], ["0.5", "0.2500"], ["-", "-"]]
