"""EleutherAI's sparsify (before: sae): a folder for each hookpoint, with ``sae.safetensors`` and ``cfg.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict.activations import AbsTopK, Activation, GroupMax, TopK
from sparsedict.dictionaries import Dictionary, Exported
from sparsedict.formats import _made as made
from sparsedict.formats._made import Learned, Weights
from sparsedict.formats._place import Place
from sparsedict.formats._tensors import Tensors, read_safetensors
from sparsedict.formats._written import exact_form, noted, refuse, write_json, write_tensors
from sparsedict.norms import DecoderNorm, UnitNorm
from sparsedict.storage import StorageError
from sparsedict.torch_state import in_own_state

WEIGHTS = "sae.safetensors"
CFG = "cfg.json"


def recognises(place: Place) -> bool:
    """Whether the files are sparsify's: one hookpoint, or a folder of them."""
    if place.named is not None and place.named not in (WEIGHTS, CFG):
        return False
    return place.holds(WEIGHTS) or bool(place.inner(WEIGHTS))


def read(
    path: str | os.PathLike[str],
    *,
    transcoder_subtracts_bias: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads an autoencoder or transcoder of sparsify; its forward pass is sparsify's own.

    An autoencoder with a skip connection becomes a distiller, the kind that has a skip, with minus the decoder's bias
    as its input bias. ``trained_on`` keeps the configuration.

    Args:
        path: The folder of one hookpoint, or its file of weights.
        transcoder_subtracts_bias: Whether a transcoder subtracts the decoder's bias from its input, as sparsify did
            before February 2025; its files don't say.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; as in the file where left out.

    Raises:
        FileNotFoundError: If a file is missing, or the folder is one of several hookpoints.
        StorageError: If a file is broken.
    """
    place = Place.of(path)
    place.check_is_one(WEIGHTS, what="hookpoints")
    cfg = place.cfg(CFG, "sparsify")
    cfg_file = place.folder / CFG
    tensors = read_safetensors(place.weights(WEIGHTS, suffix=".safetensors"))
    encoder = tensors.take("encoder.weight", "n_latents", "d_in")
    bias = tensors.maybe("encoder.bias", "n_latents")
    decoder = _decoder(tensors)
    decoder_bias = tensors.take("b_dec", "d_in")
    skip = tensors.maybe("W_skip", "d_in", "d_in")
    tensors.finish("sparsify")
    _check_sizes(tensors, cfg, cfg_file)
    transcodes = made.flag(cfg, "transcode", cfg_file, False)
    subtracts = transcoder_subtracts_bias if transcodes else True
    about: dict[str, Any] = {
        "decoder_norm": _decoder_norm(cfg, cfg_file, decoder),
        "trained_on": {"library": "sparsify", "site": place.folder.name, "cfg": cfg},
        "device": device,
        "dtype": dtype,
    }
    learned = Learned(_activation(cfg, cfg_file))
    if transcodes or skip is not None:
        weights = Weights(encoder, bias, decoder, decoder_bias, -decoder_bias if subtracts else None, skip)
        return made.distiller(weights, learned, tensors.file, **about)
    weights = Weights(encoder, bias, decoder, decoder_bias)
    return made.autoencoder(weights, learned, tensors.file, offset="decoder_bias", **about)


def write(dictionary: Dictionary, path: str | os.PathLike[str]) -> None:
    """Writes a dictionary so that sparsify loads it, and computes the same.

    Offsets that sparsify hasn't, and a constant scale, go into the weights.

    Args:
        dictionary: An autoencoder, or a distiller that gives as many numbers as it reads, with TopK or GroupMax.
        path: The folder of its hookpoint.

    Raises:
        TypeError: If it is of another kind.
        ValueError: If sparsify has nothing like its activation, normalisation or widths.
    """
    form = exact_form(dictionary, "sparsify")
    (n_latents, d_in), d_out = form.encoder.shape, form.decoder.shape[1]
    if d_in != d_out:
        raise refuse(f"widths d_in={d_in} and d_out={d_out}", "sparsify", ("one width for both",))
    if form.input_norm is not None:
        raise refuse(f"the normalisation {form.input_norm}", "sparsify", ("inputs as they are",))
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
        **noted(dictionary, "sparsify"),
        **activation,
        "expansion_factor": max(1, n_latents // d_in),
        "normalize_decoder": isinstance(dictionary.decoder_norm, UnitNorm),
        "num_latents": n_latents,
        "skip_connection": form.skip is not None,
        "transcode": form.is_distiller,
        "d_in": d_in,
    }
    cfg.pop("signed", None)
    write_tensors(Path(path) / WEIGHTS, tensors)
    write_json(Path(path) / CFG, cfg)


def _decoder(tensors: Tensors) -> Tensor:
    if "decoder.weight" in tensors and "W_dec" not in tensors:
        return tensors.take_turned("decoder.weight", "d_in", "n_latents")
    return tensors.take("W_dec", "n_latents", "d_in")


def _activation(cfg: dict[str, Any], file: Path) -> Activation:
    k = made.integer(cfg, "k", file)
    name = cfg.get("activation", "topk")
    if made.flag(cfg, "signed", file, False):
        return AbsTopK(k)
    if name in ("topk", "groupmax"):
        return TopK(k) if name == "topk" else GroupMax(k)
    raise StorageError(f"{file}: `activation` must be topk or groupmax, got {str(name)[:80]!r}.")


def _named_activation(activation: Activation) -> dict[str, Any]:
    if isinstance(activation, TopK | GroupMax):
        return {"activation": "topk" if isinstance(activation, TopK) else "groupmax", "k": activation.k}
    raise refuse(f"the activation {activation}", "sparsify", ("TopK and GroupMax",))


def _decoder_norm(cfg: dict[str, Any], file: Path, decoder: Tensor) -> DecoderNorm | None:
    """Returns the constraint that the rows keep, if they do keep it: a reader changes no weights."""
    if not made.flag(cfg, "normalize_decoder", file, False):
        return None
    norms = torch.linalg.vector_norm(decoder.float(), dim=-1)
    return UnitNorm() if torch.allclose(norms, torch.ones_like(norms), rtol=0, atol=1e-2) else None


def _check_sizes(tensors: Tensors, cfg: dict[str, Any], file: Path) -> None:
    d_in, n_latents = tensors.sizes["d_in"], tensors.sizes["n_latents"]
    if cfg.get("d_in", d_in) != d_in:
        raise StorageError(f"{tensors.file}: by {CFG} `d_in` must be {str(cfg['d_in'])[:80]}, the weights say {d_in}.")
    if not cfg.get("num_latents") and not cfg.get("expansion_factor"):
        return
    wanted = cfg.get("num_latents") or d_in * made.integer(cfg, "expansion_factor", file)
    if wanted != n_latents:
        raise StorageError(
            f"{tensors.file}: by {CFG} there must be {str(wanted)[:80]} latents, the weights have {n_latents}."
        )


@in_own_state
def _bias(form: Exported) -> Tensor:
    """Returns the encoder's bias for the offset that sparsify has: the decoder's bias is subtracted by autoencoders."""
    if form.is_distiller or form.subtracts_decoder_bias:
        return form.encoder_bias
    return form.encoder_bias + form.encoder @ form.decoder_bias
