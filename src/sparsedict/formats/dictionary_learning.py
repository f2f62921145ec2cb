"""dictionary_learning: a folder with ``ae.pt``, a PyTorch state dict, and often ``config.json``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch

from sparsedict.activations import BatchTopK, ReLU, TopK
from sparsedict.dictionaries import Dictionary, InputOffset
from sparsedict.formats import _made as made
from sparsedict.formats._made import Learned, Weights
from sparsedict.formats._pickles import read_pickle
from sparsedict.formats._place import Place, listed
from sparsedict.formats._tensors import Tensors
from sparsedict.storage import StorageError

WEIGHTS = "ae.pt"
CONFIG = "config.json"

Config = dict[str, Any]


def recognises(place: Place) -> bool:
    """Whether the files are dictionary_learning's."""
    if place.named is None:
        return place.holds(WEIGHTS) or bool(place.inner(WEIGHTS, depth=3))
    return (place.named == CONFIG and place.holds(WEIGHTS)) or (place.suffix == ".pt" and _has_names(place))


def read(
    path: str | os.PathLike[str],
    *,
    dict_class: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads any of dictionary_learning's seven classes; its forward pass is the library's own.

    The weights are those of the file. The library's ``AutoEncoder.from_pretrained`` moves the norms of decoder rows
    into the encoder by default, which changes the scale of latents and not the output. A Matryoshka dictionary has all
    of its groups, in their order; ``trained_on`` keeps their sizes and the configuration.

    Args:
        path: The folder, or its file of weights.
        dict_class: Which class it is, where neither the configuration nor the names of tensors tell:
            ``"AutoEncoderTopK"`` and ``"BatchTopKSAE"`` have the same.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; as in the file where left out (single precision if there are thresholds).

    Raises:
        FileNotFoundError: If a file is missing.
        StorageError: If a file is broken, names anything but tensors, or isn't of any of the classes.
    """
    place = Place.of(path)
    place.check_is_one(WEIGHTS, what="dictionaries", depth=3)
    tensors = read_pickle(place.weights(WEIGHTS, suffix=".pt"))
    config = _config(place)
    name = dict_class or _named_class(config) or _class_of(tensors, place)
    if name not in CLASSES:
        raise StorageError(
            f"{tensors.file}: the class must be one of {', '.join(CLASSES)} to be read here, got {name[:80]!r}."
        )
    weights, learned, offset = CLASSES[name](tensors, config)
    groups = tensors.take_any("group_sizes", "n_groups").tolist() if "group_sizes" in tensors else None
    tensors.finish(f"dictionary_learning {name}", ignored=("k", "threshold", "active_groups"))
    known = {"model": config.get("lm_name"), "site": config.get("submodule_name"), "group_sizes": groups}
    trained_on = {"library": "dictionary_learning", "class": name, "cfg": config}
    return made.autoencoder(
        weights,
        learned,
        tensors.file,
        offset=offset,
        trained_on=trained_on | {key: value for key, value in known.items() if value is not None},
        device=device,
        dtype=dtype,
    )


def _config(place: Place) -> Config:
    """Returns what the trainer noted, from beside the weights, or from beside the folder of training checkpoints."""
    document = place.json(CONFIG)
    if document is None and place.folder.name == "checkpoints" and place.above is not None:
        document = place.above.json(CONFIG)
    trainer = (document or {}).get("trainer")
    return trainer if isinstance(trainer, dict) else {}


def _named_class(config: Config) -> str | None:
    name = config.get("dict_class")
    return None if name is None else str(name).rpartition(".")[2].rstrip("'>")


def _class_of(tensors: Tensors, place: Place) -> str:
    names = set(tensors.shapes)
    if "group_sizes" in names:
        return "MatryoshkaBatchTopKSAE"
    for name, wanted in _KEYS.items():
        if names == wanted:
            return name
    if names - {"k", "threshold"} == _TOP_K_KEYS:
        path = str(place.folder.resolve()).lower() + str(place.named or "").lower()
        if "batch" in path and "top" in path:
            return "BatchTopKSAE"
        if "topk" in path or "top_k" in path:
            return "AutoEncoderTopK"
        raise StorageError(
            f"{tensors.file} holds the tensors of an AutoEncoderTopK and of a BatchTopKSAE, which are the same, and no "
            f"{CONFIG} says which. Read it by `sd.formats.dictionary_learning.read(path, dict_class='BatchTopKSAE')`, "
            "or with the other name."
        )
    raise StorageError(f"{tensors.file} holds none of dictionary_learning's classes, but {listed(sorted(names))}.")


def _linear(tensors: Tensors, bias: str, *, encoder_bias: bool = True) -> Weights:
    """Takes the weights of two linear layers, whose matrices are ``[n_latents, d_in]`` and ``[d_in, n_latents]``."""
    return Weights(
        tensors.take("encoder.weight", "n_latents", "d_in"),
        tensors.take("encoder.bias", "n_latents") if encoder_bias else None,
        tensors.take_turned("decoder.weight", "d_in", "n_latents"),
        tensors.take(bias, "d_in"),
    )


def _matrices(tensors: Tensors) -> Weights:
    if "W_enc" not in tensors and "encoder.weight" in tensors:
        return _linear(tensors, "b_dec")
    return Weights(
        tensors.take_turned("W_enc", "d_in", "n_latents"),
        tensors.take("b_enc", "n_latents"),
        tensors.take("W_dec", "n_latents", "d_in"),
        tensors.take("b_dec", "d_in"),
    )


Read = tuple[Weights, Learned, InputOffset]


def _plain(tensors: Tensors, config: Config) -> Read:
    return _linear(tensors, "bias"), Learned(ReLU()), "decoder_bias"


def _new(tensors: Tensors, config: Config) -> Read:
    return _linear(tensors, "decoder.bias"), Learned(ReLU()), "none"


def _gated(tensors: Tensors, config: Config) -> Read:
    weights = _linear(tensors, "decoder_bias", encoder_bias=False)
    learned = made.gated(*(tensors.take(name, "n_latents") for name in ("gate_bias", "r_mag", "mag_bias")))
    return weights, learned, "decoder_bias"


def _jump_relu(tensors: Tensors, config: Config) -> Read:
    weights = _matrices(tensors)
    return weights, made.jump_relu(tensors.take("threshold", "n_latents"), tensors.file), "none"


def _top_k(tensors: Tensors, config: Config) -> Read:
    return _linear(tensors, "b_dec"), Learned(TopK(_k(tensors, config))), "decoder_bias"


def _batch_top_k(tensors: Tensors, config: Config) -> Read:
    weights = _matrices(tensors)
    threshold = tensors.number("threshold")
    if threshold is None or threshold < 0:
        warnings.warn(
            f"{tensors.file}: no threshold was ever measured for this BatchTopK. As in dictionary_learning, every "
            "positive latent fires until it is trained on or gets one: `dictionary.activation_state.threshold`.",
            stacklevel=3,
        )
        threshold = -1.0
    beta = config.get("threshold_beta")
    momentum = float(beta) if isinstance(beta, int | float) and 0 <= beta <= 1 else 0.999
    state = {"threshold": made.one_threshold(threshold, tensors.file)}
    learned = Learned(BatchTopK(_k(tensors, config), momentum), state)
    return weights, learned, "decoder_bias"


CLASSES: dict[str, Callable[[Tensors, Config], Read]] = {
    "AutoEncoder": _plain,
    "AutoEncoderNew": _new,
    "GatedAutoEncoder": _gated,
    "JumpReluAutoEncoder": _jump_relu,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _batch_top_k,
}
"""How each class is read."""

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
    return made.integer(given, "k", tensors.file)


def _has_names(place: Place) -> bool:
    """Whether a file has the library's name, or tensors by the names of one of its classes that has no common ones."""
    if place.named == WEIGHTS or place.holds(CONFIG):
        return True
    try:
        names = set(read_pickle(place.weights(place.named or WEIGHTS, suffix=".pt")).shapes)
    except (StorageError, FileNotFoundError):
        # `read` reports the error in the file.
        return True
    # Weights and biases of two linear layers may be anybody's, with any activation.
    telling = [keys for name, keys in _KEYS.items() if name != "AutoEncoderNew"]
    return "group_sizes" in names or names in telling or {"k", "threshold"} <= names
