"""EleutherAI's sparsify (formerly sae): a folder for each hookpoint, with ``sae.safetensors`` and ``cfg.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import AbsTopK, Activation, GroupMax, TopK
from sparsedict.dictionaries import Dictionary, Exported
from sparsedict.formats import _build as build
from sparsedict.formats._build import LoadedActivation, Weights
from sparsedict.formats._export import exact_form, original_cfg, unsupported, write_json, write_tensors
from sparsedict.formats._location import Location
from sparsedict.formats._tensors import Tensors, read_safetensors
from sparsedict.norms import DecoderNorm, UnitNorm
from sparsedict.storage import StorageError
from sparsedict.torch_state import in_own_state

WEIGHTS = "sae.safetensors"
CFG = "cfg.json"


def recognises(location: Location) -> bool:
    """Returns whether the files are in the format of sparsify: one hookpoint, or a folder of hookpoints."""
    if location.file_name is not None and location.file_name not in (WEIGHTS, CFG):
        return False
    return location.holds(WEIGHTS) or bool(location.subfolders(WEIGHTS))


def read(
    path: str | os.PathLike[str],
    *,
    transcoder_subtracts_bias: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads an autoencoder or transcoder of sparsify, with the same forward pass.

    An autoencoder with a skip connection becomes a distiller, whose input bias is the negative decoder bias.
    ``trained_on`` contains the configuration.

    Args:
        path: The folder of one hookpoint, or its weights file.
        transcoder_subtracts_bias: Whether a transcoder subtracts the decoder bias from its input, as sparsify did
            before February 2025. The files don't contain this information.
        device: Device of the weights. The CPU by default.
        dtype: Type of the weights. The type in the file by default.

    Raises:
        FileNotFoundError: If a file is missing, or the folder contains several hookpoints.
        StorageError: If a file is broken.
    """
    location = Location.from_path(path)
    location.check_is_single(WEIGHTS, what="hookpoints")
    cfg = location.cfg(CFG, "sparsify")
    cfg_file = location.folder / CFG
    tensors = read_safetensors(location.weights(WEIGHTS, suffix=".safetensors"))
    encoder = tensors.take("encoder.weight", "n_latents", "d_in")
    bias = tensors.take_optional("encoder.bias", "n_latents")
    decoder = _decoder(tensors)
    decoder_bias = tensors.take("b_dec", "d_in")
    skip = tensors.take_optional("W_skip", "d_in", "d_in")
    tensors.check_all_used("sparsify")
    _check_sizes(tensors, cfg, cfg_file)
    transcodes = build.flag(cfg, "transcode", cfg_file, False)
    subtracts = transcoder_subtracts_bias if transcodes else True
    about: dict[str, Any] = {
        "decoder_norm": _decoder_norm(cfg, cfg_file, decoder),
        "trained_on": {"library": "sparsify", "site": location.folder.name, "cfg": cfg},
        "device": device,
        "dtype": dtype,
    }
    loaded = LoadedActivation(_activation(cfg, cfg_file))
    if transcodes or skip is not None:
        weights = Weights(encoder, bias, decoder, decoder_bias, -decoder_bias if subtracts else None, skip)
        return build.distiller(weights, loaded, tensors.file, **about)
    weights = Weights(encoder, bias, decoder, decoder_bias)
    return build.autoencoder(weights, loaded, tensors.file, offset="decoder_bias", **about)


