"""Takes a dictionary apart for a library that has fewer offsets, and writes its files."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict.activations import Activation, BatchTopK, Gated, JumpReLU
from sparsedict.dictionaries import Dictionary, SparseAutoencoder, SparseDistiller
from sparsedict.norms import InputNorm, InputScale
from sparsedict.storage import check_finite, replace_file, save_tensors
from sparsedict.torch_state import in_own_state


@dataclass(frozen=True)
class Apart:
    """The weights of a dictionary, on the CPU, with its own input offset moved into the encoder's bias.

    Attributes:
        is_distiller: Whether it gives something else than it reads.
        activation: The activation.
        input_norm: The normalisation that no weights can stand for.
        subtracts_decoder_bias: Whether the decoder's bias is subtracted from the input.
        encoder: ``[n_latents, d_in]``.
        encoder_bias: ``[n_latents]``; for a gated activation what both paths share, which :attr:`state` contains too.
        decoder: ``[n_latents, d_out]``.
        decoder_bias: ``[d_out]``.
        skip: ``[d_out, d_in]``.
        state: What the activation learned.
    """

    is_distiller: bool
    activation: Activation
    input_norm: InputNorm | None
    subtracts_decoder_bias: bool
    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    skip: Tensor | None
    state: Mapping[str, Tensor]

    @property
    def threshold(self) -> Tensor | None:
        """One for each latent, of a JumpReLU or of a trained BatchTopK."""
        if isinstance(self.activation, JumpReLU):
            return self.state["log_threshold"].exp()
        if isinstance(self.activation, BatchTopK):
            threshold = self.state["threshold"]
            if bool(threshold.isnan()):
                raise ValueError(
                    "`dictionary` has a BatchTopK without a threshold yet, and without one it can't be written. Train "
                    "it with `fit`, or set `dictionary.activation_state.threshold`."
                )
            return threshold.to(self.encoder_bias.dtype).expand(len(self.encoder)).clone()
        return None

    def gate(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the biases of gate and magnitude and the logarithm of the magnitude's scale."""
        assert isinstance(self.activation, Gated)
        scale = self.state["log_scale"]
        return (
            self.state["gate_bias"] + self.encoder_bias,
            self.state["magnitude_bias"] + scale.exp() * self.encoder_bias,
            scale,
        )


@in_own_state
@torch.no_grad()
def apart(dictionary: Dictionary, library: str) -> Apart:
    """Takes a dictionary apart.

    Raises:
        TypeError: If it is of a kind that no other library has.
    """
    if not isinstance(dictionary, SparseAutoencoder | SparseDistiller):
        raise TypeError(
            f"`dictionary` must be a SparseAutoencoder or a SparseDistiller to be written for {library}, "
            f"got {type(dictionary).__name__}."
        )
    if isinstance(dictionary.input_norm, InputScale):
        dictionary = dictionary.folded()
    weights = {name: weight.detach().cpu() for name, weight in dictionary.state_dict().items()}
    check_finite({n: w for n, w in weights.items() if not n.startswith("activation_state.")}, "`dictionary`")
    bias = weights["encoder_bias"]
    if dictionary.input_bias is not None:
        bias = bias + weights["encoder"] @ weights["input_bias"]
    state = {n.removeprefix("activation_state."): w for n, w in weights.items() if n.startswith("activation_state.")}
    is_distiller = isinstance(dictionary, SparseDistiller)
    return Apart(
        is_distiller,
        dictionary.activation,
        dictionary.input_norm,
        isinstance(dictionary, SparseAutoencoder) and dictionary.input_offset == "decoder_bias",
        weights["encoder"],
        bias,
        weights["decoder"],
        weights["decoder_bias"],
        weights.get("skip"),
        state,
    )


def refuse(what: object, library: str, has: Sequence[str], remedy: str = "") -> ValueError:
    """Returns the error that a library has nothing of the kind."""
    said = f"`dictionary` has {what}, and {library} has nothing like it: only {', '.join(has)}."
    return ValueError(f"{said} {remedy}".rstrip())


CALIBRATE = (
    "Replace the activation by one threshold with the same L0, and write that: "
    "`sd.calibrate_threshold(dictionary, data).dictionary` (it measures L0 and FVU before and after)."
)
"""The remedy where a library has thresholds, but no choice among latents."""


def warn_of_unknown(missing: Mapping[str, str], consequence: str) -> None:
    """Warns of metadata that isn't known, with the arguments that give it.

    Args:
        missing: Examples of values, by the argument that takes them.
        consequence: What the other library does without them.
    """
    if missing:
        arguments = ", ".join(f"{name}={value!r}" for name, value in missing.items())
        warnings.warn(
            f"The dictionary doesn't know {', '.join(f'`{name}`' for name in missing)} in the library's own terms: "
            f"{consequence}. Give such arguments to `write`: {arguments}.",
            stacklevel=3,
        )


def is_trained_here(dictionary: Dictionary) -> bool:
    """Whether `fit` has trained it since it was read, so that what a file says of its data no longer holds."""
    return "n_tokens" in dictionary.trained_on


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file, whole or not at all."""
    # Tensors that share memory would be refused.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda path: _save(own, path))


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_tensors(path, tensors, {"format": "pt"})


def write_json(file: Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    encoded = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda path: _write_text(path, f"{encoded}\n"))


def write_text(file: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda path: _write_text(path, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def noted(dictionary: Dictionary, library: str) -> dict[str, Any]:
    """Returns the configuration that a dictionary had where it was read from this library's files."""
    cfg = dictionary.trained_on.get("cfg")
    return dict(cfg) if dictionary.trained_on.get("library") == library and isinstance(cfg, dict) else {}
