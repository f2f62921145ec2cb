"""The form of a dictionary that writers store, and the files that they write."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict.activations import BatchTopK, Gated, JumpReLU
from sparsedict.dictionaries import Dictionary, Exported
from sparsedict.norms import InputScale
from sparsedict.storage import check_finite, replace_file, save_tensors
from sparsedict.torch_state import in_own_state


@in_own_state
@torch.no_grad()
def exact_form(dictionary: Dictionary, library: str) -> Exported:
    """Returns the form of a dictionary that a writer stores: on the CPU, a constant scale of the input in the weights.

    Raises:
        TypeError: If it is no dictionary, or of a kind without an exact form.
        ValueError: If a weight is NaN or infinite.
    """
    if not isinstance(dictionary, Dictionary):
        raise TypeError(
            f"`dictionary` must be a Dictionary to be written for {library}, got {type(dictionary).__name__}."
        )
    form = dictionary.exported()
    if isinstance(form.input_norm, InputScale):
        form = dictionary.folded().exported()
    form = form.to_cpu()
    named = {name: getattr(form, name) for name in ("encoder", "encoder_bias", "decoder", "decoder_bias", "skip")}
    check_finite({name: weight for name, weight in named.items() if weight is not None}, "`dictionary`")
    return form


def threshold_of(form: Exported) -> Tensor | None:
    """Returns one threshold for each latent, of a JumpReLU or of a trained BatchTopK."""
    if isinstance(form.activation, JumpReLU):
        return form.activation_state["log_threshold"].exp()
    if isinstance(form.activation, BatchTopK):
        threshold = form.activation_state["threshold"]
        if bool(threshold.isnan()):
            raise ValueError(
                "`dictionary` has a BatchTopK without a threshold yet, and without one it can't be written. Train "
                "it with `fit`, or set `dictionary.activation_state.threshold`."
            )
        return threshold.to(form.encoder_bias.dtype).expand(len(form.encoder)).clone()
    return None


def gate_of(form: Exported) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the biases of gate and magnitude of a gated activation, and the logarithm of the magnitude's scale."""
    assert isinstance(form.activation, Gated)
    scale = form.activation_state["log_scale"]
    return (
        form.activation_state["gate_bias"] + form.encoder_bias,
        form.activation_state["magnitude_bias"] + scale.exp() * form.encoder_bias,
        scale,
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
