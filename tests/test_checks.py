from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsedict as sd
from sparsedict import checks

pytestmark = pytest.mark.as_installed


@given(st.integers(), st.integers())
def test_at_least(value: int, least: int) -> None:
    if value >= least:
        assert checks.at_least("k", value, least) == value
    else:
        with pytest.raises(ValueError, match=rf"`k` must be at least {least}, got {value}\."):
            checks.at_least("k", value, least)


NOT_INTEGERS = [
    True,
    1.0,
    "1",
    None,
    np.float64(1),
    np.bool_(True),
    torch.tensor(True),
    torch.tensor(1.0),
    torch.ones(1),
]


@pytest.mark.parametrize("value", [*NOT_INTEGERS, np.ones(1, int), torch.ones(1, dtype=int), 1j, [1]], ids=repr)
def test_at_least_takes_integers(value: object) -> None:
    with pytest.raises(TypeError, match=rf"`k` must be an integer, got {re.escape(repr(value))} of type"):
        checks.at_least("k", value, 1)


@given(st.floats(), st.floats(-5, 5), st.floats(0, 5), st.booleans())
def test_in_range(value: float, low: float, width: float, open_low: bool) -> None:
    high = low + width
    inside = math.isfinite(value) and low <= value <= high and not (open_low and value == low)
    if inside:
        assert checks.in_range("p", value, low, high, open_low=open_low) == value
    else:
        with pytest.raises(ValueError, match=r"`p` must lie in [\[(].*, got"):
            checks.in_range("p", value, low, high, open_low=open_low)


def test_in_range_names_its_bounds() -> None:
    with pytest.raises(ValueError, match=r"`lr` must lie in \(0, inf\), got 0\."):
        checks.in_range("lr", 0, 0, open_low=True)
    with pytest.raises(ValueError, match=r"`lr` must lie in \[0.0, 1.0\], got nan\."):
        checks.in_range("lr", math.nan, 0.0, 1.0)
    with pytest.raises(ValueError, match="got inf"):
        checks.in_range("lr", math.inf, 0.0)
    for value in ("1", None, True, torch.ones(1), np.ones(1), np.bool_(True), torch.tensor(True), 1j, np.array("1")):
        with pytest.raises(TypeError, match="`lr` must be a number"):
            checks.in_range("lr", value, 0.0)


INTEGERS = [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.int16)]
FLOATS = [0.5, np.float32(0.5), np.float64(0.5), np.float16(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)]


@pytest.mark.parametrize("value", INTEGERS, ids=repr)
def test_integers_of_other_libraries_become_plain(value: Any) -> None:
    assert type(checks.at_least("k", value, 1)) is int
    assert type(checks.in_range("p", value, 1)) is int
    assert checks.at_least("k", value, 1) == checks.in_range("p", value, 1) == 3
    with pytest.raises(ValueError, match=r"`k` must be at least 4, got 3\."):
        checks.at_least("k", value, 4)


@pytest.mark.parametrize("value", [*FLOATS, torch.tensor(0.5, requires_grad=True)], ids=repr)
def test_numbers_of_other_libraries_become_plain(value: Any) -> None:
    assert type(checks.in_range("p", value, 0)) is float
    assert checks.in_range("p", value, 0) == 0.5
    with pytest.raises(ValueError, match=r"`p` must lie in \[1, inf\), got 0.5\."):
        checks.in_range("p", value, 1)


def test_one_of() -> None:
    assert checks.one_of("reads", "inputs", ["inputs", "outputs"]) == "inputs"
    for value in ("input", None, 1, []):
        with pytest.raises(ValueError, match=r"`reads` must be one of 'inputs', 'outputs', got"):
            checks.one_of("reads", value, iter(["inputs", "outputs"]))


