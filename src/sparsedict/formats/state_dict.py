"""State dicts of custom autoencoders and transcoders, with weights under common names."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation, BatchTopK, JumpReLU
from sparsedict.dictionaries import Dictionary, InputOffset
from sparsedict.formats import _build as build
from sparsedict.formats._build import LoadedActivation, Weights
from sparsedict.formats._format import formats
from sparsedict.formats._location import Location, listed
from sparsedict.formats._pickles import read_pickle
from sparsedict.formats._tensors import Tensors, read_npz, read_safetensors
from sparsedict.storage import DESCRIPTION, StorageError

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".npz")

_NAMES = {
    "encoder": ("encoder.weight", "W_enc", "enc.weight", "encoder", "W_E"),
    "decoder": ("decoder.weight", "W_dec", "dec.weight", "decoder", "W_D"),
    "encoder_bias": ("encoder.bias", "b_enc", "enc.bias", "encoder_bias", "b_E", "latent_bias"),
    "decoder_bias": ("decoder.bias", "b_dec", "dec.bias", "decoder_bias", "b_D", "bias", "pre_bias"),
    "threshold": ("threshold",),
    "log_threshold": ("log_threshold",),
}
"""Common names of each weight in state dicts, the most common first."""


FROM_WEIGHTS = (
    "`sd.SparseAutoencoder.from_weights` and `sd.SparseDistiller.from_weights` construct a dictionary from any weights."
)
"""Remedy in errors for weights with other names."""


def recognises(location: Location) -> bool:
    """Returns whether the file is a state dict with an encoder and a decoder, and in no other known format."""
    if location.file_name is None or location.suffix not in SUFFIXES or location.holds(DESCRIPTION):
        return False
    if any(other.recognises(location) for other in formats() if other is not sys.modules[__name__]):
        return False
    try:
        found = _find_names(open_file(location.weights(location.file_name, suffix=location.suffix)))
    except (StorageError, FileNotFoundError):
        return False
    return {"encoder", "decoder"} <= found.keys()


def read(
    path: str | os.PathLike[str],
    *,
    activation: Activation | None = None,
    input_offset: InputOffset | None = None,
    kind: Literal["autoencoder", "distiller"] = "autoencoder",
    activation_state: Mapping[str, Tensor] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads weights with common names, such as ``encoder.weight``, ``W_enc`` or ``b_enc``, in either orientation.

    The sizes of the biases determine which dimension of a matrix is that of the latents. The file doesn't contain the
    activation or the input offset, so both must be passed. A nested state dict, ``{"state_dict": ...}``, is unwrapped.

    Args:
        path: The file, with the suffix ``.pt``, ``.pth``, ``.ckpt`` (as written by Lightning), ``.bin``,
            ``.safetensors`` or ``.npz``.
        activation: The activation, such as ``sd.TopK(32)``.
        input_offset: For an autoencoder, ``"decoder_bias"`` if it subtracts the decoder bias from its input, or
            ``"none"`` if it doesn't.
        kind: The kind of dictionary to construct.
        activation_state: State of the activation, by name. For JumpReLU and BatchTopK, a ``threshold`` in the file is
            used by default. Without one, JumpReLU and Gated require it.
        device: Device of the weights. The CPU by default.
        dtype: Type of the weights. The type in the file by default.

    Raises:
        FileNotFoundError: If the file is missing.
        TypeError: If ``activation`` isn't an activation.
        ValueError: If ``kind`` or ``input_offset`` is invalid, or if ``input_offset`` is passed for a distiller.
        StorageError: If the file is broken, contains other tensors, or doesn't determine the orientation, or if a
            required argument is missing.
    """
    location = Location.from_path(path)
    if location.file_name is None:
        raise FileNotFoundError(f"`path` must be a weights file, but {location} is a folder.")
    _check_arguments(activation, input_offset, kind)
    tensors = open_file(location.weights(location.file_name, suffix=location.suffix))
    _check_required(tensors.file, activation, input_offset, kind)
    assert activation is not None
    weights, loaded = _weights(tensors, activation, activation_state or {})
    about = {"trained_on": {"library": "state dict"}, "device": device, "dtype": dtype}
    if kind == "distiller":
        return build.distiller(weights, loaded, tensors.file, **about)
    assert input_offset is not None
    return build.autoencoder(weights, loaded, tensors.file, offset=input_offset, **about)


def open_file(file: Path) -> Tensors:
    """Opens a weights file. Code in a pickle is never executed."""
    if file.suffix == ".npz":
        return read_npz(file)
    return read_safetensors(file) if file.suffix == ".safetensors" else read_pickle(file)


def _check_arguments(activation: object, offset: str | None, kind: str) -> None:
    if activation is not None and not isinstance(activation, Activation):
        raise TypeError(f"`activation` must be an activation such as sd.TopK(32), got {activation!r:.80}.")
    checks.one_of("kind", kind, ("autoencoder", "distiller"))
    if offset is not None:
        checks.one_of("input_offset", offset, get_args(InputOffset))
        if kind == "distiller":
            raise ValueError("`input_offset` must be left out for a distiller, which doesn't offset its input.")


