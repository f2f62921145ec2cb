"""SAELens checkpoints: a folder with ``sae_weights.safetensors`` and ``cfg.json``, of version 6 and before."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict.activations import AbsTopK, BatchTopK, Gated, ReLU, TopK
from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _made as made
from sparsedict.formats._made import Learned, Weights
from sparsedict.formats._place import Place
from sparsedict.formats._tensors import Tensors, read_safetensors
from sparsedict.formats._written import Apart, apart, noted, refuse, write_json, write_tensors
from sparsedict.norms import InputLayerNorm, InputNorm, InputRMSNorm
from sparsedict.storage import StorageError

WEIGHTS = "sae_weights.safetensors"
CFG = "cfg.json"
VERSION = "6.54.12"
"""The version whose layout is written; all of version 6 have it."""

AUTOENCODERS = ("standard", "gated", "jumprelu", "topk", "abstopk", "batchtopk", "matryoshka_batchtopk")
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
"""Architectures that are read."""

_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
"""Keys of versions before 6, and what they are called since."""

_AT_RUN_TIME: dict[str, InputNorm | None] = {
    "none": None,
    "layer_norm": InputLayerNorm(),
    "constant_norm_rescale": InputRMSNorm(),
}
_BEFORE = {
    "expected_average_only_in": "multiplied by the factor that gives them a mean norm of sqrt(d_in)",
    "covariance_whitening": "whitened",
}
"""What was done to activations outside the autoencoder, and isn't in its files unless it was folded into weights."""


def recognises(place: Place) -> bool:
    """Whether the files are SAELens'."""
    if place.named is not None and place.named not in (WEIGHTS, CFG):
        return False
    return place.holds(WEIGHTS) or bool(place.inner(WEIGHTS))


