"""Which products a batch is encoded by: each row of the table, and what dictionaries do by it."""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

import sparsedict as sd
from sparsedict import kernels
from sparsedict.dictionaries import _encode
from sparsedict.dictionaries._encode import Conditions, Path
from sparsedict.kernels import Capacity, StepContext

TABLE: list[tuple[dict[str, bool], Path]] = [
    ({"training": True, "stored": False, "within_capacity": True}, Path.WITHIN_CAPACITY),
    (
        {"training": True, "stored": False, "within_capacity": False, "elementwise": True, "counts_wait": True},
        Path.DENSE,
    ),
    (
        {"training": True, "stored": False, "within_capacity": False, "elementwise": False, "selectable": True},
        Path.SELECTED,
    ),
    (
        {"training": True, "stored": False, "within_capacity": False, "elementwise": False, "selectable": False},
        Path.GATHERED,
    ),
    (
        {
            "training": True,
            "stored": False,
            "within_capacity": False,
            "elementwise": True,
            "counts_wait": False,
            "selectable": True,
        },
        Path.SELECTED,
    ),
    (
        {
            "training": True,
            "stored": False,
            "within_capacity": False,
            "elementwise": True,
            "counts_wait": False,
            "selectable": False,
        },
        Path.GATHERED,
    ),
    ({"training": True, "stored": True, "selectable": True}, Path.SELECTED),
    ({"training": True, "stored": True, "selectable": False}, Path.GATHERED),
    ({"training": False, "selectable": True}, Path.SELECTED),
    ({"training": False, "selectable": False}, Path.GATHERED),
]
"""Conditions that exclude each other; those that a row leaves out don't matter to it."""

NAMES = [field.name for field in fields(Conditions)]
COMBINATIONS = [dict(zip(NAMES, values, strict=True)) for values in itertools.product((False, True), repeat=len(NAMES))]


def rows_of(given: dict[str, bool]) -> list[Path]:
    return [path for row, path in TABLE if all(given[name] == value for name, value in row.items())]


def test_every_combination_of_conditions_has_the_path_of_its_row() -> None:
    assert len(COMBINATIONS) == 64
    for given in COMBINATIONS:
        assert rows_of(given) == [Conditions(**given).path], given


def test_many_entries_are_computed_densely_where_the_activation_and_the_caller_allow() -> None:
    for given in COMBINATIONS:
        dense = given["elementwise"] and not given["stored"]
        assert Conditions(**given).path_of_many is (Path.DENSE if dense else Path.GATHERED)


class Counting(sd.SparseAutoencoder):
    """Counts how often all pre-activations are computed."""

    has_affine_encoder = True
    n_computed = 0

    def pre_activations(self, x: Tensor) -> Tensor:
        self.n_computed += 1
        return super().pre_activations(x)


class NotAffine(Counting):
    has_affine_encoder = False


def path_taken(dictionary: Counting, context: StepContext | None, *, stored: bool) -> Path:
    """Returns the path that encoding took, seen from outside."""
    x = torch.randn(20, dictionary.d_in, generator=torch.Generator().manual_seed(0))
    if stored:
        encoding = dictionary.encode_sparse(x)
        support, n_entries = encoding.support, encoding.values.numel()
        if n_entries == 20 * dictionary.n_latents:
            return Path.DENSE
    else:
        support = dictionary.forward_pass(x, x, context=context).support
    if support is None:
        return Path.DENSE
    if support.has_padding:
        return Path.WITHIN_CAPACITY
    return Path.GATHERED if dictionary.n_computed else Path.SELECTED


def made(activation: sd.Activation, kind: type[Counting] = Counting, *, bias: float = -5.0) -> Counting:
    generator = torch.Generator().manual_seed(0)
    dictionary = kind(8, 64, activation=activation, decoder_norm=sd.UnitNorm(), generator=generator)
    with torch.no_grad():
        dictionary.encoder.mul_(1.5)
        dictionary.encoder_bias.fill_(bias)
    return dictionary


