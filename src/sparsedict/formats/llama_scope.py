"""Llama Scope: a folder with ``hyperparams.json`` and ``checkpoints/final.safetensors``, of Language-Model-SAEs."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict.activations import TopK
from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _made as made
from sparsedict.formats._made import Learned, Weights
from sparsedict.formats._place import Place
from sparsedict.formats._tensors import read_safetensors
from sparsedict.storage import StorageError

CONFIG = "hyperparams.json"
FOLDER = "checkpoints"
WEIGHTS = ("final.safetensors", "pruned.safetensors")


def recognises(place: Place) -> bool:
    """Whether the files are Llama Scope's."""
    if place.named is None:
        return place.holds(CONFIG)
    if place.named == CONFIG:
        return True
    return place.named in WEIGHTS and place.above is not None and place.above.holds(CONFIG)


def read(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads an autoencoder or transcoder of Llama Scope, for activations as the model has them.

    The weights were trained on activations scaled to a norm of ``sqrt(d_model)``, by the average norm that the
    configuration has. The scale goes into biases and decoder; the norms of decoder rows, by which latents are chosen,
    go into the encoder. The threshold stays as it is.

    Args:
        path: The folder, or its file of weights.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; where left out as in the file, but at least single precision for thresholds.

    Raises:
        FileNotFoundError: If a file is missing.
        StorageError: If a file is broken, or of an activation or normalisation that has no kind here.

    Source: He et al., "Llama Scope: Extracting Millions of Features from Llama-3.1-8B with Sparse Autoencoders", 2024.
    """
    place = Place.of(path)
    # The configuration lies above the folder of weights.
    home = place if place.holds(CONFIG) or place.above is None else place.above
    cfg = home.cfg(CONFIG, "Llama Scope")
    cfg_file = home.folder / CONFIG
    inner = Place(home.folder / FOLDER, place.named if place.named in WEIGHTS else None, home.snapshot)
    tensors = read_safetensors(inner.weights(*WEIGHTS, suffix=".safetensors"))
    scale_in, scale_out = _scales(cfg, cfg_file)
    encoder = tensors.take("encoder.weight", "n_latents", "d_in")
    bias = tensors.take("encoder.bias", "n_latents") / scale_in
    decoder = tensors.take_turned("decoder.weight", "d_out", "n_latents") * (scale_in / scale_out)
    decoder_bias = tensors.maybe("decoder.bias", "d_out")
    decoder_bias = decoder.new_zeros(decoder.shape[1]) if decoder_bias is None else decoder_bias / scale_out
    tensors.finish("Llama Scope")
    if made.flag(cfg, "apply_decoder_bias_to_pre_encoder", cfg_file, False):
        raise StorageError(f"{cfg_file}: `apply_decoder_bias_to_pre_encoder` must be false to be read here, got true.")
    if made.flag(cfg, "sparsity_include_decoder_norm", cfg_file, True):
        norms = torch.linalg.vector_norm(decoder.float(), dim=-1).clamp_min(1e-30).to(decoder.dtype)
        encoder, bias, decoder = encoder * norms[:, None], bias * norms, decoder / norms[:, None]
    weights = Weights(encoder, bias, decoder, decoder_bias)
    learned = _learned(cfg, cfg_file, encoder)
    ends = [str(cfg[key]) for key in ("hook_point_in", "hook_point_out") if cfg.get(key)]
    is_distiller = len(set(ends)) == 2 or encoder.shape[1] != decoder.shape[1]
    trained_on = {"library": "Llama Scope", "site": " -> ".join(dict.fromkeys(ends)), "cfg": cfg}
    about: dict[str, Any] = {"trained_on": trained_on, "device": device, "dtype": dtype}
    if is_distiller:
        return made.distiller(weights, learned, tensors.file, **about)
    return made.autoencoder(weights, learned, tensors.file, offset="none", **about)


def _scales(cfg: dict[str, Any], file: Path) -> tuple[float, float]:
    """Returns what activations were multiplied by in training, of inputs and of outputs."""
    kind = cfg.get("norm_activation", "dataset-wise")
    if kind in ("none", "inference"):
        return 1.0, 1.0
    norms = cfg.get("dataset_average_activation_norm")
    if kind != "dataset-wise" or not isinstance(norms, dict):
        raise StorageError(
            f"{file}: `norm_activation` must be dataset-wise with a `dataset_average_activation_norm`, none or "
            f"inference, got {str(kind)[:80]!r} with {type(norms).__name__}."
        )
    root = math.sqrt(made.integer(cfg, "d_model", file))
    found = []
    for key in ("in", "out"):
        value = made.number(norms, key, file)
        if value <= 0:
            raise StorageError(
                f"{file}: `dataset_average_activation_norm` must hold positive numbers, got {value} for {key!r}."
            )
        found.append(root / value)
    return found[0], found[1]


def _learned(cfg: dict[str, Any], file: Path, encoder: Tensor) -> Learned:
    name = str(cfg.get("act_fn", "jumprelu")).lower()
    if name == "topk":
        return Learned(TopK(made.integer(cfg, "top_k", file)))
    if name not in ("jumprelu", "relu"):
        raise StorageError(f"{file}: `act_fn` must be jumprelu, relu or topk, got {name[:80]!r}.")
    threshold = 0.0 if name == "relu" else made.number(cfg, "jump_relu_threshold", file, 0.0)
    each = torch.full((len(encoder),), threshold, device="cpu", dtype=torch.float32)
    return made.jump_relu(each, file)
