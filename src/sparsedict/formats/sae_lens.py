"""SAELens: a folder with ``sae_weights.safetensors`` and ``cfg.json``, of version 6 or earlier."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import AbsTopK, BatchTopK, Gated, ReLU, TopK
from sparsedict.dictionaries import Dictionary, Exported
from sparsedict.formats import _build as build
from sparsedict.formats import _sae_lens_cfg as about
from sparsedict.formats._build import LoadedActivation, Weights
from sparsedict.formats._export import (
    CALIBRATE,
    exact_form,
    gate_of,
    original_cfg,
    threshold_of,
    unsupported,
    write_json,
    write_tensors,
)
from sparsedict.formats._location import Location
from sparsedict.formats._tensors import Tensors, read_safetensors
from sparsedict.storage import StorageError

WEIGHTS = "sae_weights.safetensors"
SPARSITY = "sparsity.safetensors"
"""File of firing frequencies measured by SAELens, which some of its loaders read."""

AUTOENCODERS = ("standard", "gated", "jumprelu", "topk", "abstopk", "batchtopk", "matryoshka_batchtopk")
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
"""Supported architectures."""


def recognises(location: Location) -> bool:
    """Returns whether the files are in the format of SAELens."""
    if location.file_name is not None and location.file_name not in (WEIGHTS, about.CFG):
        return False
    return location.holds(WEIGHTS) or bool(location.subfolders(WEIGHTS))


def read(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads an autoencoder or transcoder of SAELens, with the same forward pass.

    An autoencoder of attention head outputs (``hook_z``) reads the concatenated activations of the heads,
    ``[..., d_in]``. ``trained_on`` contains the configuration.

    Args:
        path: The folder, or its weights file.
        device: Device of the weights. The CPU by default.
        dtype: Type of the weights. By default the wider of the types in file and configuration. It is float32 if there
            are thresholds, because half precision would round their logarithms.

    Raises:
        FileNotFoundError: If a file is missing.
        StorageError: If a file is broken or has an unsupported architecture.
    """
    location = Location.from_path(path)
    location.check_is_single(WEIGHTS, what="autoencoders")
    cfg = about.as_version_6(location.cfg(about.CFG, "SAELens"), location.folder / about.CFG)
    tensors = read_safetensors(location.weights(WEIGHTS, suffix=".safetensors"))
    architecture = str(cfg["architecture"])
    if architecture in TRANSCODERS:
        return _transcoder(tensors, cfg, device, dtype)
    if architecture in AUTOENCODERS:
        return _autoencoder(tensors, cfg, device, dtype)
    raise StorageError(
        f"{location.folder / about.CFG}: `architecture` must be one of {', '.join((*AUTOENCODERS, *TRANSCODERS))}, got "
        f"{architecture[:80]!r}."
    )


def _autoencoder(
    tensors: Tensors, cfg: dict[str, Any], device: torch.device | str | None, dtype: torch.dtype | None
) -> Dictionary:
    file = tensors.file
    encoder = tensors.take_transposed("W_enc", "d_in", "n_latents")
    decoder = tensors.take("W_dec", "n_latents", "d_in")
    decoder_bias = tensors.take("b_dec", "d_in")
    is_gated = cfg["architecture"] == "gated"
    encoder_bias = None if is_gated else tensors.take("b_enc", "n_latents")
    loaded = _loaded_activation(tensors, cfg)
    decoder, decoder_bias = _finetuned(tensors, cfg, decoder, decoder_bias)
    if build.flag(cfg, "rescale_acts_by_decoder_norm", file, False):
        # SAELens selects by scaled latents and unscales them before decoding. Unit decoder rows are equivalent.
        norms = torch.linalg.vector_norm(decoder, dim=-1).clamp_min(torch.finfo(decoder.dtype).tiny)
        encoder, decoder = encoder * norms[:, None], decoder / norms[:, None]
        encoder_bias = None if encoder_bias is None else encoder_bias * norms
    tensors.check_all_used("SAELens")
    about.check_sizes(tensors, cfg)
    return build.autoencoder(
        Weights(encoder, encoder_bias, decoder, decoder_bias),
        loaded,
        file,
        offset="decoder_bias" if build.flag(cfg, "apply_b_dec_to_input", file, True) else "none",
        input_norm=about.input_norm(cfg, file),
        reads="inputs" if about.reads_inputs(cfg) else "outputs",
        trained_on=about.trained_on(cfg),
        device=device,
        dtype=dtype or about.dtype(tensors, cfg, encoder, loaded),
    )


def _transcoder(
    tensors: Tensors, cfg: dict[str, Any], device: torch.device | str | None, dtype: torch.dtype | None
) -> Dictionary:
    file = tensors.file
    if build.flag(cfg, "apply_b_dec_to_input", file, False):
        raise StorageError(
            f"{file.parent / about.CFG}: `apply_b_dec_to_input` must be false for a transcoder, got true."
        )
    architecture = str(cfg["architecture"])
    encoder = tensors.take_transposed("W_enc", "d_in", "n_latents")
    weights = Weights(
        encoder,
        tensors.take("b_enc", "n_latents"),
        tensors.take("W_dec", "n_latents", "d_out"),
        tensors.take("b_dec", "d_out"),
        skip=tensors.take("W_skip", "d_out", "d_in") if "skip" in architecture else None,
    )
    loaded = _loaded_activation(tensors, cfg)
    tensors.check_all_used("SAELens")
    about.check_sizes(tensors, cfg)
    return build.distiller(
        weights,
        loaded,
        file,
        input_norm=about.input_norm(cfg, file),
        trained_on=about.trained_on(cfg),
        device=device,
        dtype=dtype or about.dtype(tensors, cfg, encoder, loaded),
    )


