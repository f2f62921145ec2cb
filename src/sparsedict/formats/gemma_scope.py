"""Gemma Scope: ``params.npz`` (1) or ``params.safetensors`` (2), all with JumpReLU."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

import torch

from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _made as made
from sparsedict.formats._made import Weights
from sparsedict.formats._place import Place, listed
from sparsedict.formats._tensors import Tensors, read_npz, read_safetensors
from sparsedict.storage import StorageError
from sparsedict.types import Role

WEIGHTS = ("params.npz", "params.safetensors")
CONFIG = "config.json"

_OF_SEVERAL_LAYERS = re.compile(r"params_layer_\d{1,5}\.safetensors")
_NAMES = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold", "affine_skip_connection")


def recognises(place: Place) -> bool:
    """Whether the files are Gemma Scope's."""
    if _is_of_several_layers(place):
        return True
    if place.named is None:
        return place.holds(*WEIGHTS) or bool(place.inner(*WEIGHTS, depth=3))
    return place.named in WEIGHTS or place.suffix == ".npz" or (place.suffix == ".safetensors" and _has_names(place))


def read(
    path: str | os.PathLike[str],
    *,
    kind: Literal["autoencoder", "distiller"] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads a JumpReLU autoencoder or transcoder of Gemma Scope.

    ``latents = p * (p > threshold)`` of ``p = max(x @ encoder.T + encoder_bias, 0)``; no offset of the input. A
    transcoder reads the MLP's normalised input.

    Args:
        path: The folder, or its file of parameters.
        kind: What to make of it. Where left out, a distiller if it has a skip or another width of output, or the
            configuration or the path says that it is a transcoder; else an autoencoder. Both compute the same.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; where left out as in the file, but at least single precision.

    Raises:
        FileNotFoundError: If a file is missing, or the folder is one of several dictionaries.
        StorageError: If a file is broken, or part of a cross-layer transcoder or a crosscoder.
    """
    place = Place.of(path)
    if _is_of_several_layers(place):
        raise StorageError(
            f"{place} is a cross-layer transcoder or a crosscoder, or a part of one, with a file for each layer: there "
            "is no kind of dictionary for them here yet."
        )
    place.check_is_one(*WEIGHTS, what="dictionaries", depth=3)
    file = place.weights(*WEIGHTS, suffix=place.suffix if place.suffix in (".npz", ".safetensors") else ".")
    return read_file(file, place.json(CONFIG) or {}, kind=kind, device=device, dtype=dtype)


def read_file(
    file: Path, config: dict[str, Any], *, kind: Literal["autoencoder", "distiller"] | None = None, **rest: Any
) -> Dictionary:
    """Reads one file of parameters; ``rest`` is where to put them and in what type."""
    tensors = _lower_case(read_npz(file) if file.suffix == ".npz" else read_safetensors(file))
    if len(tensors.shapes.get("w_dec", ())) == 3:
        raise StorageError(
            f"{file} holds a cross-layer transcoder, which writes to {tensors.shapes['w_dec'][1]} layers: there is no "
            "kind of dictionary for it here yet."
        )
    has_skip = "affine_skip_connection" in tensors
    weights = Weights(
        tensors.take_turned("w_enc", "d_in", "n_latents"),
        tensors.take("b_enc", "n_latents"),
        tensors.take("w_dec", "n_latents", "d_out"),
        tensors.take("b_dec", "d_out"),
        skip=tensors.take_turned("affine_skip_connection", "d_in", "d_out") if has_skip else None,
    )
    learned = made.jump_relu(tensors.take("threshold", "n_latents"), file)
    tensors.finish("Gemma Scope")
    known = {"model": config.get("model_name"), "site": config.get("hf_hook_point_in")}
    about = {"trained_on": {"library": "Gemma Scope", **{k: v for k, v in known.items() if v}, "cfg": config}, **rest}
    if (kind or _kind(tensors, config)) == "distiller":
        return made.distiller(weights, learned, file, **about)
    return made.autoencoder(weights, learned, file, offset="none", reads=_reads(config), **about)


def _lower_case(tensors: Tensors) -> Tensors:
    """Names tensors as the second release does."""
    names = {name.lower(): name for name in tensors.shapes}
    if len(names) < len(tensors.shapes):
        raise StorageError(f"{tensors.file} holds one name twice: {listed(sorted(tensors.shapes))}.")
    shapes = {lower: tensors.shapes[name] for lower, name in names.items()}
    return Tensors(tensors.file, shapes, lambda lower: tensors.read(names[lower]), mapped=tensors.mapped)


def _kind(tensors: Tensors, config: dict[str, Any]) -> Literal["autoencoder", "distiller"]:
    out = config.get("hf_hook_point_out")
    elsewhere = bool(out) and out != config.get("hf_hook_point_in")
    says_so = elsewhere or "transcoder" in str(tensors.file.absolute()).lower()
    differs = tensors.sizes["d_in"] != tensors.sizes["d_out"]
    return "distiller" if says_so or differs or "affine_skip_connection" in tensors else "autoencoder"


def _reads(config: dict[str, Any]) -> Role:
    return "inputs" if "pre_feedforward" in str(config.get("hf_hook_point_in")) else "outputs"


def _is_of_several_layers(place: Place) -> bool:
    """Whether the second release's name for a part of what reads or writes several layers is there."""
    names = place.entries() if place.named is None else [place.named]
    return not place.holds(*WEIGHTS) and any(map(_OF_SEVERAL_LAYERS.fullmatch, names))


def _has_names(place: Place) -> bool:
    try:
        names = read_safetensors(place.weights(suffix=".safetensors")).shapes.keys()
    except (StorageError, FileNotFoundError):
        return False
    return {"w_enc", "threshold"} <= names <= set(_NAMES)
