"""Llamascopium's cross-layer transcoders: a folder with ``config.json`` and ``sae_weights.safetensors``."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch

from sparsedict.activations import Activation, PerLayer, TopK
from sparsedict.dictionaries import CrossLayerDistiller
from sparsedict.formats import _build as build
from sparsedict.formats._layer_weights import LayerWeights, cross_layer
from sparsedict.formats._location import Location
from sparsedict.formats._tensors import Tensors, read_safetensors
from sparsedict.storage import StorageError

CONFIG = "config.json"
WEIGHTS = "sae_weights.safetensors"
KIND = "clt"
SCALE = "dataset_average_activation_norm."
THRESHOLD = "activation_function.log_jumprelu_threshold"


def recognises(location: Location) -> bool:
    """Returns whether the files are in the format of Llamascopium."""
    return location.file_name in (None, CONFIG, WEIGHTS) and location.holds(CONFIG) and location.holds(WEIGHTS)


def read(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> CrossLayerDistiller:
    """Reads a cross-layer transcoder of Llamascopium for unscaled activations of the model.

    The layers are named ``"0"``, ``"1"`` and so on. ``norm_activation="dataset-wise"`` scales activations to an average
    norm of ``sqrt(d_model)``. These scales are folded into the encoder and the decoder. Llamascopium selects latents by
    their value times the norm of their whole decoder row, so these norms are folded into the encoder: a latent is
    larger by this norm, and its contribution is the same.

    Args:
        path: The folder, or one of its two files.
        device: Device of the weights. The CPU by default.
        dtype: Type of the weights. By default the type in the file, but at least float32 with JumpReLU.

    Raises:
        FileNotFoundError: If a file is missing.
        StorageError: If a file is broken, or the kind, activation or normalisation isn't supported. Its BatchTopK
            activations depend on the other tokens of a batch and have no stored threshold.

    Source: ``models/clt.py`` and ``models/sparse_dictionary.py`` of llamascopium 2.0.0b34.
    """
    location = Location.from_path(path)
    cfg, cfg_file = location.cfg(CONFIG, "Llamascopium"), location.folder / CONFIG
    if cfg.get("sae_type") != KIND:
        raise StorageError(
            f"{cfg_file}: `sae_type` must be {KIND!r}, a cross-layer transcoder, got {str(cfg.get('sae_type'))[:80]!r}."
        )
    points = [_points(cfg, name, cfg_file) for name in ("hook_points_in", "hook_points_out")]
    if len(points[0]) != len(points[1]):
        raise StorageError(f"{cfg_file}: `hook_points_in` and `hook_points_out` must have as many entries.")
    weights = location.find(WEIGHTS)
    if weights is None:
        raise FileNotFoundError(f"{location.path_of(None)} must contain the weights file {WEIGHTS}.")
    tensors = read_safetensors(weights)
    activation, has_threshold = _activation(cfg, cfg_file)
    scales = [_scales(tensors, cfg, own, cfg_file) for own in points]
    layers = _layers(tensors, *scales, has_threshold=has_threshold, gated=_is_gated(cfg, cfg_file))
    tensors.check_all_used("Llamascopium")
    return cross_layer(
        layers,
        [tensors.file] * len(layers),
        may_be_negative=False,
        trained_on={"library": "Llamascopium", "cfg": cfg},
        device=device,
        dtype=dtype,
        activation=activation,
    )


def _is_gated(cfg: dict[str, Any], file: Path) -> bool:
    return build.flag(cfg, "sparsity_include_decoder_norm", file, True)


def _points(cfg: dict[str, Any], name: str, file: Path) -> list[str]:
    found = cfg.get(name)
    if not isinstance(found, list) or not found or not all(isinstance(point, str) for point in found):
        raise StorageError(
            f"{file}: `{name}` must be a list with the name of a point for each layer, got {found!r:.80}."
        )
    return found


def _activation(cfg: dict[str, Any], file: Path) -> tuple[Activation | None, bool]:
    """Returns the activation if it selects latents, and whether there are thresholds."""
    name = str(cfg.get("act_fn", "relu")).lower()
    if name in ("relu", "jumprelu"):
        return None, name == "jumprelu"
    if name in ("topk", "layertopk"):
        selected = TopK(build.integer(cfg, "top_k", file))
        return PerLayer(selected) if name == "topk" else selected, False
    raise StorageError(
        f"{file}: `act_fn` must be relu, jumprelu, topk or layertopk, got {name[:80]!r}. The file has no threshold of "
        "a BatchTopK. Convert it to JumpReLU in Llamascopium first."
    )


def _scales(tensors: Tensors, cfg: dict[str, Any], points: list[str], file: Path) -> list[float]:
    """Returns the factor by which the activations of each point were scaled in training."""
    kind = cfg.get("norm_activation", "dataset-wise")
    if kind not in ("inference", "dataset-wise"):
        raise StorageError(f"{file}: `norm_activation` must be dataset-wise or inference, got {str(kind)[:80]!r}.")
    found = []
    for point in points:
        # The sizes are also in files whose scales are already part of the weights.
        norm = tensors.number(SCALE + point)
        if kind == "inference":
            found.append(1.0)
            continue
        if norm is None or not (math.isfinite(norm) and norm > 0):
            raise StorageError(f"{tensors.file}: `{SCALE}{point}` must be a positive number, got {norm}.")
        found.append(math.sqrt(build.integer(cfg, "d_model", file)) / norm)
    return found


def _layers(
    tensors: Tensors, scales_in: list[float], scales_out: list[float], *, has_threshold: bool, gated: bool
) -> list[LayerWeights]:
    """Returns the weights of each layer for unscaled activations."""
    n_layers = tensors.sizes["n_layers"] = len(scales_in)
    encoder, bias = (
        tensors.take("W_E", "n_layers", "d_model", "n_latents"),
        tensors.take("b_E", "n_layers", "n_latents"),
    )
    threshold = tensors.take(THRESHOLD, "n_layers", "n_latents") if has_threshold else None
    # W_D.j contains the rows of layers 0 to j for layer j.
    by_target = []
    for target in range(n_layers):
        tensors.sizes[f"sources of {target}"] = target + 1
        by_target.append(tensors.take(f"W_D.{target}", f"sources of {target}", "n_latents", "d_model"))
    biases = [tensors.take(f"b_D.{target}", "d_model") for target in range(n_layers)]
    layers = []
    for source in range(n_layers):
        rows = torch.stack([by_target[target][source] for target in range(source, n_layers)], dim=1)
        norms = torch.linalg.vector_norm(rows.flatten(1).float(), dim=-1).to(rows.dtype)
        divisor = norms if gated else torch.ones_like(norms)
        # A row of zeros stays a row of zeros.
        own = torch.where(divisor > 0, divisor, torch.ones_like(divisor))[:, None, None]
        factors = rows.new_tensor(scales_out[source:])[None, :, None]
        layers.append(
            LayerWeights(
                encoder[source].mT.contiguous() * (scales_in[source] * divisor[:, None]),
                bias[source] * divisor,
                rows / (own * factors),
                biases[source] / scales_out[source],
                None if threshold is None else threshold[source].float().exp(),
            )
        )
    return layers