def _check_required(file: Path, activation: Activation | None, offset: InputOffset | None, kind: str) -> None:
    missing = {} if activation is not None else {"activation": "sd.TopK(k=32)"}
    missing |= {"input_offset": "'decoder_bias'"} if offset is None and kind == "autoencoder" else {}
    if missing:
        arguments = ", ".join(f"{name}={value}" for name, value in missing.items())
        raise StorageError(
            f"{file} contains an encoder and a decoder, but not {' and '.join(f'`{name}`' for name in missing)}. Pass "
            f"the missing arguments: `sd.formats.state_dict.read(path, {arguments})`, with `kind='distiller'` for a "
            f"transcoder. {FROM_WEIGHTS} An AutoEncoderNew of dictionary_learning is read with "
            "`sd.formats.dictionary_learning.read(path)`."
        )


def _find_names(tensors: Tensors) -> dict[str, str]:
    """Returns the name of each weight in the file. A common prefix of all names is ignored."""
    names = sorted(tensors.shapes)
    if not names:
        return {}
    first = names[0].split(".")
    shared = 0
    while all(name.split(".")[: shared + 1] == first[: shared + 1] for name in names) and shared < len(first) - 1:
        shared += 1
    bare = {".".join(name.split(".")[shared:]): name for name in names}
    return {
        role: bare[known]
        for role, several in _NAMES.items()
        if (known := next((n for n in several if n in bare), None))
    }


def _weights(tensors: Tensors, activation: Activation, given: Mapping[str, Tensor]) -> tuple[Weights, LoadedActivation]:
    found = _find_names(tensors)
    missing = [role for role in ("encoder", "decoder") if role not in found]
    if missing:
        raise StorageError(
            f"{tensors.file} must contain {' and '.join(missing)} under a common name, got "
            f"{listed(sorted(tensors.shapes))}. {FROM_WEIGHTS}"
        )
    one = {role: tensors.take(found[role], role) for role in ("encoder_bias", "decoder_bias") if role in found}
    n_latents = len(one["encoder_bias"]) if "encoder_bias" in one else None
    d_out = len(one["decoder_bias"]) if "decoder_bias" in one else None
    encoder, decoder = (tensors.shapes[found[role]] for role in ("encoder", "decoder"))
    if n_latents is None and d_out is not None:
        others = [size for size in decoder if size != d_out]
        n_latents = others[0] if len(others) == 1 else None
    for role, shape in (("encoder", encoder), ("decoder", decoder)):
        if len(shape) != 2 or n_latents is None or shape.count(n_latents) != 1:
            raise StorageError(
                f"{tensors.file}: `{found[role]}` must be a matrix, and the biases must determine which of its "
                f"dimensions is the number of latents, got shape {shape}. Pass the weights to "
                "`sd.SparseAutoencoder.from_weights(...)` instead."
            )
    turned = {role: _latent_major(tensors, found[role], n_latents) for role in ("encoder", "decoder")}
    bias = one.get("decoder_bias")
    bias = turned["decoder"].new_zeros(turned["decoder"].shape[1]) if bias is None else bias
    loaded = _loaded_activation(tensors, found, activation, given)
    if tensors.unused():
        raise StorageError(
            f"{tensors.file} must contain an encoder, a decoder, their biases and a threshold only, but it also "
            f"contains {listed(tensors.unused())}. {FROM_WEIGHTS}"
        )
    return Weights(turned["encoder"], one.get("encoder_bias"), turned["decoder"], bias), loaded


def _latent_major(tensors: Tensors, name: str, n_latents: int | None) -> Tensor:
    is_turned = tensors.shapes[name][0] != n_latents
    other = f"width of {name}"
    return tensors.take_transposed(name, other, "n_latents") if is_turned else tensors.take(name, "n_latents", other)


def _loaded_activation(
    tensors: Tensors, found: Mapping[str, str], activation: Activation, given: Mapping[str, Tensor]
) -> LoadedActivation:
    name = next((found[role] for role in ("threshold", "log_threshold") if role in found), None)
    if name is None:
        return LoadedActivation(activation, given)
    if not isinstance(activation, JumpReLU | BatchTopK):
        raise StorageError(
            f"{tensors.file} contains {name!r}, but {activation!r} has no threshold. Pass `activation=sd.JumpReLU()`, "
            f"or `sd.BatchTopK(k)` if all latents have the same threshold. {FROM_WEIGHTS}"
        )
    is_single = math.prod(tensors.shapes[name]) == 1
    stored = tensors.take(name, *(("one",) * len(tensors.shapes[name]) if is_single else ("n_latents",)))
    if given:
        return LoadedActivation(activation, given)
    is_log = name == found.get("log_threshold")
    if isinstance(activation, JumpReLU):
        wide = stored.to(torch.promote_types(stored.dtype, torch.float32))
        logs = (wide if is_log else wide.clamp_min(0).log()).reshape(-1).expand(tensors.sizes["n_latents"])
        state = {"log_threshold": logs} if activation.learns == "logarithm" else activation.state_of(logs.exp())
        return LoadedActivation(activation, state)
    if not is_single:
        raise StorageError(
            f"{tensors.file}: `{name}` must be one number for {activation!r}, got shape {tensors.shapes[name]}. Pass "
            "`activation=sd.JumpReLU()`, which has a threshold for each latent, or "
            '`activation_state={"threshold": ...}`.'
        )
    return LoadedActivation(activation, {"threshold": (stored.exp() if is_log else stored).reshape(())})
