"""SAELens checkpoints: a folder with ``sae_weights.safetensors`` and ``cfg.json``, of version 6 and before."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict.activations import AbsTopK, BatchTopK, Gated, ReLU, TopK
from sparsedict.dictionaries import Dictionary, Exported
from sparsedict.formats import _made as made
from sparsedict.formats import _sae_lens_cfg as about
from sparsedict.formats._made import Learned, Weights
from sparsedict.formats._place import Place
from sparsedict.formats._tensors import Tensors, read_safetensors
from sparsedict.formats._written import (
    CALIBRATE,
    exact_form,
    gate_of,
    noted,
    refuse,
    threshold_of,
    write_json,
    write_tensors,
)
from sparsedict.storage import StorageError

WEIGHTS = "sae_weights.safetensors"
SPARSITY = "sparsity.safetensors"
"""Firing frequencies that SAELens measured, which some of its loaders read."""

AUTOENCODERS = ("standard", "gated", "jumprelu", "topk", "abstopk", "batchtopk", "matryoshka_batchtopk")
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
"""Architectures that are read."""


def recognises(place: Place) -> bool:
    """Whether the files are SAELens'."""
    if place.named is not None and place.named not in (WEIGHTS, about.CFG):
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
    cfg = about.normalised(place.cfg(about.CFG, "SAELens"), place.folder / about.CFG)
    tensors = read_safetensors(place.weights(WEIGHTS, suffix=".safetensors"))
    architecture = str(cfg["architecture"])
    if architecture in TRANSCODERS:
        return _transcoder(tensors, cfg, device, dtype)
    if architecture in AUTOENCODERS:
        return _autoencoder(tensors, cfg, device, dtype)
    raise StorageError(
        f"{place.folder / about.CFG}: `architecture` must be one of {', '.join((*AUTOENCODERS, *TRANSCODERS))} to be "
        f"read here, got {architecture[:80]!r}."
    )


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
    about.check_sizes(tensors, cfg)
    return made.autoencoder(
        Weights(encoder, encoder_bias, decoder, decoder_bias),
        learned,
        file,
        offset="decoder_bias" if made.flag(cfg, "apply_b_dec_to_input", file, True) else "none",
        input_norm=about.input_norm(cfg, file),
        reads="inputs" if about.reads_inputs(cfg) else "outputs",
        trained_on=about.trained_on(cfg),
        device=device,
        dtype=dtype or about.dtype(tensors, cfg, encoder, learned),
    )


def _transcoder(
    tensors: Tensors, cfg: dict[str, Any], device: torch.device | str | None, dtype: torch.dtype | None
) -> Dictionary:
    file = tensors.file
    if made.flag(cfg, "apply_b_dec_to_input", file, False):
        raise StorageError(
            f"{file.parent / about.CFG}: `apply_b_dec_to_input` must be false for a transcoder, got true."
        )
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
    about.check_sizes(tensors, cfg)
    return made.distiller(
        weights,
        learned,
        file,
        input_norm=about.input_norm(cfg, file),
        trained_on=about.trained_on(cfg),
        device=device,
        dtype=dtype or about.dtype(tensors, cfg, encoder, learned),
    )


def _learned(tensors: Tensors, cfg: dict[str, Any]) -> Learned:
    architecture = str(cfg["architecture"])
    cfg_file = tensors.file.parent / about.CFG
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
        state = {"threshold": made.one_threshold(tensors.number("topk_threshold"), tensors.file)}
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


