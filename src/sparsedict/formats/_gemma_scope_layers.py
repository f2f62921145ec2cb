"""Gemma Scope 2's cross-layer transcoders: a folder with one ``params_layer_{i}.safetensors`` for each layer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import CrossLayerDistiller
from sparsedict.formats._layer_weights import LayerWeights, check_targets, cross_layer
from sparsedict.formats._location import Location
from sparsedict.formats._tensors import read_safetensors
from sparsedict.storage import check_finite

FILE = re.compile(r"params_layer_(\d{1,5})\.safetensors")


def files_in(location: Location) -> list[Path]:
    """Returns the file of each layer, in order.

    Raises:
        FileNotFoundError: If the file of a layer is missing.
    """
    numbers = {int(found[1]) for name in location.entries() if (found := FILE.fullmatch(name))}
    files = []
    for number in range(max(numbers, default=0) + 1):
        name = f"params_layer_{number}.safetensors"
        file = location.find(name) if number in numbers else None
        if file is None:
            raise FileNotFoundError(f"{location} must contain a file of each layer from 0, but {name} is missing.")
        files.append(file)
    return files


def read(
    files: Sequence[Path],
    config: Mapping[str, Any],
    *,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> CrossLayerDistiller:
    """Reads a cross-layer transcoder.

    Args:
        files: The file of each layer, in order.
        config: The configuration; empty without one.
        device: Device of the weights.
        dtype: Type of the weights.

    Raises:
        StorageError: If a file is broken, or files don't fit together.

    Source: ``load_gemma_scope_2_clt`` in ``circuit_tracer/transcoder/cross_layer_transcoder.py`` of circuit-tracer
    0.5.0, which leaves out the last layer.
    """
    layers, ratios = [], []
    for index, file in enumerate(files):
        layer, ratio = _read_layer(file, index, len(files))
        layers.append(layer)
        ratios.append(ratio)
    if any(ratios):
        checks.warn(
            f"{files[0].parent} contains decoder weights for layers before the layer of their latents, whose norm is "
            f"up to {max(ratios):.2g} of the norm of the other weights of a layer. They are left out, because a "
            "CrossLayerDistiller writes to later layers only. circuit-tracer leaves them out too."
        )
    known = {"model": config.get("model_name"), "cfg": dict(config)}
    trained_on = {"library": "Gemma Scope", **{k: v for k, v in known.items() if v}}
    return cross_layer(layers, files, may_be_negative=True, trained_on=trained_on, device=device, dtype=dtype)


def _read_layer(file: Path, index: int, n_layers: int) -> tuple[LayerWeights, float]:
    """Returns the weights of a layer, and the relative norm of its decoder weights for earlier layers."""
    tensors = read_safetensors(file)
    check_targets(tensors, "w_dec", n_layers, n_layers)
    tensors.sizes["n_layers"] = n_layers
    encoder = tensors.take_transposed("w_enc", "d_model", "n_latents")
    encoder_bias = tensors.take("b_enc", "n_latents")
    decoder = tensors.take("w_dec", "n_latents", "n_layers", "d_model")
    decoder_bias = tensors.take("b_dec", "d_model")
    threshold = tensors.take("threshold", "n_latents")
    has_skip = "affine_skip_connection" in tensors
    skip = tensors.take_transposed("affine_skip_connection", "d_model", "d_model") if has_skip else None
    tensors.check_all_used("Gemma Scope")
    named = {"w_enc": encoder, "b_enc": encoder_bias, "w_dec": decoder, "b_dec": decoder_bias}
    check_finite(named | ({} if skip is None else {"affine_skip_connection": skip}), str(file))
    weights = LayerWeights(encoder, encoder_bias, decoder[:, index:].contiguous(), decoder_bias, threshold, skip)
    return weights, _relative_norm(decoder[:, :index], decoder[:, index:])


def _relative_norm(left_out: Tensor, others: Tensor) -> float:
    norm = float(left_out.float().norm())
    return norm / max(float(others.float().norm()), torch.finfo(torch.float32).tiny) if norm else 0.0
