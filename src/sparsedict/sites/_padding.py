"""Padding on the left: position ids that don't count it, and a check that it doesn't change activations."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from sparsedict.sites._arguments import CACHES, first_position
from sparsedict.sites._modes import evaluating

TOLERANCE = 0.02
"""Smallest tolerance for relative differences of outputs. In half precision it is the square root of epsilon."""

_CHECKED: WeakSet[nn.Module] = WeakSet()


def counted_positions(model: nn.Module, tokens: Mapping[str, Any]) -> Int[Tensor, "n_sequences n_positions"] | None:
    """Returns position ids without padding, if the model takes them and would otherwise count padding."""
    mask = tokens.get("attention_mask")
    parameters = inspect.signature(model.forward).parameters
    if not _is_alone(tokens) or not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    if _shape(tokens, "") != mask.shape or "position_ids" not in parameters or "decoder_input_ids" in parameters:
        return None
    real = mask != 0
    if not bool((real[:, 1:] & ~real[:, :-1]).any()):
        return None
    return (real.long().cumsum(-1) - 1).clamp_min(0) + first_position(model)


@torch.no_grad()
def check_left_padding(model: nn.Module, tokens: Mapping[str, Any], call: Mapping[str, Any]) -> None:
    """Compares a row with padding on the left to the same row without padding, once per model.

    Args:
        model: The model of the call.
        tokens: Keyword arguments as passed.
        call: The same arguments with the position ids of `counted_positions`, on the model's device.

    Raises:
        ValueError: If the outputs differ.
    """
    if model in _CHECKED or not _is_alone(tokens):
        return
    masks = {
        prefix: mask
        for prefix in ("", "decoder_")
        if isinstance(mask := call.get(f"{prefix}attention_mask"), Tensor) and _shape(call, prefix) == mask.shape
    }
    late = {prefix: rows for prefix, mask in masks.items() if len(rows := _pads_left(mask).nonzero())}
    if not late:
        return
    prefix, row = next((prefix, int(rows[0])) for prefix, rows in late.items())
    padded, bare = _row(call, row), _row(call, row)
    for other, mask in masks.items():
        for key, value in bare.items():
            own = key.startswith("decoder_") == bool(other) and isinstance(value, Tensor)
            if own and value.ndim >= 2 and value.shape[1] == mask.shape[1]:
                bare[key] = value[:, mask[row] != 0]
    found, expected = (_output(model, prefix, given) for given in (padded, bare))
    if found is not None and found.shape[:2] == (1, masks[prefix].shape[1]):
        found = found[:, masks[prefix][row] != 0]
    if found is None or expected is None or found.shape != expected.shape:
        return
    tolerance = max(TOLERANCE, torch.finfo(expected.dtype).eps ** 0.5)
    difference, size = (torch.linalg.vector_norm(x.float()) for x in (found - expected, expected))
    if bool(difference > tolerance * size):
        raise ValueError(
            f"`attention_mask` pads row {row} on the left, which changes the output of a {type(model).__name__} for "
            f"the tokens after it (by {float(difference / size):.0%}). The model counts padding in its positions, or "
            "has layers that don't mask it. Pad on the right, with `tokenizer.padding_side = 'right'`."
        )
    _CHECKED.add(model)


def _is_alone(tokens: Mapping[str, Any]) -> bool:
    """Whether a call has no positions, cache or images. Models with images compute their own positions."""
    if any(tokens.get(key) is not None for key in ("position_ids", "cache_position", *CACHES)):
        return False
    return not any(isinstance(v, Tensor) and v.ndim > 2 and not k.endswith("inputs_embeds") for k, v in tokens.items())


def _pads_left(mask: Tensor) -> Bool[Tensor, " n_sequences"]:
    real = mask != 0
    return real.any(-1) & ~real[:, :1].any(-1)


def _shape(tokens: Mapping[str, Any], prefix: str) -> torch.Size | None:
    given = [tokens.get(f"{prefix}{name}") for name in ("input_ids", "inputs_embeds")]
    return next((value.shape[:2] for value in given if isinstance(value, Tensor)), None)


def _row(call: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Returns one sequence of a call. Labels are dropped unless they are the decoder's only tokens."""
    with_labels = "decoder_attention_mask" in call and _shape(call, "decoder_") is None
    return {
        key: value[row : row + 1].clone() if isinstance(value, Tensor) and value.ndim > 1 else value
        for key, value in call.items()
        if key != "labels" or with_labels
    }


def _output(model: nn.Module, prefix: str, call: Mapping[str, Any]) -> Tensor | None:
    """Returns the model's output at the positions of one stack."""
    try:
        with evaluating(model):
            output = model(**call)
    except Exception:  # The model may need further arguments.
        return None
    names = ("logits", "last_hidden_state") if prefix else ("encoder_last_hidden_state", "logits", "last_hidden_state")
    first = output[0] if isinstance(output, tuple) and output else output
    values = (value for name in names if (value := getattr(output, name, None)) is not None)
    found = next(values, first)
    return found if isinstance(found, Tensor) and found.is_floating_point() else None
