"""Gemma Scope: dictionaries with JumpReLU, in ``params.npz`` (release 1) or ``params.safetensors`` (release 2).

A cross-layer transcoder of release 2 has ``params_layer_{i}.safetensors`` for each layer.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch

from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _build as build
from sparsedict.formats import _gemma_scope_layers as cross_layer
from sparsedict.formats._build import Weights
from sparsedict.formats._location import Location, listed
from sparsedict.formats._tensors import Tensors, read_npz, read_safetensors
from sparsedict.storage import StorageError
from sparsedict.types import Role

WEIGHTS = ("params.npz", "params.safetensors")
CONFIG = "config.json"

_NAMES = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold", "affine_skip_connection")


def recognises(location: Location) -> bool:
    """Returns whether the files are in the format of Gemma Scope."""
    if _is_of_several_layers(location):
        return True
    if location.file_name is None:
        return location.holds(*WEIGHTS) or bool(location.subfolders(*WEIGHTS, depth=3))
    return location.file_name in WEIGHTS or (location.suffix in (".npz", ".safetensors") and _has_names(location))


def read(
    path: str | os.PathLike[str],
    *,
    kind: Literal["autoencoder", "distiller"] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads a JumpReLU autoencoder, transcoder or cross-layer transcoder of Gemma Scope.

    The latents are ``p * (p > threshold)`` with ``p = max(x @ encoder.T + encoder_bias, 0)``. The input has no offset.
    A transcoder reads the normalised input of the MLP. A cross-layer transcoder becomes a `CrossLayerDistiller` with
    layers ``"0"``, ``"1"`` and so on. Decoder weights for layers before the layer of a latent are left out with a
    warning, unless they are zero.

    Args:
        path: The folder, or its parameter file. For a cross-layer transcoder, the folder.
        kind: The kind of dictionary to construct. By default a distiller if there is a skip connection, if the widths
            of input and output differ, or if configuration or path indicate a transcoder; otherwise an autoencoder.
            Both kinds have the same forward pass.
        device: Device of the weights. The CPU by default.
        dtype: Type of the weights. By default the type in the file, but at least float32.

    Raises:
        FileNotFoundError: If a file is missing, or the folder contains several dictionaries.
        StorageError: If a file is broken, belongs to a crosscoder, or is only a part of a cross-layer transcoder.
        ValueError: If ``kind`` is ``"autoencoder"`` for a cross-layer transcoder.
    """
    location = Location.from_path(path)
    if _is_of_several_layers(location):
        return _read_cross_layer(location, kind, device, dtype)
    location.check_is_single(*WEIGHTS, what="dictionaries", depth=3)
    file = location.weights(*WEIGHTS, suffix=location.suffix if location.suffix in (".npz", ".safetensors") else ".")
    return read_file(file, location.json(CONFIG) or {}, kind=kind, device=device, dtype=dtype)


def read_file(
    file: Path, config: dict[str, Any], *, kind: Literal["autoencoder", "distiller"] | None = None, **rest: Any
) -> Dictionary:
    """Reads a parameter file. ``rest`` are the arguments ``device`` and ``dtype`` of :func:`read`."""
    tensors = _lower_case(read_npz(file) if file.suffix == ".npz" else read_safetensors(file))
    if len(tensors.shapes.get("w_dec", ())) == 3:
        raise StorageError(
            f"{file} contains one layer of a cross-layer transcoder or a crosscoder, which writes to "
            f"{tensors.shapes['w_dec'][1]} layers. A cross-layer transcoder is read from a folder with a file "
            "params_layer_{i}.safetensors for each layer."
        )
    has_skip = "affine_skip_connection" in tensors
    weights = Weights(
        tensors.take_transposed("w_enc", "d_in", "n_latents"),
        tensors.take("b_enc", "n_latents"),
        tensors.take("w_dec", "n_latents", "d_out"),
        tensors.take("b_dec", "d_out"),
        skip=tensors.take_transposed("affine_skip_connection", "d_in", "d_out") if has_skip else None,
    )
    loaded = build.jump_relu(tensors.take("threshold", "n_latents"), file)
    tensors.check_all_used("Gemma Scope")
    known = {"model": config.get("model_name"), "site": config.get("hf_hook_point_in")}
    about = {"trained_on": {"library": "Gemma Scope", **{k: v for k, v in known.items() if v}, "cfg": config}, **rest}
    if (kind or _kind(tensors, config)) == "distiller":
        return build.distiller(weights, loaded, file, **about)
    return build.autoencoder(weights, loaded, file, offset="none", reads=_reads(config), **about)


def _read_cross_layer(
    location: Location, kind: str | None, device: torch.device | str | None, dtype: torch.dtype | None
) -> Dictionary:
    config = location.json(CONFIG) or {}
    if _is_crosscoder(location, config):
        raise StorageError(
            f"{location} belongs to a crosscoder, which reads and writes the same points. Crosscoders of Gemma Scope "
            "aren't supported yet."
        )
    if location.file_name is not None:
        raise StorageError(
            f"{location} is one layer of a cross-layer transcoder. Read the folder with all layers: "
            f"`sd.load({location.path_of(None)!r})`."
        )
    if kind == "autoencoder":
        raise ValueError(f"`kind` must be 'distiller' or None for the cross-layer transcoder in {location}.")
    return cross_layer.read(cross_layer.files_in(location), config, device=device, dtype=dtype)


def _is_crosscoder(location: Location, config: dict[str, Any]) -> bool:
    """Returns whether the path or the configuration indicates a crosscoder, whose tensors have the same names."""
    if any("crosscoder" in part.lower() for part in location.folder.absolute().parts[-2:]):
        return True
    read, written = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    return bool(read) and written in (None, "", read) and "pre_feedforward" not in str(read)


def _lower_case(tensors: Tensors) -> Tensors:
    """Returns the tensors with lower-case names, as in the second release."""
    names = {name.lower(): name for name in tensors.shapes}
    if len(names) < len(tensors.shapes):
        raise StorageError(
            f"{tensors.file} must not contain names that differ only in case, got {listed(sorted(tensors.shapes))}."
        )
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


def _is_of_several_layers(location: Location) -> bool:
    """Returns whether there are files of a multi-layer dictionary, by their names in the second release."""
    names = location.entries() if location.file_name is None else [location.file_name]
    return not location.holds(*WEIGHTS) and any(map(cross_layer.FILE.fullmatch, names))


def _has_names(location: Location) -> bool:
    try:
        file = location.weights(suffix=location.suffix)
        # Only npz files of the first release have names in upper case.
        names = set(map(str.lower, read_npz(file).shapes)) if file.suffix == ".npz" else read_safetensors(file).shapes
    except (StorageError, FileNotFoundError):
        return False
    return {"w_enc", "threshold"} <= set(names) <= set(_NAMES)
