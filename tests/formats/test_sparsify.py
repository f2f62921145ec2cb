"""sparsify: hookpoints, older configurations, and written files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import cases
import sparsedict as sd
from formats._fixtures import LIBRARIES, assert_equals_the_library, copied, location, read_tensors, write_tensors
from sparsedict.formats import sparsify
from sparsedict.storage import StorageError

WEIGHTS = "sae.safetensors"


def changed(folder: Path, **keys: Any) -> Path:
    file = folder / "cfg.json"
    cfg = json.loads(file.read_text()) | keys
    file.write_text(json.dumps({name: value for name, value in cfg.items() if value is not ...}))
    return folder


def test_a_folder_of_hookpoints_lists_them(tmp_path: Path) -> None:
    for name in ("layers.0.mlp", "layers.10.mlp", "embed_tokens"):
        shutil.copytree(location("sparsify", "transcoder"), tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"3 hookpoints: 'embed_tokens', 'layers\.0\.mlp', 'layers\.10\.mlp'"):
        sd.load(tmp_path)
    assert_equals_the_library(sd.load(tmp_path / "layers.10.mlp"), "sparsify", "transcoder")
    assert sd.load(tmp_path / "layers.10.mlp").trained_on["site"] == "layers.10.mlp"


def test_a_signed_one_keeps_the_signs(tmp_path: Path) -> None:
    folder = changed(copied("sparsify", "autoencoder_free", tmp_path), signed=True, activation=...)
    dictionary = sd.load(folder)
    tensors = read_tensors(folder / WEIGHTS)
    x = torch.randn(7, 6)
    pre = (x - tensors["b_dec"]) @ tensors["encoder.weight"].T + tensors["encoder.bias"]
    chosen = pre.abs().topk(3, dim=-1).indices
    latents = torch.zeros_like(pre).scatter(-1, chosen, pre.gather(-1, chosen))
    torch.testing.assert_close(dictionary(x).latents, latents)
    torch.testing.assert_close(dictionary(x).reconstruction, latents @ tensors["W_dec"] + tensors["b_dec"])


def test_old_transcoders_subtracted_the_bias() -> None:
    folder = location("sparsify", "transcoder_skip")
    old = sparsify.read(folder, transcoder_subtracts_bias=True)
    new = sparsify.read(folder)
    x = torch.randn(4, 6)
    torch.testing.assert_close(old(x).latents, new(x - old.decoder_bias).latents)
    assert old.arguments()["input_bias"]
    assert not new.arguments()["input_bias"]


def test_a_decoder_of_a_linear_layer_is_read_too(tmp_path: Path) -> None:
    folder = changed(copied("sparsify", "autoencoder", tmp_path), normalize_decoder=..., num_latents=..., transcode=...)
    tensors = read_tensors(folder / WEIGHTS)
    decoder = tensors.pop("W_dec")
    write_tensors(folder / WEIGHTS, tensors | {"decoder.weight": decoder.T})
    assert_equals_the_library(sd.load(folder), "sparsify", "autoencoder")


def test_rows_of_norm_one_are_kept_so_when_trained_on() -> None:
    assert sd.load(location("sparsify", "autoencoder")).decoder_norm == sd.UnitNorm()
    assert sd.load(location("sparsify", "autoencoder_free")).decoder_norm == sd.Free()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"k": ...}, r"cfg\.json: `k` must be an integer of at least 1, got 'None'"),
        ({"activation": "gelu"}, r"`activation` must be topk or groupmax, got 'gelu'"),
        ({"num_latents": 99}, r"there must be 99 latents as in cfg\.json, got 12"),
        ({"num_latents": 0, "expansion_factor": 3}, r"there must be 18 latents"),
        ({"d_in": 7}, r"`d_in` must be 7 as in cfg\.json"),
        ({"activation": "groupmax", "k": 5}, r"`k` must divide `n_latents`"),
    ],
)
def test_unreadable_settings_are_named(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=message):
        sd.load(changed(copied("sparsify", "autoencoder", tmp_path), **keys))


LAYOUTS = ("autoencoder", "autoencoder_free", "autoencoder_groupmax", "transcoder", "transcoder_skip")


@pytest.mark.parametrize("case", LAYOUTS)
def test_written_files_have_the_library_s_layout(case: str, tmp_path: Path) -> None:
    sparsify.write(sd.load(location("sparsify", case)), tmp_path)
    theirs, ours = (read_tensors(folder / WEIGHTS) for folder in (location("sparsify", case), tmp_path))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    wanted, written = (json.loads((f / "cfg.json").read_text()) for f in (location("sparsify", case), tmp_path))
    assert written == wanted | {"num_latents": 12}


@pytest.mark.parametrize(("kind", "activation"), cases.PLAIN_PAIRS)
def test_written_files_compute_the_same_or_writing_raises(kind: str, activation: str, tmp_path: Path) -> None:
    dictionary = cases.make(kind, activation)
    try:
        sparsify.write(dictionary, tmp_path / "layers.1.mlp")
    except ValueError as error:
        assert "sparsify supports only" in str(error)  # noqa: PT017
        assert not list(tmp_path.iterdir())
        return
    again = sd.load(tmp_path / "layers.1.mlp")
    x = cases.tokens(9)
    torch.testing.assert_close(again(x).latents, dictionary(x).latents)
    torch.testing.assert_close(again(x).reconstruction, dictionary(x).reconstruction)


def test_dictionaries_of_other_formats_are_written_for_sparsify(tmp_path: Path) -> None:
    assert "sae_lens" in LIBRARIES
    dictionary = sd.load(location("sae_lens", "topk"))
    sparsify.write(dictionary, tmp_path)
    assert_equals_the_library(sd.load(tmp_path), "sae_lens", "topk")
