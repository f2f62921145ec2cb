"""Files that somebody made to do harm, or that broke: a clear error, in bounded time and memory, nothing executed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import cases
import sparsedict as sd
from sparsedict.storage import StorageError

JSON, WEIGHTS = "dictionary.json", "dictionary.safetensors"
NAMED = {"name": "ReLU", "package": "sparsedict", "arguments": {}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    cases.make("distiller_bias_skip", "jump_relu").save(folder)
    return folder


def rewritten(folder: Path, **keys: object) -> Path:
    document = json.loads((folder / JSON).read_text())
    document.update(keys)
    (folder / JSON).write_text(json.dumps(document))
    return folder


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", [JSON, WEIGHTS])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_with_code_is_named_and_not_run(saved: Path, name: str, how: str) -> None:
    trace = saved / "trace"
    if how == "pickle":
        (saved / name).write_bytes(pickle.dumps(Payload(trace)))
    else:
        torch.save({"encoder": Payload(trace)}, saved / name)
    says = {"pickle": "but a pickle, which could run code", "torch": "but a zip file, such as PyTorch's"}[how]
    with pytest.raises(StorageError, match=f"{name} isn't valid JSON" if name == JSON else f"{name} .*{says}"):
        sd.load(saved)
    assert not trace.exists()


@pytest.mark.parametrize("name", [JSON, WEIGHTS])
def test_a_link_out_of_the_folder_raises(saved: Path, tmp_path: Path, name: str) -> None:
    (saved / name).rename(tmp_path / name)
    (saved / name).symlink_to(Path("..") / name)
    with pytest.raises(StorageError, match=rf"{name} must not link out of its folder, but links to .*{name}"):
        sd.load(saved)


def test_links_within_the_folder_and_to_the_folder_are_followed(saved: Path, tmp_path: Path) -> None:
    (saved / WEIGHTS).rename(saved / "weights")
    (saved / WEIGHTS).symlink_to("weights")
    (tmp_path / "link").symlink_to(saved)
    assert sd.load(tmp_path / "link").n_latents == cases.N_LATENTS


def test_links_of_the_hugging_face_cache_are_followed_to_its_blobs_alone(saved: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / ("0" * 40) / "layer" / "3"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for name in (JSON, WEIGHTS):
        (saved / name).rename(repository / "blobs" / f"blob-of-{name}")
        (snapshot / name).symlink_to(os.path.relpath(repository / "blobs" / f"blob-of-{name}", snapshot))
    assert sd.load(snapshot).n_latents == cases.N_LATENTS
    (repository / "blobs" / f"blob-of-{WEIGHTS}").rename(tmp_path / "elsewhere")
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="must not link out of its folder"):
        sd.load(snapshot)


@pytest.mark.parametrize("name", [JSON, WEIGHTS])
def test_files_that_are_not_regular_raise(saved: Path, name: str) -> None:
    file = saved / name
    file.unlink()
    file.symlink_to("nowhere")
    with pytest.raises(StorageError, match=f"{name} is a broken link"):
        sd.load(saved)
    file.unlink()
    file.symlink_to(name)
    with pytest.raises(StorageError, match=f"{name} (can't be resolved|is a broken link)"):
        sd.load(saved)
    file.unlink()
    file.mkdir()
    with pytest.raises(StorageError, match=f"{name} must be a regular file, got a folder"):
        sd.load(saved)
    file.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(file)  # opening one would wait for a writer for ever
        with pytest.raises(StorageError, match=f"{name} must be a regular file"):
            sd.load(saved)


@pytest.mark.parametrize("name", [JSON, WEIGHTS])
def test_an_empty_file_is_named(saved: Path, name: str) -> None:
    (saved / name).write_bytes(b"")
    with pytest.raises(StorageError, match=name):
        sd.load(saved)


def header(folder: Path, change: dict[str, object]) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    document = json.loads(whole[8 : 8 + length]) | change
    encoded = json.dumps(document).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(encoded)) + encoded + whole[8 + length :])


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "F64", "shape": [2**40, 6], "data_offsets": [0, 2**40 * 48]},
        {"dtype": "F64", "shape": [2**62, 2**62], "data_offsets": [0, 480]},
        {"dtype": "F64", "shape": [12, 6], "data_offsets": [0, 10**30]},
        {"dtype": "F64", "shape": [12, 6], "data_offsets": [576, 0]},
        {"dtype": "F64", "shape": [-12, -6], "data_offsets": [0, 576]},
        {"dtype": "F64", "shape": [0, 6], "data_offsets": [0, 0]},
        {"dtype": "F7", "shape": [12, 6], "data_offsets": [0, 576]},
        {"dtype": "F64", "shape": [], "data_offsets": [0, 8]},
        {"dtype": "F64"},
        [],
        None,
    ],
)
def test_a_header_with_an_invalid_tensor_raises(saved: Path, tensor: object) -> None:
    header(saved, {"encoder": tensor})
    begin = time.process_time()
    with pytest.raises(StorageError, match=str(saved)):
        sd.load(saved)
    assert time.process_time() - begin < 5


def test_a_header_of_a_hundred_megabytes_raises(saved: Path) -> None:
    with (saved / WEIGHTS).open("wb") as stream:
        stream.write(struct.pack("<Q", 2**62))
        stream.truncate(2**33)
    with pytest.raises(StorageError, match=r"dictionary\.safetensors is truncated or isn't a safetensors file"):
        sd.load(saved)


def test_a_large_unrequested_tensor_is_not_read(saved: Path) -> None:
    weights = dict(cases.make("distiller_bias_skip", "jump_relu").state_dict())
    digest = json.loads((saved / JSON).read_text())["weights"]
    save_file(weights | {"more": torch.zeros(2**22)}, saved / WEIGHTS, metadata={"digest": digest})
    with pytest.raises(StorageError, match="contain unexpected 'more'"):
        sd.load(saved)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"parts": {}}, "`parts` lacks 'activation', 'decoder_norm'"),
        (
            {"parts": {"activation": NAMED, "decoder_norm": NAMED}},
            "decoder norm 'ReLU' isn't a class of sparsedict: Free",
        ),
        (
            {"parts": {"activation": NAMED, "decoder_norm": NAMED | {"name": "Free"}, "generator": NAMED}},
            "must not set the arguments generator",
        ),
        (
            {"parts": {"activation": NAMED, "decoder_norm": NAMED | {"name": "Free"}, "d_in": NAMED}},
            "must not set the arguments d_in",
        ),
        (
            {"parts": {"activation": NAMED, "decoder_norm": NAMED | {"name": "Free"}, "run": NAMED}},
            r"SparseDistiller doesn't accept the arguments .* unexpected keyword argument 'run'",
        ),
        (
            {"kind": {"name": "SparseDistiller", "package": "sparsedict", "arguments": {"d_in": 6, "__class__": 1}}},
            "SparseDistiller doesn't accept the arguments",
        ),
        (
            {
                "kind": {
                    "name": "SparseDistiller",
                    "package": "sparsedict",
                    "arguments": {"d_in": 6, "d_out": 5, "n_latents": 12, "input_bias": True, "skip": "yes"},
                }
            },
            "doesn't accept the arguments .*: `skip` must be True or False, got 'yes'",
        ),
        (
            {"kind": {"name": "../../SparseDistiller", "package": "sparsedict", "arguments": {}}},
            r"kind '../../SparseDistiller' isn't a class of sparsedict",
        ),
        (
            {"kind": {"name": "system", "package": "os", "arguments": {"command": "touch trace"}}},
            "the kind is 'system' from 'os', which isn't part of sparsedict",
        ),
        ({"weights": "../" * 21 + "x"}, "`weights` must be a digest"),
        ({"dtype": "float16"}, "by the JSON `encoder` is of float16, but it is of float64"),
        ({"trained_on": {"log": [[]] * 10**6}}, None),
    ],
)
@pytest.mark.as_installed
def test_descriptions_that_ask_for_something_else_raise(
    saved: Path, keys: dict[str, object], message: str | None
) -> None:
    rewritten(saved, **keys)
    begin = time.process_time()
    if message is None:
        sd.load(saved)
    else:
        with pytest.raises(StorageError, match=message) as caught:
            sd.load(saved)
        assert str(saved) in str(caught.value)
        assert len(str(caught.value)) < 1500
    assert time.process_time() - begin < 10


def test_weights_that_are_not_numbers_are_not_saved(tmp_path: Path) -> None:
    dictionary = cases.make()
    with torch.no_grad():
        dictionary.decoder[2, 1] = torch.inf
    with pytest.raises(ValueError, match="This dictionary must have finite weights, but 1 of 60 entries of `decoder`"):
        dictionary.save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.data())
@pytest.mark.as_installed
def test_any_damage_gives_a_storage_error_or_the_dictionary(saved: Path, data: st.DataObject) -> None:
    damaged = saved.parent / "damaged"
    shutil.copytree(saved, damaged, dirs_exist_ok=True)
    name = data.draw(st.sampled_from([JSON, WEIGHTS]))
    whole = bytearray((saved / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole)))
        what = data.draw(st.sampled_from(["cut", "flip", "insert", "remove", "repeat"]))
        if what == "cut":
            del whole[place:]
        elif what == "flip" and place < len(whole):
            whole[place] ^= data.draw(st.integers(1, 255))
        elif what == "insert":
            whole[place:place] = data.draw(st.binary(max_size=20))
        elif what == "remove":
            del whole[place : place + data.draw(st.integers(1, 50))]
        else:
            whole[place:place] = whole[place : place + data.draw(st.integers(1, 200))]
    (damaged / name).write_bytes(whole)
    assert "damaged" in outcome(damaged)


def outcome(folder: Path) -> str:
    try:
        loaded = sd.load(folder)
    except StorageError as error:
        return str(error)
    assert loaded.encoder.shape == (cases.N_LATENTS, cases.D_IN)
    return f"{folder} was loaded"