def read(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads an autoencoder or transcoder of SAELens; its forward pass is SAELens' own.

    An autoencoder of attention heads' outputs (``hook_z``) takes the heads' activations joined, ``[..., d_in]``.
    ``trained_on`` keeps the configuration.

    Args:
        path: The folder, or its file of weights.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; where left out, the wider of the file's and the one in the configuration
            (single precision if there are thresholds, whose logarithms half precision would round).

    Raises:
        FileNotFoundError: If a file is missing.
        StorageError: If a file is broken, or of an architecture that has no kind here.
    """
    place = Place.of(path)
    place.check_is_one(WEIGHTS, what="autoencoders")
    cfg = _normalised(place.cfg(CFG, "SAELens"), place.folder / CFG)
    tensors = read_safetensors(place.weights(WEIGHTS, suffix=".safetensors"))
    architecture = str(cfg["architecture"])
    if architecture in TRANSCODERS:
        return _transcoder(tensors, cfg, device, dtype)
    if architecture in AUTOENCODERS:
        return _autoencoder(tensors, cfg, device, dtype)
    raise StorageError(
        f"{place.folder / CFG}: `architecture` must be one of {', '.join((*AUTOENCODERS, *TRANSCODERS))} to be read "
        f"here, got {architecture[:80]!r}."
    )


def _normalised(cfg: dict[str, Any], file: Path) -> dict[str, Any]:
    """Says what a configuration of any version says as version 6 does."""
    given = cfg.get("metadata")
    metadata = given if isinstance(given, dict) else {}
    cfg = {_RENAMED.get(name, name): value for name, value in cfg.items()}
    kwargs = cfg.get("activation_fn_kwargs")
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    architecture = cfg.get("architecture") or "standard"
    function = str(cfg.get("activation_fn") or "relu").lower()
    if architecture == "standard" and function == "topk":
        architecture = "topk"
    elif architecture == "standard" and function != "relu":
        raise StorageError(f"{file}: `activation_fn` must be relu or topk to be read here, got {function[:80]!r}.")
    if "k" not in cfg and kwargs.get("k") is not None:
        cfg["k"] = kwargs["k"]
    normalise = cfg.get("normalize_activations")
    if normalise is None or isinstance(normalise, bool):
        normalise = "expected_average_only_in" if normalise else "none"
    hook = str(metadata.get("hook_name") or cfg.get("hook_name") or "")
    reshape = cfg.get("reshape_activations") or ("hook_z" if "hook_z" in hook and not metadata else "none")
    known = {"architecture": architecture, "normalize_activations": normalise, "reshape_activations": reshape}
    return cfg | known | {"metadata": metadata}


def _autoencoder(
    tensors: Tensors, cfg: dict[str, Any], device: torch.device | str | None, dtype: torch.dtype | None
) -> Dictionary:
    file = tensors.file
    encoder = tensors.take_turned("W_enc", "d_in", "n_latents")
    decoder = tensors.take("W_dec", "n_latents", "d_in")
    decoder_bias = tensors.take("b_dec", "d_in")
    is_gated = cfg["architecture"] == "gated"
    encoder_bias = None if is_gated else tensors.take("b_enc", "n_latents")
    learned = _learned(tensors, cfg)
    decoder, decoder_bias = _finetuned(tensors, cfg, decoder, decoder_bias)
    if made.flag(cfg, "rescale_acts_by_decoder_norm", file, False):
        # The scaled latents choose, and are unscaled before they are decoded: what a decoder of unit rows does.
        norms = torch.linalg.vector_norm(decoder, dim=-1).clamp_min(torch.finfo(decoder.dtype).tiny)
        encoder, decoder = encoder * norms[:, None], decoder / norms[:, None]
        encoder_bias = None if encoder_bias is None else encoder_bias * norms
    tensors.finish("SAELens")
    _check_sizes(tensors, cfg)
    return made.autoencoder(
        Weights(encoder, encoder_bias, decoder, decoder_bias),
        learned,
        file,
        offset="decoder_bias" if made.flag(cfg, "apply_b_dec_to_input", file, True) else "none",
        input_norm=_input_norm(cfg, file),
        reads="inputs" if _reads_inputs(cfg) else "outputs",
        trained_on=_trained_on(cfg),
        device=device,
        dtype=dtype or _dtype(tensors, cfg, encoder, learned),
    )


def _transcoder(
    tensors: Tensors, cfg: dict[str, Any], device: torch.device | str | None, dtype: torch.dtype | None
) -> Dictionary:
    file = tensors.file
    if made.flag(cfg, "apply_b_dec_to_input", file, False):
        raise StorageError(f"{file.parent / CFG}: `apply_b_dec_to_input` must be false for a transcoder, got true.")
    architecture = str(cfg["architecture"])
    encoder = tensors.take_turned("W_enc", "d_in", "n_latents")
    weights = Weights(
        encoder,
        tensors.take("b_enc", "n_latents"),
        tensors.take("W_dec", "n_latents", "d_out"),
        tensors.take("b_dec", "d_out"),
        skip=tensors.take("W_skip", "d_out", "d_in") if "skip" in architecture else None,
    )
    learned = _learned(tensors, cfg)
    tensors.finish("SAELens")
    _check_sizes(tensors, cfg)
    return made.distiller(
        weights,
        learned,
        file,
        input_norm=_input_norm(cfg, file),
        trained_on=_trained_on(cfg),
        device=device,
        dtype=dtype or _dtype(tensors, cfg, encoder, learned),
    )


def _learned(tensors: Tensors, cfg: dict[str, Any]) -> Learned:
    architecture = str(cfg["architecture"])
    cfg_file = tensors.file.parent / CFG
    if architecture == "gated":
        return made.gated(*(tensors.take(name, "n_latents") for name in ("b_gate", "r_mag", "b_mag")))
    if architecture.startswith("jumprelu"):
        log = "log_threshold" in tensors
        threshold = tensors.take("log_threshold" if log else "threshold", "n_latents")
        return made.jump_relu(threshold, tensors.file, log=log)
    if architecture == "abstopk":
        return Learned(AbsTopK(made.integer(cfg, "k", cfg_file)))
    if architecture == "topk":
        return Learned(TopK(made.integer(cfg, "k", cfg_file)))
    if "batchtopk" in architecture:
        threshold = tensors.number("topk_threshold")
        state = {"threshold": torch.tensor(math.nan if threshold is None else threshold)}
        return Learned(BatchTopK(made.integer(cfg, "k", cfg_file)), state)
    return Learned(ReLU())


def _finetuned(tensors: Tensors, cfg: dict[str, Any], decoder: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Puts a factor for each latent, which versions before 6 applied while decoding, into the decoder's rows."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        factor = tensors.maybe(name, "n_latents")
        if factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
            if name == "scaling_factor" and not made.flag(cfg, "finetuning_scaling_factor", tensors.file, False):
                raise StorageError(f"{tensors.file}: `scaling_factor` isn't 1, but the configuration doesn't use it.")
            decoder = decoder * factor[:, None]
    return decoder, bias


def _input_norm(cfg: dict[str, Any], file: Path) -> InputNorm | None:
    name = str(cfg["normalize_activations"])
    if name in _AT_RUN_TIME:
        return _AT_RUN_TIME[name]
    if name in _BEFORE:
        warnings.warn(
            f"{file.parent / CFG}: `normalize_activations` is {name!r}: this dictionary was trained on activations "
            f"{_BEFORE[name]}, outside of it, and how isn't in its files. It computes what SAELens' does; give it "
            "activations treated so.",
            stacklevel=4,
        )
        return None
    raise StorageError(
        f"{file.parent / CFG}: `normalize_activations` must be one of {', '.join((*_AT_RUN_TIME, *_BEFORE))}, "
        f"got {name[:80]!r}."
    )


def _check_sizes(tensors: Tensors, cfg: dict[str, Any]) -> None:
    sizes = {"d_in": tensors.sizes["d_in"], "d_sae": tensors.sizes["n_latents"]}
    sizes |= {"d_out": tensors.sizes["d_out"]} if "d_out" in tensors.sizes else {}
    for name, found in sizes.items():
        if cfg.get(name) is not None and cfg[name] != found:
            raise StorageError(
                f"{tensors.file}: by {CFG} `{name}` must be {str(cfg[name])[:80]}, but the weights make it {found}."
            )


def _dtype(tensors: Tensors, cfg: dict[str, Any], encoder: Tensor, learned: Learned) -> torch.dtype:
    named = made.dtype_named(cfg.get("dtype"), tensors.file.parent / CFG) or encoder.dtype
    wider = torch.promote_types(encoder.dtype, named)
    return wider if learned.is_exact_in_half else torch.promote_types(wider, torch.float32)


def _reads_inputs(cfg: dict[str, Any]) -> bool:
    hook = str(cfg["metadata"].get("hook_name") or cfg.get("hook_name") or "")
    return hook.endswith(("mlp_in", "ln2.hook_normalized"))


def _trained_on(cfg: dict[str, Any]) -> dict[str, Any]:
    about = {**cfg, **cfg["metadata"]}
    known = {"model": about.get("model_name"), "site": about.get("hook_name")}
    return {"library": "SAELens", **{k: v for k, v in known.items() if v is not None}, "cfg": dict(cfg)}


def write(dictionary: Dictionary, path: str | os.PathLike[str]) -> None:
    """Writes a dictionary so that SAELens 6 loads it, and computes the same.

    An input bias and a constant scale go into the weights; a BatchTopK becomes a JumpReLU of one threshold, as SAELens
    itself saves its own. What SAELens has no place for (a bandwidth, ``k``, the constraint on rows) is kept under
    ``metadata`` in the configuration.

    Args:
        dictionary: An autoencoder with ReLU, TopK, AbsTopK, BatchTopK, JumpReLU or Gated; a distiller with ReLU,
            JumpReLU or BatchTopK.
        path: The folder.

    Raises:
        TypeError: If it is of another kind.
        ValueError: If SAELens has nothing like its activation or normalisation.
    """
    apart_ = apart(dictionary, "SAELens")
    architecture, tensors, extra = _architecture(apart_)
    tensors |= {"W_enc": apart_.encoder.mT, "W_dec": apart_.decoder, "b_dec": apart_.decoder_bias}
    if apart_.skip is not None:
        tensors["W_skip"] = apart_.skip
    kept = noted(dictionary, "SAELens")
    cfg = {
        "architecture": architecture,
        "d_in": apart_.encoder.shape[1],
        "d_sae": len(apart_.encoder),
        **({"d_out": apart_.decoder.shape[1]} if apart_.is_distiller else {}),
        **extra,
        "dtype": str(apart_.encoder.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": apart_.subtracts_decoder_bias,
        "normalize_activations": _normalize_activations(apart_.input_norm),
        "reshape_activations": kept.get("reshape_activations", "none"),
        "metadata": _metadata(dictionary, kept),
    }
    write_tensors(Path(path) / WEIGHTS, tensors)
    write_json(Path(path) / CFG, cfg)


def _architecture(apart_: Apart) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """Returns the architecture, the tensors that it alone has, and its own part of the configuration."""
    activation, threshold = apart_.activation, apart_.threshold
    bias = {"b_enc": apart_.encoder_bias}
    if apart_.is_distiller:
        skip = "" if apart_.skip is None else "skip_"
        if isinstance(activation, ReLU):
            return f"{skip}transcoder", bias, {}
        if threshold is not None:
            return f"jumprelu_{skip}transcoder", bias | {"threshold": threshold}, {}
        raise refuse(f"the activation {activation}", "SAELens", ("ReLU and JumpReLU in transcoders",))
    if isinstance(activation, ReLU):
        return "standard", bias, {}
    if threshold is not None:
        return "jumprelu", bias | {"threshold": threshold}, {}
    if isinstance(activation, TopK | AbsTopK):
        name = "topk" if isinstance(activation, TopK) else "abstopk"
        return name, bias, {"k": activation.k, "rescale_acts_by_decoder_norm": False}
    if isinstance(activation, Gated):
        gate, magnitude, scale = apart_.gate()
        return "gated", {"b_gate": gate, "b_mag": magnitude, "r_mag": scale}, {}
    has = ("ReLU", "TopK", "AbsTopK", "JumpReLU", "Gated in autoencoders")
    raise refuse(f"the activation {activation}", "SAELens", has)


def _normalize_activations(norm: InputNorm | None) -> str:
    for name, known in _AT_RUN_TIME.items():
        if norm == known:
            return name
    has = [str(known) for known in _AT_RUN_TIME.values() if known is not None]
    raise refuse(f"the normalisation {norm}", "SAELens", has)


def _metadata(dictionary: Dictionary, kept: Mapping[str, Any]) -> dict[str, Any]:
    trained_on = dictionary.trained_on
    known = {"model_name": trained_on.get("model"), "hook_name": trained_on.get("site")}
    given = kept.get("metadata")
    ours = {"activation": repr(dictionary.activation), "decoder_norm": repr(dictionary.decoder_norm)}
    return {
        **{name: value for name, value in known.items() if value is not None},
        **(given if isinstance(given, dict) else {}),
        # Without a version the configuration would be taken for one from before 6.
        "sae_lens_version": VERSION,
        "sparsedict": ours,
    }
