from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsedict as sd
from sparsedict.storage import FORMAT_VERSION, Description, Named, StorageError

DIGEST = "0123456789abcdef" * 4

finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def description(**changes: Any) -> Description:
    return Description(
        **{
            "kind": Named("SparseDistiller", "sparsedict", {"d_in": 3, "skip": False}),
            "parts": {"activation": Named.from_part(sd.TopK(2)), "decoder_norm": Named.from_part(sd.MaxNorm(0.1))},
            "widths": {"d_in": 3, "d_out": 2, "n_latents": 4},
            "dtype": "float32",
            "trained_on": {},
            **changes,
        }
    )


def document(**changes: Any) -> bytes:
    plain = json.loads(description().to_json(DIGEST))
    plain.update(changes)
    return json.dumps({key: value for key, value in plain.items() if value is not ...}).encode()


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_training_metadata_is_read_unchanged(trained_on: dict[str, Any]) -> None:
    wanted = description(trained_on=trained_on)
    assert Description.from_json(wanted.to_json(DIGEST), "file") == (wanted, DIGEST)


@given(finite, st.integers(-(2**60), 2**60), st.text(), st.lists(st.tuples(st.integers(0, 9), finite), max_size=3))
def test_arguments_come_back_as_they_were(
    number: float, integer: int, text: str, pairs: list[tuple[int, float]]
) -> None:
    @dataclass(frozen=True)
    class Part:
        number: float
        integer: int
        text: str
        pairs: tuple[tuple[int, float], ...]
        sum: int = field(default=0, init=False)

    part = Part(number, integer, text, tuple(pairs))
    read, _ = Description.from_json(description(parts={"activation": Named.from_part(part)}).to_json(DIGEST), "file")
    assert Part(**read.parts["activation"].arguments) == part
    assert (read.parts["activation"].name, read.parts["activation"].package) == ("Part", __name__)


def test_parts_in_parts_come_back_as_they_were() -> None:
    @dataclass(frozen=True)
    class Either:
        one: sd.Activation
        several: tuple[sd.Activation, ...]

    named = Named.from_part(Either(sd.TopK(3), (sd.ReLU(), sd.JumpReLU(threshold=0.5))))
    read, _ = Description.from_json(description(parts={"activation": named}).to_json(DIGEST), "file")
    assert read.parts["activation"] == named
    assert read.parts["activation"].arguments["one"] == Named("TopK", "sparsedict", {"k": 3})
    assert read.parts["activation"].arguments["several"][1].arguments["threshold"] == 0.5


def test_a_part_that_holds_a_tensor_raises() -> None:
    @dataclass(frozen=True)
    class Scaled:
        scale: torch.Tensor

    with pytest.raises(TypeError, match=r"`scale` of Scaled must be None, .* to be saved, got a Tensor.*initial_state"):
        Named.from_part(Scaled(torch.ones(2)))


def test_a_part_that_is_no_dataclass_raises() -> None:
    class Plain:
        pass

    with pytest.raises(TypeError, match=r"Plain must be a dataclass to be saved\. Declare it with"):
        Named.from_part(Plain())


@pytest.mark.parametrize(("value", "error"), [(torch.ones(1), TypeError), (float("nan"), ValueError)])
def test_notes_that_json_can_not_hold_raise(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="`trained_on`"):
        description(trained_on={"loss": value}).to_json(DIGEST)


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"log": "x" * 2**22}, r"`trained_on` must fit into 4,194,304 bytes"),
        ({"id": 10**200}, r"`trained_on`.* isn't valid JSON: an integer has 201 digits"),
        ({"name": "\ud800"}, r"`trained_on`.* isn't valid JSON"),
    ],
)
def test_notes_that_could_not_be_read_again_raise(notes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        description(trained_on=notes).to_json(DIGEST)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"", "isn't valid JSON"),
        (b"{", "isn't valid JSON"),
        (b"\xff\xfe\xff", "isn't valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"format": ' + b"9" * 5000 + b"}", "an integer has 5000 digits"),
        (b'{"format": NaN}', "NaN is not a JSON number"),
        (b'{"format": 1, "format": 2}', "one key twice"),
        (b"[]", "isn't the description of a sparsedict dictionary"),
        (document(format="something else"), "isn't the description of a sparsedict dictionary"),
        (document(format_version=FORMAT_VERSION + 1), r"format version 3, .* Upgrade sparsedict"),
        (document(format_version=0), "`format_version` must be a positive integer, got 0"),
        (document(format_version=True), "`format_version` must be a positive integer, got True"),
        (document(weights="../../etc/passwd"), "`weights` must be a digest"),
        (document(weights=...), "lacks the key `weights`"),
        (document(kind=...), "lacks the key `kind`"),
        (document(kind="SparseDistiller"), "`kind` must be an object, got 'SparseDistiller'"),
        (document(parts=...), "lacks the key `parts`"),
        (
            document(parts={"activation": {"name": "ReLU", "package": "sparsedict"}}),
            "`activation` lacks the key `arguments`",
        ),
        (
            document(parts={"activation": {"name": "ReLU", "package": "sparsedict", "arguments": {}, "run": "rm"}}),
            "`activation` has unexpected keys: 'run'",
        ),
        (b'{"format": "\\ud800"}', "surrogates not allowed"),
        (b'{"format": 1e999}', "the number 1e999 is longer or larger than any float"),
        (b'{"format": 1.' + b"1" * 5000 + b"}", "is longer or larger than any float"),
        (b'{"a": ' * 65 + b"1" + b"}" * 65, "nested too deeply, over 64 levels"),
        (document(**{"x" * 3000: 1}), r"has unexpected keys: 'x{80}'"),
        (document(library_version="9" * 3000, format_version=9), "written by sparsedict 9{40};"),
        (document(widths={"d_in": 3, "d_out": 2}), "`widths` lacks the key `n_latents`"),
        (document(widths={"d_in": 3, "d_out": 2, "n_latents": True}), "`n_latents` must be an integer, got 'True'"),
        (document(trained_on=[]), "`trained_on` must be an object"),
        (document(pickle="gASV"), "has unexpected keys: 'pickle'"),
    ],
)
def test_broken_json_is_named(encoded: bytes, message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        Description.from_json(encoded, "folder/dictionary.json")
    assert "folder/dictionary.json" in str(caught.value)
    assert len(str(caught.value)) < 1500


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_raise_a_storage_error(encoded: bytes) -> None:
    with pytest.raises(StorageError, match="file"):
        Description.from_json(encoded, "file")


@given(st.sampled_from(sorted(json.loads(document()))), json_values)
def test_any_change_of_a_key_is_read_or_raises(key: str, value: object) -> None:
    with suppress(StorageError):
        Description.from_json(document(**{key: value}), "file")
