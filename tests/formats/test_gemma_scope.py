"""Gemma Scope: folders, and information in paths."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import sparsedict as sd
from formats._fixtures import assert_equals_the_library, copied, location, read_tensors, write_tensors
from sparsedict.formats import gemma_scope
from sparsedict.storage import StorageError


@pytest.mark.parametrize(("case", "name"), [("first", "params.npz"), ("second", "params.safetensors")])
def test_the_path_identifies_a_transcoder(case: str, name: str, tmp_path: Path) -> None:
    coder = tmp_path / "gemma-scope-2b-pt-res" / "layer_3" / "width_16k" / "average_l0_59"
    transcoder = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_3" / "width_16k" / "average_l0_59"
    for folder in (coder, transcoder):
        shutil.copytree(location("gemma_scope", case), folder)
    assert isinstance(sd.load(coder), sd.SparseAutoencoder)
    assert isinstance(sd.load(transcoder / name), sd.SparseDistiller)
    assert isinstance(gemma_scope.read(transcoder, kind="autoencoder"), sd.SparseAutoencoder)
    for folder in (coder, transcoder):
        assert_equals_the_library(sd.load(folder), "gemma_scope", case)


def test_the_configuration_identifies_a_transcoder(tmp_path: Path) -> None:
    folder = copied("gemma_scope", "second", tmp_path)
    config = {
        "architecture": "jump_relu",
        "model_name": "gemma-3-1b",
        "hf_hook_point_in": "in",
        "hf_hook_point_out": "out",
    }
    (folder / "config.json").write_text(json.dumps(config))
    dictionary = sd.load(folder)
    assert isinstance(dictionary, sd.SparseDistiller)
    assert (dictionary.trained_on["model"], dictionary.trained_on["site"]) == ("gemma-3-1b", "in")


def test_a_skip_is_stored_the_other_way_round() -> None:
    tensors = read_tensors(location("gemma_scope", "second_affine") / "params.safetensors")
    dictionary = sd.load(location("gemma_scope", "second_affine"))
    assert isinstance(dictionary, sd.SparseDistiller)
    assert torch.equal(dictionary.state_dict()["skip"], tensors["affine_skip_connection"].T)


@pytest.mark.parametrize("out", ["", None, "model.layers.3.output"])
def test_a_configuration_without_another_output_is_of_an_autoencoder(out: str | None, tmp_path: Path) -> None:
    folder = copied("gemma_scope", "second", tmp_path)
    config = {"hf_hook_point_in": "model.layers.3.output", "hf_hook_point_out": out}
    (folder / "config.json").write_text(json.dumps(config))
    assert isinstance(sd.load(folder), sd.SparseAutoencoder)


def test_a_folder_of_dictionaries_lists_them(tmp_path: Path) -> None:
    for width in ("width_16k", "width_65k"):
        shutil.copytree(location("gemma_scope", "first"), tmp_path / "layer_3" / width / "average_l0_5")
    with pytest.raises(FileNotFoundError, match=r"2 dictionaries: 'layer_3/width_16k/average_l0_5'"):
        sd.load(tmp_path)
    shutil.rmtree(tmp_path / "layer_3" / "width_65k")
    with pytest.raises(FileNotFoundError, match=r"contains a checkpoint in a subfolder\. Pass .*width_16k"):
        sd.load(tmp_path)


def test_one_layer_of_a_cross_layer_transcoder_is_not_read(tmp_path: Path) -> None:
    folder = copied("gemma_scope", "second", tmp_path)
    tensors = read_tensors(folder / "params.safetensors")
    write_tensors(folder / "params.safetensors", tensors | {"w_dec": torch.zeros(12, 4, 6)})
    with pytest.raises(StorageError, match=r"which writes to 4 layers\. A cross-layer transcoder is read from"):
        sd.load(folder)


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<f2"])
def test_numbers_of_other_types_and_orders(dtype: str, tmp_path: Path) -> None:
    tensors = read_tensors(location("gemma_scope", "first") / "params.npz")
    np.savez_compressed(tmp_path / "params.npz", **{name: t.numpy().astype(dtype) for name, t in tensors.items()})
    dictionary = sd.load(tmp_path)
    assert dictionary.encoder.dtype == (torch.float64 if dtype == "<f8" else torch.float32)
    torch.testing.assert_close(dictionary.encoder.float(), tensors["W_enc"].T, rtol=1e-3, atol=1e-3)


def test_fortran_order_is_read(tmp_path: Path) -> None:
    tensors = read_tensors(location("gemma_scope", "first") / "params.npz")
    np.savez(tmp_path / "params.npz", **{name: np.asfortranarray(tensor.numpy()) for name, tensor in tensors.items()})
    assert_equals_the_library(sd.load(tmp_path), "gemma_scope", "first")
