"""dictionary_learning: a folder with ``ae.pt``, a PyTorch state dict, and often ``config.json``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from sparsedict import checks
from sparsedict.activations import BatchTopK, ReLU, TopK
from sparsedict.dictionaries import Dictionary, InputOffset
from sparsedict.formats import _build as build
from sparsedict.formats._build import LoadedActivation, Weights
from sparsedict.formats._location import Location, listed
from sparsedict.formats._pickles import read_pickle
from sparsedict.formats._tensors import Tensors
from sparsedict.storage import StorageError

WEIGHTS = "ae.pt"
CONFIG = "config.json"

Config = dict[str, Any]


def recognises(location: Location) -> bool:
    """Returns whether the files are in the format of dictionary_learning."""
    if location.file_name is None:
        return location.holds(WEIGHTS) or bool(location.subfolders(WEIGHTS, depth=3))
    return (location.file_name == CONFIG and location.holds(WEIGHTS)) or (
        location.suffix == ".pt" and _has_names(location)
    )


def read(
    path: str | os.PathLike[str],
    *,
    dict_class: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads a dictionary of any of the seven classes of dictionary_learning, with the same forward pass.

    The weights are not changed. In contrast, ``AutoEncoder.from_pretrained`` of the library moves the norms of decoder
    rows into the encoder by default, which changes the scale of latents but not the output. A Matryoshka dictionary has
    all of its groups in order. ``trained_on`` contains the sizes of the groups and the configuration.

    Args:
        path: The folder, or its weights file.
        dict_class: The class, if neither the configuration nor the names of the tensors determine it. For example,
            ``"AutoEncoderTopK"`` and ``"BatchTopKSAE"`` have the same tensors.
        device: Device of the weights. The CPU by default.
        dtype: Type of the weights. By default the type in the file, or float32 if there are thresholds.

    Raises:
        FileNotFoundError: If a file is missing.
        StorageError: If a file is broken, refers to anything but tensors, or isn't of one of these classes.
    """
    location = Location.from_path(path)
    location.check_is_single(WEIGHTS, what="dictionaries", depth=3)
    tensors = read_pickle(location.weights(WEIGHTS, suffix=".pt"))
    config = _config(location)
    name = dict_class or _named_class(config) or _class_of(tensors, location)
    if name not in CLASSES:
        raise StorageError(f"{tensors.file}: the class must be one of {', '.join(CLASSES)}, got {name[:80]!r}.")
    weights, loaded, offset = CLASSES[name](tensors, config)
    groups = tensors.take_any("group_sizes", "n_groups").tolist() if "group_sizes" in tensors else None
    tensors.check_all_used(f"dictionary_learning {name}", ignored=("k", "threshold", "active_groups"))
    known = {"model": config.get("lm_name"), "site": config.get("submodule_name"), "group_sizes": groups}
    trained_on = {"library": "dictionary_learning", "class": name, "cfg": config}
    return build.autoencoder(
        weights,
        loaded,
        tensors.file,
        offset=offset,
        trained_on=trained_on | {key: value for key, value in known.items() if value is not None},
        device=device,
        dtype=dtype,
    )


def _config(location: Location) -> Config:
    """Returns the trainer section of the configuration, in the folder of the weights or above training checkpoints."""
    document = location.json(CONFIG)
    if document is None and location.folder.name == "checkpoints" and location.parent is not None:
        document = location.parent.json(CONFIG)
    trainer = (document or {}).get("trainer")
    return trainer if isinstance(trainer, dict) else {}


def _named_class(config: Config) -> str | None:
    name = config.get("dict_class")
    return None if name is None else str(name).rpartition(".")[2].rstrip("'>")


def _class_of(tensors: Tensors, location: Location) -> str:
    names = set(tensors.shapes)
    if "group_sizes" in names:
        return "MatryoshkaBatchTopKSAE"
    for name, wanted in _KEYS.items():
        if names == wanted:
            return name
    if names - {"k", "threshold"} == _TOP_K_KEYS:
        path = str(location.folder.resolve()).lower() + str(location.file_name or "").lower()
        if "batch" in path and "top" in path:
            return "BatchTopKSAE"
        if "topk" in path or "top_k" in path:
            return "AutoEncoderTopK"
        raise StorageError(
            f"{tensors.file} could be an AutoEncoderTopK or a BatchTopKSAE, which have the same tensors, and there is "
            f"no {CONFIG}. Pass the class: `sd.formats.dictionary_learning.read(path, dict_class='BatchTopKSAE')` or "
            "`dict_class='AutoEncoderTopK'`."
        )
    raise StorageError(
        f"{tensors.file} must contain the tensors of a class of dictionary_learning, got {listed(sorted(names))}."
    )


