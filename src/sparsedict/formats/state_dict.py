"""State dicts of hand-written autoencoders and transcoders: an encoder, a decoder and biases under common names."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation, JumpReLU
from sparsedict.dictionaries import Dictionary, InputOffset
from sparsedict.formats import _made as made
from sparsedict.formats._made import Learned, Weights
from sparsedict.formats._pickles import read_pickle
from sparsedict.formats._place import Place, listed
from sparsedict.formats._recognised import formats
from sparsedict.formats._tensors import Tensors, read_safetensors
from sparsedict.storage import DESCRIPTION, StorageError

SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")

_NAMES = {
    "encoder": ("encoder.weight", "W_enc", "enc.weight", "encoder", "W_E"),
    "decoder": ("decoder.weight", "W_dec", "dec.weight", "decoder", "W_D"),
    "encoder_bias": ("encoder.bias", "b_enc", "enc.bias", "encoder_bias", "b_E", "latent_bias"),
    "decoder_bias": ("decoder.bias", "b_dec", "dec.bias", "decoder_bias", "b_D", "bias", "pre_bias"),
    "threshold": ("threshold",),
    "log_threshold": ("log_threshold",),
}
"""What weights are called in state dicts, the likeliest first."""


FROM_WEIGHTS = "`from_weights` of `sd.SparseAutoencoder` and of `sd.SparseDistiller` makes a dictionary of any weights."
"""The remedy for weights under other names."""


def recognises(place: Place) -> bool:
    """Whether the file is a state dict with an encoder and a decoder, and no library's."""
    if place.named is None or place.suffix not in SUFFIXES or place.holds(DESCRIPTION):
        return False
    if any(other.recognises(place) for other in formats() if other is not sys.modules[__name__]):
        return False
    try:
        found = _found(open_file(place.weights(place.named, suffix=place.suffix)))
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
    """Reads weights under common names, either way round: ``encoder.weight``, ``W_enc``, ``b_enc`` and so on.

    The biases tell which dimension of a matrix is the latents'. Such a file doesn't say what the weights compute: the
    caller does. A state dict wrapped one level, ``{"state_dict": ...}``, is unwrapped.

    Args:
        path: The file: ``.pt``, ``.pth``, ``.bin`` or ``.safetensors``.
        activation: How pre-activations become latents, such as ``sd.TopK(32)``.
        input_offset: Of an autoencoder: ``"decoder_bias"`` where it encodes the input less the decoder's bias,
            ``"none"`` where it encodes the input as it is.
        kind: What to make of it.
        activation_state: What the activation learned, by name; a ``threshold`` in the file is taken for a JumpReLU.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; as in the file where left out.

    Raises:
        FileNotFoundError: If the file is missing.
        TypeError: If ``activation`` isn't one.
        ValueError: If ``kind`` or ``input_offset`` is none of these, or the latter is given for a distiller.
        StorageError: If it is broken, names other tensors, leaves the orientation open, or an argument is missing.
    """
    place = Place.of(path)
    if place.named is None:
        raise FileNotFoundError(f"`path` must be a file of weights, but {place} is a folder.")
    _check_arguments(activation, input_offset, kind)
    tensors = open_file(place.weights(place.named, suffix=place.suffix))
    _check_said(tensors.file, activation, input_offset, kind)
    assert activation is not None
    weights, learned = _weights(tensors, activation, activation_state or {})
    about = {"trained_on": {"library": "state dict"}, "device": device, "dtype": dtype}
    if kind == "distiller":
        return made.distiller(weights, learned, tensors.file, **about)
    assert input_offset is not None
    return made.autoencoder(weights, learned, tensors.file, offset=input_offset, **about)


def open_file(file: Path) -> Tensors:
    """Opens a file of weights; nothing in a pickle is run."""
    return read_safetensors(file) if file.suffix == ".safetensors" else read_pickle(file)


def _check_arguments(activation: object, offset: str | None, kind: str) -> None:
    if activation is not None and not isinstance(activation, Activation):
        raise TypeError(f"`activation` must be one such as sd.TopK(32), got {activation!r:.80}.")
    checks.one_of("kind", kind, ("autoencoder", "distiller"))
    if offset is not None:
        checks.one_of("input_offset", offset, get_args(InputOffset))
        if kind == "distiller":
            raise ValueError("`input_offset` must be left out for a distiller, which encodes its input as it is.")


def _check_said(file: Path, activation: Activation | None, offset: InputOffset | None, kind: str) -> None:
    missing = {} if activation is not None else {"activation": "sd.TopK(k=32)"}
    missing |= {"input_offset": "'decoder_bias'"} if offset is None and kind == "autoencoder" else {}
    if missing:
        arguments = ", ".join(f"{name}={value}" for name, value in missing.items())
        raise StorageError(
            f"{file} holds weights of an encoder and a decoder, and nothing in it says what they compute. Say so: "
            f"`sd.formats.state_dict.read(path, {arguments})`; `kind='distiller'` makes a transcoder. {FROM_WEIGHTS} "
            "dictionary_learning's AutoEncoderNew is read by `sd.formats.dictionary_learning.read(path)`."
        )


def _found(tensors: Tensors) -> dict[str, str]:
    """Returns the file's name of each weight, whatever comes before all names."""
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


def _weights(tensors: Tensors, activation: Activation, given: Mapping[str, Tensor]) -> tuple[Weights, Learned]:
    found = _found(tensors)
    missing = [role for role in ("encoder", "decoder") if role not in found]
    if missing:
        raise StorageError(
            f"{tensors.file} has no {' and no '.join(missing)} by a common name, but "
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
                f"{tensors.file}: `{found[role]}` must be a matrix with one dimension of the latents, which its biases "
                f"tell, got shape {shape}. Give the weights by hand: `sd.SparseAutoencoder.from_weights(...)`."
            )
    turned = {role: _latent_major(tensors, found[role], n_latents) for role in ("encoder", "decoder")}
    bias = one.get("decoder_bias")
    bias = turned["decoder"].new_zeros(turned["decoder"].shape[1]) if bias is None else bias
    learned = _learned(tensors, found, activation, given)
    if tensors.left():
        raise StorageError(
            f"{tensors.file} holds more than an encoder, a decoder, their biases and a threshold: "
            f"{listed(tensors.left())}. {FROM_WEIGHTS}"
        )
    return Weights(turned["encoder"], one.get("encoder_bias"), turned["decoder"], bias), learned


def _latent_major(tensors: Tensors, name: str, n_latents: int | None) -> Tensor:
    is_turned = tensors.shapes[name][0] != n_latents
    other = f"width of {name}"
    return tensors.take_turned(name, other, "n_latents") if is_turned else tensors.take(name, "n_latents", other)


def _learned(
    tensors: Tensors, found: Mapping[str, str], activation: Activation, given: Mapping[str, Tensor]
) -> Learned:
    name = next((name for name in ("threshold", "log_threshold") if name in found), None)
    if name is None or not isinstance(activation, JumpReLU) or given:
        return Learned(activation, given)
    stored = made.jump_relu(tensors.take(found[name], "n_latents"), tensors.file, log=name == "log_threshold")
    return Learned(activation, stored.state)