def write(dictionary: Dictionary, path: str | os.PathLike[str]) -> None:
    """Writes a dictionary in the format of sparsify, with the same forward pass.

    A constant scale of the input and offsets that sparsify doesn't have are folded into the weights.

    Args:
        dictionary: An autoencoder, or a distiller with equal input and output widths, with TopK or GroupMax.
        path: The folder of its hookpoint.

    Raises:
        TypeError: If the kind of the dictionary isn't supported.
        ValueError: If sparsify doesn't support the activation, the normalisation or the widths.
    """
    folder = checks.path("path", path, "a folder")
    form = exact_form(dictionary, "sparsify")
    (n_latents, d_in), d_out = form.encoder.shape, form.decoder.shape[1]
    if d_in != d_out:
        raise unsupported(f"widths d_in={d_in} and d_out={d_out}", "sparsify", ("equal widths",))
    if form.input_norm is not None:
        raise unsupported(f"the normalisation {form.input_norm}", "sparsify", ("unnormalised inputs",))
    activation = _named_activation(form.activation)
    tensors = {
        "encoder.weight": form.encoder,
        "encoder.bias": _bias(form),
        "W_dec": form.decoder,
        "b_dec": form.decoder_bias,
    }
    if form.skip is not None:
        tensors["W_skip"] = form.skip
    cfg = {
        "multi_topk": False,
        **original_cfg(dictionary, "sparsify"),
        **activation,
        "expansion_factor": max(1, n_latents // d_in),
        "normalize_decoder": isinstance(dictionary.decoder_norm, UnitNorm),
        "num_latents": n_latents,
        "skip_connection": form.skip is not None,
        "transcode": form.is_distiller,
        "d_in": d_in,
    }
    cfg.pop("signed", None)
    write_tensors(folder / WEIGHTS, tensors)
    write_json(folder / CFG, cfg)


def _decoder(tensors: Tensors) -> Tensor:
    if "decoder.weight" in tensors and "W_dec" not in tensors:
        return tensors.take_transposed("decoder.weight", "d_in", "n_latents")
    return tensors.take("W_dec", "n_latents", "d_in")


def _activation(cfg: dict[str, Any], file: Path) -> Activation:
    k = build.integer(cfg, "k", file)
    name = cfg.get("activation", "topk")
    if build.flag(cfg, "signed", file, False):
        return AbsTopK(k)
    if name in ("topk", "groupmax"):
        return TopK(k) if name == "topk" else GroupMax(k)
    raise StorageError(f"{file}: `activation` must be topk or groupmax, got {str(name)[:80]!r}.")


def _named_activation(activation: Activation) -> dict[str, Any]:
    if isinstance(activation, TopK | GroupMax):
        return {"activation": "topk" if isinstance(activation, TopK) else "groupmax", "k": activation.k}
    raise unsupported(f"the activation {activation}", "sparsify", ("TopK and GroupMax",))


def _decoder_norm(cfg: dict[str, Any], file: Path, decoder: Tensor) -> DecoderNorm | None:
    """Returns the constraint on decoder rows if all rows satisfy it; reading must not change the weights."""
    if not build.flag(cfg, "normalize_decoder", file, False):
        return None
    norms = torch.linalg.vector_norm(decoder.float(), dim=-1)
    return UnitNorm() if torch.allclose(norms, torch.ones_like(norms), rtol=0, atol=1e-2) else None


def _check_sizes(tensors: Tensors, cfg: dict[str, Any], file: Path) -> None:
    d_in, n_latents = tensors.sizes["d_in"], tensors.sizes["n_latents"]
    if cfg.get("d_in", d_in) != d_in:
        raise StorageError(
            f"{tensors.file}: `d_in` must be {str(cfg['d_in'])[:80]} as in {CFG}, got {d_in} in the weights."
        )
    if not cfg.get("num_latents") and not cfg.get("expansion_factor"):
        return
    wanted = cfg.get("num_latents") or d_in * build.integer(cfg, "expansion_factor", file)
    if wanted != n_latents:
        raise StorageError(
            f"{tensors.file}: there must be {str(wanted)[:80]} latents as in {CFG}, got {n_latents} in the weights."
        )


@in_own_state
def _bias(form: Exported) -> Tensor:
    """Returns the encoder bias for autoencoders of sparsify, which subtract the decoder bias from their input."""
    if form.is_distiller or form.subtracts_decoder_bias:
        return form.encoder_bias
    return form.encoder_bias + form.encoder @ form.decoder_bias