def _linear(tensors: Tensors, bias: str, *, encoder_bias: bool = True) -> Weights:
    """Returns the weights of two linear layers with matrices ``[n_latents, d_in]`` and ``[d_in, n_latents]``."""
    return Weights(
        tensors.take("encoder.weight", "n_latents", "d_in"),
        tensors.take("encoder.bias", "n_latents") if encoder_bias else None,
        tensors.take_transposed("decoder.weight", "d_in", "n_latents"),
        tensors.take(bias, "d_in"),
    )


def _matrices(tensors: Tensors) -> Weights:
    if "W_enc" not in tensors and "encoder.weight" in tensors:
        return _linear(tensors, "b_dec")
    return Weights(
        tensors.take_transposed("W_enc", "d_in", "n_latents"),
        tensors.take("b_enc", "n_latents"),
        tensors.take("W_dec", "n_latents", "d_in"),
        tensors.take("b_dec", "d_in"),
    )


Read = tuple[Weights, LoadedActivation, InputOffset]


def _plain(tensors: Tensors, config: Config) -> Read:
    return _linear(tensors, "bias"), LoadedActivation(ReLU()), "decoder_bias"


def _new(tensors: Tensors, config: Config) -> Read:
    return _linear(tensors, "decoder.bias"), LoadedActivation(ReLU()), "none"


def _gated(tensors: Tensors, config: Config) -> Read:
    weights = _linear(tensors, "decoder_bias", encoder_bias=False)
    loaded = build.gated(*(tensors.take(name, "n_latents") for name in ("gate_bias", "r_mag", "mag_bias")))
    return weights, loaded, "decoder_bias"


def _jump_relu(tensors: Tensors, config: Config) -> Read:
    weights = _matrices(tensors)
    return weights, build.jump_relu(tensors.take("threshold", "n_latents"), tensors.file), "none"


def _top_k(tensors: Tensors, config: Config) -> Read:
    return _linear(tensors, "b_dec"), LoadedActivation(TopK(_k(tensors, config))), "decoder_bias"


def _batch_top_k(tensors: Tensors, config: Config) -> Read:
    weights = _matrices(tensors)
    threshold = tensors.number("threshold")
    if threshold is None or threshold < 0:
        checks.warn(
            f"{tensors.file}: this BatchTopK has no measured threshold. As in dictionary_learning, every positive "
            "latent fires. Train the dictionary further, or set `dictionary.activation_state.threshold`."
        )
        threshold = -1.0
    beta = config.get("threshold_beta")
    momentum = float(beta) if isinstance(beta, int | float) and 0 <= beta <= 1 else 0.999
    state = {"threshold": build.one_threshold(threshold, tensors.file)}
    loaded = LoadedActivation(BatchTopK(_k(tensors, config), momentum), state)
    return weights, loaded, "decoder_bias"


CLASSES: dict[str, Callable[[Tensors, Config], Read]] = {
    "AutoEncoder": _plain,
    "AutoEncoderNew": _new,
    "GatedAutoEncoder": _gated,
    "JumpReluAutoEncoder": _jump_relu,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _batch_top_k,
}
"""The function that reads each class."""

_KEYS = {
    "AutoEncoder": {"bias", "encoder.weight", "encoder.bias", "decoder.weight"},
    "AutoEncoderNew": {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"},
    "GatedAutoEncoder": {"decoder_bias", "r_mag", "gate_bias", "mag_bias", "encoder.weight", "decoder.weight"},
    "JumpReluAutoEncoder": {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"},
}
_TOP_K_KEYS = {"encoder.weight", "encoder.bias", "decoder.weight", "b_dec"}


def _k(tensors: Tensors, config: Config) -> int:
    stored = tensors.number("k")
    given = {"k": config.get("k") if stored is None else stored}
    return build.integer(given, "k", tensors.file)


def _has_names(location: Location) -> bool:
    """Returns whether a file has the usual name, or the tensors of a class of the library with distinctive names."""
    if location.file_name == WEIGHTS or location.holds(CONFIG):
        return True
    try:
        names = set(read_pickle(location.weights(location.file_name or WEIGHTS, suffix=".pt")).shapes)
    except (StorageError, FileNotFoundError):
        # `read` reports the error.
        return True
    # Weights and biases of two linear layers are too common to identify the library.
    telling = [keys for name, keys in _KEYS.items() if name != "AutoEncoderNew"]
    return "group_sizes" in names or names in telling or {"k", "threshold"} <= names
