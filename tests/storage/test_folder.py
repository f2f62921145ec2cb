from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import cases
import sparsedict as sd
from sparsedict.storage import StorageError, _weights

JSON, WEIGHTS = "dictionary.json", "dictionary.safetensors"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    cases.make("distiller_bias_skip", "jump_relu").save(folder)
    return folder


def same(a: sd.Dictionary, b: sd.Dictionary) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_folder_holds_two_plain_files(saved: Path) -> None:
    assert sorted(file.name for file in saved.iterdir()) == [JSON, WEIGHTS]
    assert os.stat(saved / WEIGHTS).st_mode == os.stat(saved / JSON).st_mode
    with safe_open(saved / WEIGHTS, framework="np") as stored:
        assert stored.get_tensor("encoder").shape == (cases.N_LATENTS, cases.D_IN)
        assert stored.get_tensor("activation_state.log_threshold").shape == (cases.N_LATENTS,)
    written = json.loads((saved / JSON).read_text())
    assert written["kind"]["name"] == "SparseDistiller"
    assert written["parts"]["activation"]["arguments"] == {
        "threshold": cases.THRESHOLD,
        "bandwidth": cases.BANDWIDTH,
        "learns": "logarithm",
        "to_inputs": False,
    }
    assert written["library_version"] == sd.__version__


def test_equal_dictionaries_are_saved_as_equal_bytes(saved: Path, tmp_path: Path) -> None:
    cases.make("distiller_bias_skip", "jump_relu").save(tmp_path / "again")
    for name in (JSON, WEIGHTS):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_every_moment_of_a_save_shows_the_old_dictionary_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = cases.make("distiller", "relu"), cases.make("autoencoder", "top_k")
    folder, moments = tmp_path / "saved", []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            shutil.copytree(folder, tmp_path / f"moment-{len(moments)}")
            moments.append(tmp_path / f"moment-{len(moments)}")
            return function(*arguments, **named)

        return call

    old.save(folder)
    for place, name in ((os, "fsync"), (os, "replace"), (Path, "replace"), (shutil, "rmtree"), (_weights, "save_file")):
        monkeypatch.setattr(place, name, watched(getattr(place, name)))
    new.save(folder)
    monkeypatch.undo()
    found = [same(sd.load(moment), new) or (same(sd.load(moment), old) and "old") for moment in moments]
    assert len(moments) >= 6
    assert found == sorted(found, key=lambda state: state is True)
    assert {"old", True} == set(found)
    for moment in moments:  # and the next save works from there, leaving nothing behind
        old.save(moment)
        assert same(sd.load(moment), old)
        assert sorted(file.name for file in moment.iterdir()) == [JSON, WEIGHTS]


def test_a_full_disk_leaves_the_old_dictionary(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise _weights.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(_weights, "save_file", full)
    with pytest.raises(OSError, match=r"could not be written to .*No space left on device"):
        cases.make("autoencoder").save(saved)
    assert same(sd.load(saved), cases.make("distiller_bias_skip", "jump_relu"))
    assert sorted(file.name for file in saved.iterdir()) == [JSON, WEIGHTS]


def test_other_files_in_the_folder_stay(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    (saved / f"{WEIGHTS}.index.json").write_text("mine too")
    cases.make().save(saved)
    assert (saved / "notes.txt").exists()
    assert (saved / f"{WEIGHTS}.index.json").exists()


def test_saving_over_a_file_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"`path` must be a folder, but .*file is a file"):
        cases.make().save(tmp_path / "file")


def test_missing_folders_and_files_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere doesn't exist"):
        sd.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"dictionary\.json is a file"):
        sd.load(saved / JSON)
    (saved / WEIGHTS).rename(tmp_path / "weights")
    with pytest.raises(
        FileNotFoundError,
        match=r"saved must contain the weights of the dictionary, but dictionary\.safetensors is missing",
    ):
        sd.load(saved)
    (saved / JSON).unlink()
    with pytest.raises(FileNotFoundError, match=r"contains no saved dictionary: dictionary\.json is missing"):
        sd.load(saved)