def _loaded_activation(tensors: Tensors, cfg: dict[str, Any]) -> LoadedActivation:
    architecture = str(cfg["architecture"])
    cfg_file = tensors.file.parent / about.CFG
    if architecture == "gated":
        return build.gated(*(tensors.take(name, "n_latents") for name in ("b_gate", "r_mag", "b_mag")))
    if architecture.startswith("jumprelu"):
        log = "log_threshold" in tensors
        threshold = tensors.take("log_threshold" if log else "threshold", "n_latents")
        return build.jump_relu(threshold, tensors.file, log=log)
    if architecture == "abstopk":
        return LoadedActivation(AbsTopK(build.integer(cfg, "k", cfg_file)))
    if architecture == "topk":
        return LoadedActivation(TopK(build.integer(cfg, "k", cfg_file)))
    if "batchtopk" in architecture:
        threshold = tensors.number("topk_threshold")
        if threshold is None:
            raise StorageError(
                f"{tensors.file} must contain `topk_threshold`, the threshold of a {architecture} dictionary outside "
                "of training. Save the dictionary with SAELens, which writes it."
            )
        state = {"threshold": build.one_threshold(threshold, tensors.file)}
        return LoadedActivation(BatchTopK(build.integer(cfg, "k", cfg_file)), state)
    return LoadedActivation(ReLU())


def _finetuned(tensors: Tensors, cfg: dict[str, Any], decoder: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Multiplies decoder rows by the factor of each latent that versions before 6 applied while decoding."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        factor = tensors.take_optional(name, "n_latents")
        if factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
            if name == "scaling_factor" and not build.flag(cfg, "finetuning_scaling_factor", tensors.file, False):
                raise StorageError(
                    f"{tensors.file}: `scaling_factor` must be 1 if the configuration has no "
                    "`finetuning_scaling_factor`."
                )
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
    """Writes a dictionary in the format of SAELens 6, with the same forward pass.

    An input bias and a constant scale of the input are folded into the weights. BatchTopK becomes JumpReLU with a
    common threshold, as in SAELens itself. The training site is translated into TransformerLens hooks. Properties that
    SAELens has no key for (a bandwidth, ``k``, the constraint on rows) are stored under ``metadata`` in the
    configuration. A warning lists unknown metadata.

    Args:
        dictionary: An autoencoder with ReLU, TopK, AbsTopK, BatchTopK, JumpReLU or Gated, or a distiller with ReLU,
            JumpReLU or BatchTopK.
        path: The folder.
        model_name: Name of the model, such as ``"gpt2"``. By default the name in ``trained_on``.
        hook_name: The TransformerLens hook that the dictionary reads, such as ``"blocks.1.hook_mlp_out"``. By default
            it is derived from the training site. The input of an MLP is ``"blocks.1.mlp.hook_in"`` in a
            ``TransformerBridge``.
        hook_name_out: The hook that a distiller writes.
        metadata: Other entries, such as ``{"context_size": 128, "prepend_bos": True, "dataset_path": "owner/data"}``.
            The ``ActivationsStore`` of SAELens needs these.

    Raises:
        TypeError: If the kind of the dictionary isn't supported, or an argument has the wrong type.
        ValueError: If SAELens doesn't support the activation or the normalisation, or a hook name is invalid.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"`metadata` must be a dict, got {type(metadata).__name__}.")
    given = about.GivenMetadata(model_name, hook_name, hook_name_out, dict(metadata or {}))
    form = exact_form(dictionary, "SAELens")
    given.check(form.is_distiller)
    folder = checks.path("path", path, "a folder")
    architecture, tensors, extra = _architecture(form)
    tensors |= {"W_enc": form.encoder.mT, "W_dec": form.decoder, "b_dec": form.decoder_bias}
    if form.skip is not None:
        tensors["W_skip"] = form.skip
    kept = original_cfg(dictionary, "SAELens")
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
    write_tensors(folder / WEIGHTS, tensors)
    write_json(folder / about.CFG, cfg)
    if (folder / SPARSITY).exists():
        checks.warn(
            f"{folder / SPARSITY} contains the firing frequencies of an earlier dictionary in this folder, which "
            "SAELens may read with the new dictionary. Remove the file unless it belongs to the new dictionary."
        )


def _architecture(form: Exported) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """Returns the architecture, and the tensors and configuration entries that are specific to it."""
    activation, threshold = form.activation, threshold_of(form)
    bias = {"b_enc": form.encoder_bias}
    if form.is_distiller:
        skip = "" if form.skip is None else "skip_"
        if isinstance(activation, ReLU):
            return f"{skip}transcoder", bias, {}
        if threshold is not None:
            return f"jumprelu_{skip}transcoder", bias | {"threshold": threshold}, {}
        raise unsupported(f"the activation {activation}", "SAELens", ("ReLU and JumpReLU in transcoders",), CALIBRATE)
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
    raise unsupported(f"the activation {activation}", "SAELens", has, CALIBRATE if activation.non_negative else "")


def _has_unit_rows(decoder: Tensor) -> bool:
    """Returns whether all decoder rows have norm 1, so that selection by scaled latents is equivalent.

    The dashboards of SAELens fold the norms of rows into the encoder if latents are selected by the scaled values.
    """
    norms = torch.linalg.vector_norm(decoder.double(), dim=-1)
    return bool(((norms - 1).abs() <= 1e-5).all())
