"""Functions that the writers of all formats share: the exported form of a dictionary, errors, and file writing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import BatchTopK, Gated, JumpReLU
from sparsedict.dictionaries import Dictionary, Exported
from sparsedict.storage import check_finite, replace_file, save_tensors
from sparsedict.torch_state import in_own_state


@in_own_state
@torch.no_grad()
def exact_form(dictionary: Dictionary, library: str) -> Exported:
    """Returns the exported form of a dictionary on the CPU. A constant scale of the input is folded into the weights.

    Raises:
        TypeError: If ``dictionary`` isn't a dictionary, or its kind has no exported form.
        ValueError: If a weight is NaN or infinite.
    """
    if not isinstance(dictionary, Dictionary):
        raise TypeError(
            f"`dictionary` must be a Dictionary to be written in the format of {library}, got "
            f"{type(dictionary).__name__}.{checks.unwrapped(dictionary)}"
        )
    form = dictionary.exported()
    if form.input_norm is not None and form.input_norm.affine is not None:
        form = dictionary.folded().exported()
    form = form.to_cpu()
    named = {name: getattr(form, name) for name in ("encoder", "encoder_bias", "decoder", "decoder_bias", "skip")}
    check_finite({name: weight for name, weight in named.items() if weight is not None}, "`dictionary`")
    return form


def threshold_of(form: Exported) -> Tensor | None:
    """Returns the thresholds of a JumpReLU or a trained BatchTopK, ``[n_latents]``, or ``None``."""
    if isinstance(form.activation, JumpReLU):
        return form.activation.thresholds(form.activation_state).detach()
    if isinstance(form.activation, BatchTopK):
        return threshold_of_batch(form.activation_state["threshold"], len(form.encoder), form.encoder_bias.dtype)
    return None


def threshold_of_batch(threshold: Tensor, n_latents: int, dtype: torch.dtype) -> Tensor:
    """Returns the threshold of a trained BatchTopK for each latent, ``[n_latents]``.

    Raises:
        ValueError: If the threshold wasn't measured yet.
    """
    if bool(threshold.isnan()):
        raise ValueError(
            "`dictionary` must have a measured threshold to be written, but its BatchTopK has none yet. Train the "
            "dictionary with `fit`, or set `dictionary.activation_state.threshold`."
        )
    return threshold.to(dtype).expand(n_latents).clone()


def gate_of(form: Exported) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gate bias, the magnitude bias and the logarithm of the magnitude scale of a gated activation."""
    assert isinstance(form.activation, Gated)
    scale = form.activation_state["log_scale"]
    return (
        form.activation_state["gate_bias"] + form.encoder_bias,
        form.activation_state["magnitude_bias"] + scale.exp() * form.encoder_bias,
        scale,
    )


def unsupported(what: object, library: str, has: Sequence[str], remedy: str = "") -> ValueError:
    """Returns the error for a property of the dictionary that a library doesn't support."""
    message = f"`dictionary` has {what}, but {library} supports only {', '.join(has)}."
    return ValueError(f"{message} {remedy}".rstrip())


CALIBRATE = (
    "Write `sd.calibrate_threshold(dictionary, data).dictionary` instead, which replaces the activation by a threshold "
    "with the same L0 and measures L0 and FVU before and after."
)
"""Remedy in errors for libraries that support thresholds but not TopK."""


def warn_of_unknown(missing: Mapping[str, str], consequence: str) -> None:
    """Warns about unknown metadata, and shows the arguments of ``write`` that supply it.

    Args:
        missing: An example value for each missing argument, by name.
        consequence: Behaviour of the other library without the metadata.
    """
    if missing:
        arguments = ", ".join(f"{name}={value!r}" for name, value in missing.items())
        checks.warn(
            f"The dictionary has no {', '.join(f'`{name}`' for name in missing)} in the terms of the other library: "
            f"{consequence}. Pass these arguments to `write`, for example {arguments}."
        )


def is_trained_here(dictionary: Dictionary) -> bool:
    """Returns whether `fit` has trained the dictionary since it was read, so that metadata of its data is outdated."""
    return "n_tokens" in dictionary.trained_on


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file atomically."""
    # safetensors doesn't accept tensors that share memory.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda path: _save(own, path))


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_tensors(path, tensors, {"format": "pt"})


def write_json(file: Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically."""
    encoded = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda path: _write_text(path, f"{encoded}\n"))


def write_text(file: Path, text: str) -> None:
    """Writes a text file atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda path: _write_text(path, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def original_cfg(dictionary: Dictionary, library: str) -> dict[str, Any]:
    """Returns the configuration of the file that a dictionary was read from, if it has the format of this library."""
    cfg = dictionary.trained_on.get("cfg")
    return dict(cfg) if dictionary.trained_on.get("library") == library and isinstance(cfg, dict) else {}