def test_activations() -> None:
    for shape in ((4,), (2, 4), (0, 4), (2, 3, 4)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            x = torch.zeros(shape, dtype=dtype)
            assert checks.activations("x", x, 4) is x
    with pytest.raises(TypeError, match=r"`x` must be a tensor of activations \[\.\.\., 4\], got list"):
        checks.activations("x", [[0.0] * 4], 4)
    with pytest.raises(
        TypeError, match=r"`x` must contain floating-point .*torch\.int64.*Pass tokens to `Site\.capture`"
    ):
        checks.activations("x", torch.zeros(2, 4, dtype=torch.int64), 4)
    with pytest.raises(ValueError, match=r"last dimension of `x` must be 4, got shape \(4, 2\)"):
        checks.activations("x", torch.zeros(4, 2), 4)
    with pytest.raises(ValueError, match=r"last dimension of `x` must be 4, got shape \(\)"):
        checks.activations("x", torch.zeros(()), 4)


def test_same_shape() -> None:
    checks.same_shape("a", torch.zeros(2, 3), "b", torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"`a` and `b` must have the same shape, got \(2, 3\) and \(2, 1\)"):
        checks.same_shape("a", torch.zeros(2, 3), "b", torch.zeros(2, 1))


def test_latent_vector() -> None:
    vector = torch.zeros(3)
    assert checks.latent_vector("means", vector, 3) is vector
    for value, got in ((torch.zeros(4), r"\(4,\)"), (torch.zeros(1, 3), r"\(1, 3\)"), ([0.0] * 3, "list")):
        with pytest.raises(ValueError, match=rf"`means` must be a tensor of shape \(3,\).*got {got}"):
            checks.latent_vector("means", value, 3)


def test_finite() -> None:
    x = torch.tensor([1.0, math.nan, math.inf, -math.inf])
    assert checks.finite("x", x[:1], "") is not None
    with pytest.raises(ValueError, match=r"`x` must be finite, got 3 NaN or infinite entries of 4\. Look upstream\."):
        checks.finite("x", x, "Look upstream.")


def leave_a_replacement_unused() -> None:
    mlp = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    with sd.Site(torch.nn.Sequential(torch.nn.Embedding(3, 2), mlp), "1").ablated():
        pass


def use_a_former_name() -> None:
    sd.AuxK(idle_tokens=100)


def penalise_free_rows() -> None:
    sae = sd.SparseAutoencoder(8, 16, activation=sd.ReLU(), decoder_norm=sd.Free())
    sd.fit(sae, torch.randn(64, 8), n_tokens=64, penalties=[sd.L1(0.1)], progress=False)


@pytest.mark.parametrize("warned", [leave_a_replacement_unused, use_a_former_name, penalise_free_rows])
def test_warnings_point_at_the_line_of_the_user(warned: Callable[[], None]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warned()
    assert {warning.filename for warning in caught} == {__file__}


def test_every_warning_of_the_library_is_given_by_checks() -> None:
    package = Path(sd.__file__).parent
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if "warnings.warn(" in path.read_text()}
    assert found == {"checks/_warning.py"}


AUTOENCODER = sd.SparseAutoencoder(4, 8, activation=sd.TopK(2), decoder_norm=sd.Free())
DISTILLER = sd.SparseDistiller(4, 4, 8, activation=sd.ReLU(), decoder_norm=sd.Free())
WRITERS: dict[str, Callable[[Any], Any]] = {
    "save": AUTOENCODER.save,
    "sae_lens": lambda path: sd.formats.sae_lens.write(AUTOENCODER, path),
    "sparsify": lambda path: sd.formats.sparsify.write(AUTOENCODER, path),
    "circuit_tracer": lambda path: sd.formats.circuit_tracer.write(DISTILLER, path),
    "JSONLines": sd.training.callbacks.JSONLines,
    "pages": lambda path: sd.pages.write_pages(path, {}),
    "records": sd.analysis.LatentRecords.load,
}


@pytest.mark.parametrize("value", [3, None, b"folder"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_path_of_another_type_is_named(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=r"`path` must be a (path|folder), as text or a pathlib\.Path, got "):
        WRITERS[name](value)


@pytest.mark.parametrize("form", ["reversed", "columns reversed", "big endian", "read-only", "field"])
def test_arrays_that_pytorch_cannot_share(form: str) -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    plain = array
    if form == "field":
        record = np.zeros(4, dtype=[("gap", "u1"), ("values", "f4", 3)])
        record["values"] = array
        array = record["values"]
    elif form == "read-only":
        array.setflags(write=False)
    else:
        array = {"reversed": array[::-1], "columns reversed": array[:, ::-1], "big endian": array.astype(">f4")}[form]
        plain = array.astype(np.float32)
    found = checks.from_numpy(array)
    assert found.dtype == torch.float32
    assert found.tolist() == plain.tolist()
    assert np.shares_memory(found.numpy(), array) == (form == "read-only")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.eye(3).to_sparse(), r"`x` must be a dense tensor, got .* torch.sparse_coo.* `.to_dense\(\)`"),
        (torch.nested.nested_tensor([torch.ones(2, 3)], layout=torch.jagged), "nested"),
        (torch.eye(3).to(torch.float8_e4m3fn), r"got torch.float8_e4m3fn. Convert it with `.float\(\)`"),
    ],
    ids=["coo", "nested", "float8"],
)
def test_tensors_without_arithmetic(value: torch.Tensor, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        checks.dense("x", value)
