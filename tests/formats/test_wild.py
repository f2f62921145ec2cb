"""Checkpoints as they are published: nested, custom, and in formats of single releases."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sparsedict as sd
from formats._fixtures import assert_equals_the_library, copied, location, read_tensors
from sparsedict.formats import dictionary_learning, llama_scope, qwen_scope, state_dict
from sparsedict.storage import StorageError

N, D = 12, 6
X = torch.randn(20, D, generator=torch.Generator().manual_seed(4))


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


W_ENC, W_DEC, B_ENC, B_DEC = drawn(N, D), drawn(N, D) * 0.5, drawn(N), drawn(D)


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "sae"])
def test_a_state_dict_wrapped_one_level_is_read(name: str, tmp_path: Path) -> None:
    folder = copied("dictionary_learning", "gated", tmp_path)
    tensors = read_tensors(folder / "ae.pt")
    torch.save({name: tensors, "epoch": 3, "config": {"lr": 1e-3}}, folder / "ae.pt")
    assert_equals_the_library(sd.load(folder), "dictionary_learning", "gated")


@pytest.mark.as_installed
def test_two_state_dicts_are_not_chosen_among(tmp_path: Path) -> None:
    tensors = read_tensors(location("dictionary_learning", "gated") / "ae.pt")
    torch.save({"sae": tensors, "ema": tensors}, tmp_path / "ae.pt")
    with pytest.raises(StorageError, match=r"ae\.pt must contain tensors by name, but `sae` has type dict"):
        dictionary_learning.read(tmp_path)


HAND_WRITTEN: dict[str, dict[str, Tensor]] = {
    "linear": {"encoder.weight": W_ENC, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T, "decoder.bias": B_DEC},
    "sae_lens": {"W_enc": W_ENC.T, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC},
    "rows": {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC},
    "columns": {"W_enc": W_ENC.T, "b_enc": B_ENC, "W_dec": W_DEC.T, "b_dec": B_DEC},
    "prefixed": {
        "module.sae.W_enc": W_ENC,
        "module.sae.b_enc": B_ENC,
        "module.sae.W_dec": W_DEC,
        "module.sae.b_dec": B_DEC,
    },
    "pre_bias": {"encoder": W_ENC, "encoder_bias": B_ENC, "decoder": W_DEC, "pre_bias": B_DEC},
    "latent_bias": {"encoder.weight": W_ENC, "latent_bias": B_ENC, "decoder.weight": W_DEC.T, "pre_bias": B_DEC},
}


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors", ".npz"])
@pytest.mark.parametrize("names", HAND_WRITTEN)
def test_hand_written_weights_are_read_either_way_round(names: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"sae_final{suffix}"
    tensors = {name: tensor.contiguous() for name, tensor in HAND_WRITTEN[names].items()}
    if suffix == ".npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        np.savez(file, **arrays)
    else:
        save_file(tensors, file) if suffix == ".safetensors" else torch.save({"state_dict": tensors, "epoch": 3}, file)
    for offset, x in (("none", X), ("decoder_bias", X - B_DEC)):
        made = state_dict.read(file, activation=sd.ReLU(), input_offset=offset)  # pyright: ignore[reportArgumentType]
        latents = (x @ W_ENC.T + B_ENC).relu()
        torch.testing.assert_close(made(X).latents, latents)
        torch.testing.assert_close(made(X).reconstruction, latents @ W_DEC + B_DEC)
    with pytest.raises(
        StorageError, match=r"but not `activation` and `input_offset`.*activation=sd\.TopK.*from_weights"
    ):
        sd.load(file)


def test_a_threshold_and_a_transcoder_are_read(tmp_path: Path) -> None:
    tensors = {"W_enc": W_ENC.T, "b_enc": B_ENC, "W_dec": drawn(N, 5), "b_dec": drawn(5), "threshold": B_ENC.abs()}
    torch.save({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "mine.pt")
    made = state_dict.read(tmp_path / "mine.pt", activation=sd.JumpReLU(), kind="distiller")
    pre = X @ W_ENC.T + B_ENC
    torch.testing.assert_close(made(X).latents, torch.where(pre > B_ENC.abs(), pre, 0.0))
    assert isinstance(made, sd.SparseDistiller)
    with pytest.raises(
        StorageError, match=r"contains 'threshold', but ReLU\(\) has no threshold\. Pass `activation=sd\.J"
    ):
        state_dict.read(tmp_path / "mine.pt", activation=sd.ReLU(), kind="distiller")
    with pytest.raises(StorageError, match=r"must be one number for BatchTopK\(k=4.* got shape \(12,\)"):
        state_dict.read(tmp_path / "mine.pt", activation=sd.BatchTopK(4), kind="distiller")
    other = state_dict.read(
        tmp_path / "mine.pt",
        activation=sd.BatchTopK(4),
        activation_state={"threshold": torch.tensor(0.5)},
        kind="distiller",
    )
    torch.testing.assert_close(other(X).latents, torch.where(pre > 0.5, pre, 0.0))


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("name", ["threshold", "log_threshold"])
@pytest.mark.parametrize("activation", [sd.JumpReLU(), sd.JumpReLU(learns="threshold"), sd.BatchTopK(4)])
def test_a_common_threshold_is_read(
    activation: sd.Activation, name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    tensors = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
    number = torch.tensor(0.75) if name == "threshold" else torch.tensor(0.75).log()
    torch.save(tensors | {name: number.reshape(shape)}, tmp_path / "mine.pt")
    made = state_dict.read(tmp_path / "mine.pt", activation=activation, input_offset="none")
    pre = X @ W_ENC.T + B_ENC
    torch.testing.assert_close(made(X).latents, torch.where(pre > 0.75, pre, 0.0))


@pytest.mark.parametrize("activation", [sd.JumpReLU(), sd.Gated()])
def test_state_that_the_file_lacks_is_requested(activation: sd.Activation, tmp_path: Path) -> None:
    torch.save({"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}, tmp_path / "mine.pt")
    with pytest.raises(StorageError, match="`activation_state` must contain"):
        state_dict.read(tmp_path / "mine.pt", activation=activation, input_offset="none")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"W_enc": W_ENC, "b_enc": B_ENC},
            r"must contain decoder under a common name, got 'W_enc', 'b_enc'\..*from_weights",
        ),
        (
            {"W_enc": W_ENC, "W_dec": W_DEC},
            r"`W_enc` must be a matrix, and the biases must determine which of its dimensions .*from_weights",
        ),
        (
            {"W_enc": drawn(D, D), "W_dec": drawn(D, D), "b_enc": drawn(D)},
            r"must determine which of its dimensions .*from_weights",
        ),
        (
            {"W_enc": W_ENC, "W_dec": W_DEC, "b_enc": B_ENC, "scale": B_DEC},
            r"must contain an encoder.*also contains 'scale'\..*from_weights",
        ),
    ],
)
def test_missing_settings_of_a_state_dict_are_named(tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "mine.pt")
    with pytest.raises(StorageError, match=message):
        state_dict.read(tmp_path / "mine.pt", activation=sd.ReLU(), input_offset="none")


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kind": "transcoder"}, ValueError, "`kind` must be one of 'autoencoder', 'distiller', got 'transcoder'"),
        ({"input_offset": "b_dec"}, ValueError, "`input_offset` must be one of 'decoder_bias'"),
        ({"input_offset": "none", "kind": "distiller"}, ValueError, "`input_offset` must be left out for a distiller"),
        ({"activation": "topk"}, TypeError, r"`activation` must be an activation such as sd\.TopK\(32\), got 'topk'"),
    ],
)
def test_arguments_of_the_reader_are_checked(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    torch.save({"W_enc": W_ENC, "W_dec": W_DEC, "b_enc": B_ENC}, tmp_path / "mine.pt")
    with pytest.raises(error, match=message):
        state_dict.read(tmp_path / "mine.pt", **{"activation": sd.ReLU(), **arguments})


@pytest.mark.as_installed
@pytest.mark.parametrize("content", [{"k": 32}, {"cfg": {"k": 32}}])
def test_entries_that_are_no_tensor_are_named_with_the_remedy(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"W_enc": W_ENC, "W_dec": W_DEC, "b_enc": B_ENC} | content, tmp_path / "sae.pt")
    with pytest.raises(StorageError, match=r"`(k|cfg)` has type (int|dict)\. .*from_weights"):
        sd.load(tmp_path / "sae.pt")


@pytest.mark.as_installed
def test_weights_in_a_folder_are_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"layers.0.weight": W_ENC, "layers.1.weight": W_DEC}}, tmp_path / "sae.pt")
    with pytest.raises(FileNotFoundError, match=r"There are weights in sae\.pt: load .* `sd\.load\('.*sae\.pt'\)`"):
        sd.load(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"it isn't a checkpoint in a known format of another library\. .*from_weights"
    ):
        sd.load(tmp_path / "sae.pt")


def qwen(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for layer in (0, 1):
        tensors = {"W_enc": W_ENC, "W_dec": W_DEC.T.contiguous(), "b_enc": B_ENC, "b_dec": B_DEC}
        torch.save(tensors, folder / f"layer{layer}.sae.pt")
    return folder


def test_qwen_scope_has_k_in_the_name(tmp_path: Path) -> None:
    folder = qwen(tmp_path / "SAE-Res-Qwen3-8B-Base-W64K-L0_5")
    made = sd.load(folder / "layer1.sae.pt")
    assert made.activation == sd.TopK(5)
    pre = X @ W_ENC.T + B_ENC
    values, chosen = pre.topk(5)
    latents = torch.zeros_like(pre).scatter(-1, chosen, values.relu())
    torch.testing.assert_close(made(X).latents, latents)
    torch.testing.assert_close(made(X).reconstruction, latents @ W_DEC + B_DEC)
    assert made.trained_on["model"] == "Qwen/Qwen3-8B-Base"
    assert made.trained_on["site"] == "model.layers.1:out"
    sd.formats.sae_lens.write(made, tmp_path / "out")
    metadata = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"


def test_qwen_scope_takes_k_and_a_layer(tmp_path: Path) -> None:
    folder = qwen(tmp_path / "downloads")
    assert qwen_scope.read(folder, layer=0, k=3).activation == sd.TopK(3)
    with pytest.raises(
        StorageError, match=r"the number of active latents per token is unknown.*qwen_scope\.read\(path, k=50\)"
    ):
        sd.load(folder / "layer0.sae.pt")
    with pytest.raises(FileNotFoundError, match="contains layers '0', '1', and `layer` is None"):
        sd.load(folder)


def llama(folder: Path, **changes: Any) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    tensors = {"encoder.weight": W_ENC, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T, "decoder.bias": B_DEC}
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "checkpoints" / "final.safetensors")
    cfg = {
        "d_model": D,
        "d_sae": N,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.4,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 3.0, "out": 3.0},
        "sparsity_include_decoder_norm": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "hook_point_in": "blocks.9.hook_resid_post",
        "hook_point_out": "blocks.9.hook_resid_post",
    }
    (folder / "hyperparams.json").write_text(json.dumps(cfg | changes))
    return folder


def test_llama_scope_folds_the_norm_of_activations_in(tmp_path: Path) -> None:
    folder = llama(tmp_path / "L9R")
    scale = math.sqrt(D) / 3.0
    norms = W_DEC.norm(dim=-1)
    # By the release's code: training's scale of the inputs, of which the threshold, compared at inference, isn't part.
    hidden = ((X * scale) @ W_ENC.T + B_ENC) / scale * norms
    latents = torch.where(hidden > 0.4, hidden, 0.0)
    wanted = (latents / norms * scale) @ W_DEC / scale + B_DEC / scale
    for path in (folder, folder / "hyperparams.json", folder / "checkpoints" / "final.safetensors"):
        made = sd.load(path)
        torch.testing.assert_close(made(X).latents, latents)
        torch.testing.assert_close(made(X).reconstruction, wanted)
    assert made.trained_on["site"] == "blocks.9.hook_resid_post"


def test_llama_scope_transcoders_have_two_norms(tmp_path: Path) -> None:
    norms = {"in": 8.0, "out": 2.0}
    out = {"hook_point_in": "blocks.9.ln2.hook_normalized", "hook_point_out": "blocks.9.hook_mlp_out"}
    made = llama_scope.read(
        llama(tmp_path / "tc", dataset_average_activation_norm=norms, act_fn="topk", top_k=4, **out)
    )
    assert isinstance(made, sd.SparseDistiller)
    a, b = math.sqrt(D) / 8.0, math.sqrt(D) / 2.0
    pre = (X * a) @ W_ENC.T + B_ENC
    chosen = (pre * W_DEC.norm(dim=-1)).topk(4).indices
    latents = torch.zeros_like(pre).scatter(-1, chosen, pre.gather(-1, chosen).relu())
    torch.testing.assert_close(made(X).reconstruction, (latents @ W_DEC + B_DEC) / b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_average_activation_norm": None}, "`norm_activation` must be dataset-wise with"),
        ({"dataset_average_activation_norm": {"in": 3.0}}, "`out` must be a number .*, got 'None'"),
        ({"dataset_average_activation_norm": {"in": 0, "out": 1.0}}, "must contain positive numbers, got 0.0 for 'in'"),
        ({"dataset_average_activation_norm": {"in": 10**40, "out": 1.0}}, "`in` must be a number in the range"),
        (
            {"jump_relu_threshold": 1e300},
            "`jump_relu_threshold` must be a number in the range of float32, got '1e\\+300'",
        ),
        ({"jump_relu_threshold": None}, "`jump_relu_threshold` must be a number"),
        ({"norm_activation": "token-wise"}, "`norm_activation` must be dataset-wise"),
        ({"act_fn": "prolu"}, "`act_fn` must be jumprelu"),
        ({"apply_decoder_bias_to_pre_encoder": True}, "`apply_decoder_bias_to_pre_encoder` must be false"),
    ],
)
def test_inconsistent_settings_of_llama_scope_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=message):
        sd.load(llama(tmp_path / "L9R", **changes))


@pytest.mark.parametrize("kept", ["activation_fn_kwargs", "k"])
def test_a_top_k_of_sae_lens_without_an_activation_raises(kept: str, tmp_path: Path) -> None:
    folder = copied("sae_lens", "old_topk", tmp_path)
    cfg = json.loads((folder / "cfg.json").read_text())
    for name in ("activation_fn_str", "activation_fn", "activation_fn_kwargs", "k", "architecture"):
        cfg.pop(name, None)
    (folder / "cfg.json").write_text(json.dumps(cfg | {kept: {"k": 3} if "kwargs" in kept else 3}))
    with pytest.raises(StorageError, match=r"cfg\.json must contain `activation_fn`, because it contains `k`"):
        sd.load(folder)