def test_truncated_weights_are_named(saved: Path) -> None:
    whole = (saved / WEIGHTS).read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    for length in (0, 1, 8, 9, 8 + header // 2, 8 + header, len(whole) - 1):
        (saved / WEIGHTS).write_bytes(whole[:length])
        with pytest.raises(StorageError, match=r"dictionary\.safetensors is truncated"):
            sd.load(saved)


def test_truncated_json_is_named(saved: Path) -> None:
    whole = (saved / JSON).read_bytes()
    for length in range(0, len(whole) - 2, 40):
        (saved / JSON).write_bytes(whole[:length])
        with pytest.raises(StorageError, match=r"dictionary\.json isn't valid JSON"):
            sd.load(saved)


def test_an_oversized_json_raises_before_it_is_read(saved: Path) -> None:
    with (saved / JSON).open("r+b") as stream:
        stream.truncate(2**40)
    with pytest.raises(StorageError, match=r"dictionary\.json must have at most 4,194,304 bytes"):
        sd.load(saved)


def test_weights_of_another_dictionary_raise(saved: Path, tmp_path: Path) -> None:
    cases.make("distiller_bias_skip", "jump_relu", "free").save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / WEIGHTS, saved / WEIGHTS)
    with pytest.raises(StorageError, match=r"doesn't match the dictionary\.json in its folder"):
        sd.load(saved)


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    weights = cases.make("distiller_bias_skip", "jump_relu").state_dict()
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    change(weights)
    digest = json.loads((folder / JSON).read_text())["weights"]
    save_file(weights, folder / WEIGHTS, metadata={"digest": digest})
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("encoder"), r"`encoder` must be of shape \(12, 6\), but it is missing"),
        (
            lambda weights: weights.update(decoder=torch.zeros(12, 6)),
            r"`decoder` must be of shape \(12, 5\), but it is of shape \(12, 6\)",
        ),
        (lambda weights: weights.pop("skip"), "the weights lack 'skip'"),
        (lambda weights: weights.pop("activation_state.log_threshold"), "lack 'activation_state.log_threshold'"),
        (lambda weights: weights.update(more=torch.zeros(1)), "the weights contain unexpected 'more'"),
        (lambda weights: weights.update(encoder_bias=torch.zeros(11)), r"`encoder_bias` must be of shape \(12,\)"),
        (
            lambda weights: weights.update(encoder=torch.zeros(12, 6, dtype=torch.float32)),
            "by the JSON `encoder` is of float64, but it is of float32",
        ),
        (
            lambda weights: weights.update(encoder_bias=torch.zeros(12, dtype=torch.int64)),
            r"`encoder_bias` must be of shape \(12,\) and like torch.float32, got \(12,\) of torch.int64",
        ),
        (
            lambda weights: weights.update(encoder_bias=torch.zeros(12, dtype=torch.complex64)),
            r"dictionary\.safetensors: 'encoder_bias' must have the type of a dictionary's weights, got C64",
        ),
        (
            lambda weights: weights["decoder"].index_fill_(0, torch.tensor([3]), torch.nan),
            r"dictionary\.safetensors must have finite weights, but 5 of 60 entries of `decoder` are NaN",
        ),
        (
            lambda weights: weights["activation_state.log_threshold"].fill_(torch.nan),
            r"finite weights, but 12 of 12 entries of `activation_state.log_threshold` are NaN",
        ),
    ],
)
def test_wrong_weights_are_named(
    saved: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    with pytest.raises(StorageError, match=message):
        sd.load(rewritten(saved, change))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_any_damage_to_the_header_of_the_weights_raises_or_is_harmless(saved: Path, data: st.DataObject) -> None:
    damaged = saved.parent / "damaged"
    shutil.copytree(saved, damaged, dirs_exist_ok=True)
    whole = bytearray((saved / WEIGHTS).read_bytes())
    (header,) = struct.unpack("<Q", whole[:8])
    place = data.draw(st.integers(0, 8 + header - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    (damaged / WEIGHTS).write_bytes(whole)
    with suppress(StorageError):
        sd.load(damaged)