def write(
    dictionary: Dictionary,
    path: str | os.PathLike[str],
    *,
    model_name: str | None = None,
    hook_name: str | None = None,
    hook_name_out: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a dictionary so that SAELens 6 loads it, and computes the same.

    An input bias and a constant scale go into the weights; a BatchTopK becomes a JumpReLU of one threshold, as SAELens
    itself saves its own. The place where the dictionary was trained is translated into TransformerLens hooks. What
    SAELens has no place for (a bandwidth, ``k``, the constraint on rows) is kept under ``metadata`` in the
    configuration. A warning names what isn't known.

    Args:
        dictionary: An autoencoder with ReLU, TopK, AbsTopK, BatchTopK, JumpReLU or Gated; a distiller with ReLU,
            JumpReLU or BatchTopK.
        path: The folder.
        model_name: Name of the model, such as ``"gpt2"``; where left out, as the dictionary noted it.
        hook_name: The TransformerLens hook that it reads, such as ``"blocks.1.hook_mlp_out"``; where left out, by the
            site that it was trained at. An MLP's input is ``"blocks.1.mlp.hook_in"`` of a ``TransformerBridge``.
        hook_name_out: The hook that a distiller writes.
        metadata: Other entries, such as ``{"context_size": 128, "prepend_bos": True, "dataset_path": "owner/data"}``,
            which SAELens' ``ActivationsStore`` wants.

    Raises:
        TypeError: If it is of another kind, or an argument of another type.
        ValueError: If SAELens has nothing like its activation or normalisation, or a name is no hook.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"`metadata` must be a dict, got {type(metadata).__name__}.")
    given = about.Given(model_name, hook_name, hook_name_out, dict(metadata or {}))
    form = exact_form(dictionary, "SAELens")
    given.check(form.is_distiller)
    architecture, tensors, extra = _architecture(form)
    tensors |= {"W_enc": form.encoder.mT, "W_dec": form.decoder, "b_dec": form.decoder_bias}
    if form.skip is not None:
        tensors["W_skip"] = form.skip
    kept = noted(dictionary, "SAELens")
    cfg = {
        "architecture": architecture,
        "d_in": form.encoder.shape[1],
        "d_sae": len(form.encoder),
        **({"d_out": form.decoder.shape[1]} if form.is_distiller else {}),
        **extra,
        "dtype": str(form.encoder.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": form.subtracts_decoder_bias,
        "normalize_activations": about.normalize_activations(form.input_norm),
        "reshape_activations": kept.get("reshape_activations", "none"),
        "metadata": about.metadata(dictionary, kept, given),
    }
    write_tensors(Path(path) / WEIGHTS, tensors)
    write_json(Path(path) / about.CFG, cfg)
    if (Path(path) / SPARSITY).exists():
        warnings.warn(
            f"{Path(path) / SPARSITY} holds firing frequencies of an earlier dictionary in this folder, which SAELens "
            "may read with this one. Remove it unless they are this dictionary's.",
            stacklevel=2,
        )


def _architecture(form: Exported) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """Returns the architecture, the tensors that it alone has, and its own part of the configuration."""
    activation, threshold = form.activation, threshold_of(form)
    bias = {"b_enc": form.encoder_bias}
    if form.is_distiller:
        skip = "" if form.skip is None else "skip_"
        if isinstance(activation, ReLU):
            return f"{skip}transcoder", bias, {}
        if threshold is not None:
            return f"jumprelu_{skip}transcoder", bias | {"threshold": threshold}, {}
        raise refuse(f"the activation {activation}", "SAELens", ("ReLU and JumpReLU in transcoders",), CALIBRATE)
    if isinstance(activation, ReLU):
        return "standard", bias, {}
    if threshold is not None:
        return "jumprelu", bias | {"threshold": threshold}, {}
    if isinstance(activation, TopK | AbsTopK):
        name = "topk" if isinstance(activation, TopK) else "abstopk"
        return name, bias, {"k": activation.k, "rescale_acts_by_decoder_norm": _has_unit_rows(form.decoder)}
    if isinstance(activation, Gated):
        gate, magnitude, scale = gate_of(form)
        return "gated", {"b_gate": gate, "b_mag": magnitude, "r_mag": scale}, {}
    has = ("ReLU", "TopK", "AbsTopK", "JumpReLU", "Gated in autoencoders")
    raise refuse(f"the activation {activation}", "SAELens", has, CALIBRATE if activation.non_negative else "")


def _has_unit_rows(decoder: Tensor) -> bool:
    """Whether latents times the norms of their rows are the latents themselves.

    SAELens' dashboards fold the norms of rows into the encoder, but only where latents are chosen by that product.
    """
    norms = torch.linalg.vector_norm(decoder.double(), dim=-1)
    return bool(((norms - 1).abs() <= 1e-5).all())
