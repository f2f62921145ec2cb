"""The file of a transcoder of one layer in the format of circuit-tracer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict import hub
from sparsedict.activations import ReLU, TopK
from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _build as build
from sparsedict.formats import _cross_layer_files as cross_layer
from sparsedict.formats import gemma_scope
from sparsedict.formats._build import LoadedActivation, Weights
from sparsedict.formats._export import CALIBRATE, exact_form, threshold_of, unsupported
from sparsedict.formats._location import Location
from sparsedict.formats._tensors import Tensors, read_safetensors
from sparsedict.formats._transcoder_set import CONFIG
from sparsedict.storage import StorageError

THRESHOLD = "activation_function.threshold"


def read_layer(
    location: Location,
    name: str,
    config: dict[str, Any],
    layer: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Dictionary:
    """Reads the file of one layer.

    Args:
        location: The folder.
        name: Name or address of the file.
        config: The configuration of the set, which may be empty.
        layer: Number of the layer.
        device: Device of the weights.
        dtype: Type of the weights.

    Raises:
        FileNotFoundError: If the file is missing.
        StorageError: If the file is broken, or is only a part of a cross-layer transcoder.
    """
    file = file_of(location, name)
    if file.suffix == ".npz":
        return gemma_scope.read_file(file, {}, kind="distiller", device=device, dtype=dtype)
    tensors = read_safetensors(file)
    if "w_enc" in tensors:
        return gemma_scope.read_file(file, {}, kind="distiller", device=device, dtype=dtype)
    if any(cross_layer.FILE.fullmatch(f"{tensor}.safetensors") for tensor in tensors.shapes):
        raise cross_layer.part_of(Location.from_path(file))
    weights = _weights(tensors)
    loaded = _loaded_activation(tensors, config, location.folder / CONFIG)
    tensors.check_all_used("circuit-tracer", ignored=("k",))
    ends = [str(config[key]) for key in ("feature_input_hook", "feature_output_hook") if config.get(key)]
    known = {"model": config.get("model_name"), "site": " -> ".join(ends) or None, "layer": layer}
    trained_on = {"library": "circuit-tracer", **{k: v for k, v in known.items() if v is not None}}
    plain = {key: value for key, value in config.items() if value is None or isinstance(value, str | int | float)}
    return build.distiller(weights, loaded, file, trained_on=trained_on | {"cfg": plain}, device=device, dtype=dtype)


def _weights(tensors: Tensors) -> Weights:
    bias = tensors.take("b_enc", "n_latents")
    decoder_bias = tensors.take("b_dec", "d_model")
    sizes = (tensors.sizes["n_latents"], tensors.sizes["d_model"])
    # Files of mid-2025 contain the transposed decoder. Files converted from other libraries also transpose the encoder.
    turned = {name for name in ("W_enc", "W_dec") if tensors.shapes.get(name) == sizes[::-1] != sizes}
    encoder, decoder = (
        tensors.take_transposed(name, "d_model", "n_latents")
        if name in turned
        else tensors.take(name, "n_latents", "d_model")
        for name in ("W_enc", "W_dec")
    )
    return Weights(encoder, bias, decoder, decoder_bias, skip=tensors.take_optional("W_skip", "d_model", "d_model"))


def _loaded_activation(tensors: Tensors, config: dict[str, Any], config_file: Path) -> LoadedActivation:
    if THRESHOLD in tensors:
        number = tensors.shapes[THRESHOLD] in ((), (1,))
        threshold = tensors.take(THRESHOLD, *(("one",) * len(tensors.shapes[THRESHOLD]) if number else ("n_latents",)))
        each = threshold.reshape(-1).expand(tensors.sizes["n_latents"]).clone() if number else threshold
        return build.jump_relu(each, tensors.file, may_be_negative=False)
    name = str(config.get("activation") or "relu").lower().replace("_", "")
    if name == "topk":
        return LoadedActivation(TopK(build.integer(config, "k", config_file)))
    if name == "relu":
        return LoadedActivation(ReLU())
    raise StorageError(
        f"{config_file}: `activation` must be relu or topk if {tensors.file.name} has no {THRESHOLD!r}, got "
        f"{name[:80]!r}."
    )


def tensors_of(dictionary: Dictionary) -> dict[str, Tensor]:
    """Returns the tensors of the file of a distiller, by name.

    Raises:
        TypeError: If the dictionary isn't a distiller.
        ValueError: If circuit-tracer doesn't support its activation, normalisation or widths.
    """
    form = exact_form(dictionary, "circuit-tracer")
    if not form.is_distiller:
        raise TypeError(
            "`dictionary` must be a distiller such as SparseDistiller, because circuit-tracer replaces MLPs, got "
            f"{type(dictionary).__name__}."
        )
    d_in, d_out = form.encoder.shape[1], form.decoder.shape[1]
    if d_in != d_out:
        raise unsupported(f"widths d_in={d_in} and d_out={d_out}", "circuit-tracer", ("equal widths",))
    if form.input_norm is not None:
        raise unsupported(f"the normalisation {form.input_norm}", "circuit-tracer", ("unnormalised inputs",))
    threshold = threshold_of(form)
    if threshold is None and not isinstance(form.activation, ReLU | TopK):
        remedy = CALIBRATE if form.activation.non_negative else ""
        raise unsupported(f"the activation {form.activation}", "circuit-tracer", ("ReLU, JumpReLU and TopK",), remedy)
    named = {"W_enc": form.encoder, "W_dec": form.decoder, "b_enc": form.encoder_bias, "b_dec": form.decoder_bias}
    optional = {"W_skip": form.skip, THRESHOLD: threshold}
    return named | {name: tensor for name, tensor in optional.items() if tensor is not None}


def file_of(location: Location, name: str) -> Path:
    """Returns the path of a file in a folder, or of a file at an address on the hub, which is downloaded."""
    if hub.is_address(name):
        location = Location.from_path(address_of(name))
        if location.file_name is None:
            raise StorageError(f"{CONFIG} must list weights files, but {location} is a folder.")
        name = location.file_name
    file = location.find(name)
    if file is None:
        raise FileNotFoundError(f"{location} must contain {name[:200]}.")
    return file


def address_of(name: str) -> str:
    """Converts an address of circuit-tracer, with the revision in a URL query, to an address of this library."""
    path, _, revision = name.partition("?revision=")
    return f"{path}@{revision}" if revision else path
