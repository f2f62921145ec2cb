"""Llama Scope (Language-Model-SAEs): a folder with ``hyperparams.json`` and ``checkpoints/final.safetensors``."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict.activations import TopK
from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _build as build
from sparsedict.formats._build import LoadedActivation, Weights
from sparsedict.formats._location import Location
from sparsedict.formats._tensors import read_safetensors
from sparsedict.storage import StorageError

CONFIG = "hyperparams.json"
FOLDER = "checkpoints"
WEIGHTS = ("final.safetensors", "pruned.safetensors")


def recognises(location: Location) -> bool:
    """Returns whether the files are in the format of Llama Scope."""
    if location.file_name is None:
        return location.holds(CONFIG)
    if location.file_name == CONFIG:
        return True
    return location.file_name in WEIGHTS and location.parent is not None and location.parent.holds(CONFIG)


def read(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads an autoencoder or transcoder of Llama Scope for unscaled activations of the model.

    The weights were trained on activations that were scaled to an average norm of ``sqrt(d_model)``. The configuration
    contains the original average norm. The scale is folded into the biases and the decoder. Llama Scope selects latents
    by their value times the norm of their decoder row, so these norms are folded into the encoder. The threshold isn't
    changed.

    Args:
        path: The folder, or its weights file.
        device: Device of the weights. The CPU by default.
        dtype: Type of the weights. By default the type in the file, but at least float32.

    Raises:
        FileNotFoundError: If a file is missing.
        StorageError: If a file is broken, or the activation or normalisation isn't supported.

    Source: He et al., "Llama Scope: Extracting Millions of Features from Llama-3.1-8B with Sparse Autoencoders", 2024.
    """
    location = Location.from_path(path)
    # The configuration is in the parent folder of the weights.
    home = location if location.holds(CONFIG) or location.parent is None else location.parent
    cfg = home.cfg(CONFIG, "Llama Scope")
    cfg_file = home.folder / CONFIG
    inner = Location(home.folder / FOLDER, location.file_name if location.file_name in WEIGHTS else None, home.snapshot)
    tensors = read_safetensors(inner.weights(*WEIGHTS, suffix=".safetensors"))
    scale_in, scale_out = _scales(cfg, cfg_file)
    encoder = tensors.take("encoder.weight", "n_latents", "d_in")
    bias = tensors.take("encoder.bias", "n_latents") / scale_in
    decoder = tensors.take_transposed("decoder.weight", "d_out", "n_latents") * (scale_in / scale_out)
    decoder_bias = tensors.take_optional("decoder.bias", "d_out")
    decoder_bias = decoder.new_zeros(decoder.shape[1]) if decoder_bias is None else decoder_bias / scale_out
    tensors.check_all_used("Llama Scope")
    if build.flag(cfg, "apply_decoder_bias_to_pre_encoder", cfg_file, False):
        raise StorageError(f"{cfg_file}: `apply_decoder_bias_to_pre_encoder` must be false, got true.")
    if build.flag(cfg, "sparsity_include_decoder_norm", cfg_file, True):
        norms = torch.linalg.vector_norm(decoder.float(), dim=-1).clamp_min(1e-30).to(decoder.dtype)
        encoder, bias, decoder = encoder * norms[:, None], bias * norms, decoder / norms[:, None]
    weights = Weights(encoder, bias, decoder, decoder_bias)
    loaded = _loaded_activation(cfg, cfg_file, encoder)
    ends = [str(cfg[key]) for key in ("hook_point_in", "hook_point_out") if cfg.get(key)]
    is_distiller = len(set(ends)) == 2 or encoder.shape[1] != decoder.shape[1]
    trained_on = {"library": "Llama Scope", "site": " -> ".join(dict.fromkeys(ends)), "cfg": cfg}
    about: dict[str, Any] = {"trained_on": trained_on, "device": device, "dtype": dtype}
    if is_distiller:
        return build.distiller(weights, loaded, tensors.file, **about)
    return build.autoencoder(weights, loaded, tensors.file, offset="none", **about)


def _scales(cfg: dict[str, Any], file: Path) -> tuple[float, float]:
    """Returns the factors by which inputs and outputs were scaled in training."""
    kind = cfg.get("norm_activation", "dataset-wise")
    if kind in ("none", "inference"):
        return 1.0, 1.0
    norms = cfg.get("dataset_average_activation_norm")
    if kind != "dataset-wise" or not isinstance(norms, dict):
        raise StorageError(
            f"{file}: `norm_activation` must be dataset-wise with a `dataset_average_activation_norm`, none or "
            f"inference, got {str(kind)[:80]!r} with {type(norms).__name__}."
        )
    root = math.sqrt(build.integer(cfg, "d_model", file))
    found = []
    for key in ("in", "out"):
        value = build.number(norms, key, file)
        if value <= 0:
            raise StorageError(
                f"{file}: `dataset_average_activation_norm` must contain positive numbers, got {value} for {key!r}."
            )
        found.append(root / value)
    return found[0], found[1]


def _loaded_activation(cfg: dict[str, Any], file: Path, encoder: Tensor) -> LoadedActivation:
    name = str(cfg.get("act_fn", "jumprelu")).lower()
    if name == "topk":
        return LoadedActivation(TopK(build.integer(cfg, "top_k", file)))
    if name not in ("jumprelu", "relu"):
        raise StorageError(f"{file}: `act_fn` must be jumprelu, relu or topk, got {name[:80]!r}.")
    threshold = 0.0 if name == "relu" else build.number(cfg, "jump_relu_threshold", file, 0.0)
    each = torch.full((len(encoder),), threshold, device="cpu", dtype=torch.float32)
    return build.jump_relu(each, file)