CPU: list[tuple[dict[str, Any], bool, bool, Path]] = [
    ({"activation": sd.ReLU()}, True, False, Path.SELECTED),
    ({"activation": sd.ReLU(), "bias": 0.0}, True, False, Path.DENSE),
    ({"activation": sd.ReLU()}, False, False, Path.SELECTED),
    ({"activation": sd.ReLU(), "bias": 0.0}, False, True, Path.GATHERED),
    ({"activation": sd.ReLU(), "kind": NotAffine}, True, False, Path.GATHERED),
    ({"activation": sd.ReLU(), "kind": NotAffine, "bias": 0.0}, True, False, Path.DENSE),
    ({"activation": sd.GELU()}, True, False, Path.DENSE),
    ({"activation": sd.GELU()}, False, True, Path.DENSE),
    ({"activation": sd.TopK(32)}, True, False, Path.SELECTED),
    ({"activation": sd.TopK(3), "kind": NotAffine}, True, False, Path.GATHERED),
    ({"activation": sd.BatchTopK(3), "bias": 0.0}, True, False, Path.SELECTED),
    ({"activation": sd.AbsTopK(3)}, True, False, Path.GATHERED),
]
TRITON: list[tuple[dict[str, Any], float, Path]] = [
    ({"activation": sd.ReLU()}, 0.01, Path.WITHIN_CAPACITY),
    ({"activation": sd.ReLU()}, 1.0, Path.DENSE),
    ({"activation": sd.ReLU(), "kind": NotAffine}, 0.01, Path.DENSE),
    ({"activation": sd.BatchTopK(3)}, 1.0, Path.WITHIN_CAPACITY),
    ({"activation": sd.GELU()}, 0.01, Path.DENSE),
    ({"activation": sd.TopK(3)}, 1.0, Path.SELECTED),
    ({"activation": sd.AbsTopK(3)}, 1.0, Path.GATHERED),
]


def named(case: Any) -> str:
    return "-".join(str(getattr(value, "__name__", value)) for value in case.values()) if isinstance(case, dict) else ""


@pytest.mark.parametrize(("case", "training", "stored", "wanted"), CPU, ids=named)
def test_the_path_on_a_cpu(case: dict[str, Any], training: bool, stored: bool, wanted: Path) -> None:
    dictionary = made(**case).train(training)
    assert path_taken(dictionary, None, stored=stored) is wanted


@pytest.mark.parametrize(("case", "density", "wanted"), TRITON, ids=named)
def test_the_path_on_an_accelerator(case: dict[str, Any], density: float, wanted: Path) -> None:
    """In Triton's interpreter. Without a capacity, elementwise activations are computed densely."""
    pytest.importorskip("triton")
    dictionary = made(**case).train()
    with kernels.using(kernels.triton_backend()):
        context = StepContext(capacity=Capacity(density))
        assert path_taken(dictionary, context, stored=False) is wanted
        without = path_taken(made(**case).train(), StepContext(), stored=False)
    if dictionary.activation.elementwise:
        assert without is Path.DENSE
    else:
        assert without in (Path.SELECTED, Path.GATHERED)


def test_a_dense_step_measures_the_density_of_the_next() -> None:
    pytest.importorskip("triton")
    capacity = Capacity(1.0)
    dictionary = made(sd.ReLU()).train()
    with kernels.using(kernels.triton_backend()):
        assert path_taken(dictionary, StepContext(capacity=capacity), stored=False) is Path.DENSE
    assert capacity.was_sufficient()
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    assert capacity.density == float((dictionary.pre_activations(x) > 0).float().mean())


def test_most_stored_is_a_share_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _encode.most_stored(4, 40) == 10
    monkeypatch.setattr(_encode, "DENSE_SHARE", 1.0)
    assert _encode.most_stored(4, 40) == 160
