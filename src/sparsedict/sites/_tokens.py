"""Prepares tokens as arguments of a model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsedict.sites._arguments import CACHES
from sparsedict.sites._devices import input_device
from sparsedict.sites._embedding import token_embedding
from sparsedict.sites._limits import check_ids, check_length, longest_row, looks_up_positions, vocabulary
from sparsedict.sites._padding import check_left_padding, counted_positions

Tokens = Tensor | Mapping[str, Any]
"""Token ids ``[n_sequences, n_positions]``, or the model's keyword arguments, such as a tokenizer's output."""


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def copied(self) -> Call:
        """Returns a call with copied tensors, since some models modify their arguments in place."""

        def copy(value: Any) -> Any:
            return value.clone() if isinstance(value, Tensor) else value

        return Call(tuple(map(copy, self.args)), {key: copy(value) for key, value in self.kwargs.items()})


def prepare(model: nn.Module, tokens: Tokens, *, cache: bool = True, owner: str | None = None) -> Call:
    """Returns the arguments of the model for some tokens, on the model's device.

    If there is padding on the left and the model takes ``position_ids``, they are computed from the ``attention_mask``
    without padding, so that padding doesn't change the activations.

    Args:
        model: The model.
        tokens: The tokens.
        cache: Whether the model may return a cache.
        owner: Description of the model for messages; by default its class.

    Raises:
        TypeError: If ``tokens`` isn't a tensor or a mapping, or holds activations but the model takes token ids.
        ValueError: If ids are outside of the model's vocabulary, rows exceed its maximum length, or padding on the
            left changes the model's output.
    """
    device, owner = input_device(model), owner or f"the {type(model).__name__}"
    parameters = inspect.signature(model.forward).parameters
    if isinstance(tokens, Tensor):
        tokens = _rows(model, tokens)
        args, kwargs = (_checked(model, tokens).to(device),), {}
        _check_limits(model, {"input_ids": tokens}, owner)
    elif isinstance(tokens, Mapping):
        _check_types(tokens)
        _check_limits(model, tokens, owner)
        positions = counted_positions(model, tokens)
        given = tokens if positions is None else {**tokens, "position_ids": positions}
        kwargs = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in given.items()}
        args = ()
        check_left_padding(model, tokens, kwargs)
        if isinstance(kwargs.get("input_ids"), Tensor):
            kwargs["input_ids"] = _checked(model, kwargs["input_ids"])
            # The first argument of TransformerLens models is `input`.
            if "input_ids" not in parameters and "input" in parameters:
                args = (kwargs.pop("input_ids"),)
    else:
        raise TypeError(
            "`tokens` must be a tensor of token ids [n_sequences, n_positions] or a mapping of the model's keyword "
            f"arguments, got {type(tokens).__name__}. Turn lists and arrays into a tensor with `torch.as_tensor`."
        )
    if not cache and "use_cache" in parameters and "use_cache" not in kwargs and hasattr(model, "config"):
        kwargs["use_cache"] = False
    return Call(args, kwargs)


def _rows(model: nn.Module, ids: Tensor) -> Tensor:
    """Returns token ids as rows. A model with a configuration takes one sequence ``[n_positions]`` as one row."""
    return ids[None] if ids.ndim == 1 and hasattr(model, "config") and not ids.is_floating_point() else ids


def _check_types(tokens: Mapping[str, Any]) -> None:
    """Raises `TypeError` for lists and arrays, which a tokenizer returns unless it is asked for tensors."""
    for key in ("input_ids", "decoder_input_ids", "attention_mask", "decoder_attention_mask", "position_ids"):
        if isinstance(tokens.get(key), list | tuple | np.ndarray):
            raise TypeError(
                f"`tokens[{key!r}]` must be a tensor [n_sequences, n_positions], got {type(tokens[key]).__name__}. "
                "Call the tokenizer with `return_tensors='pt'`, or convert it with `torch.as_tensor`."
            )


def _check_limits(model: nn.Module, tokens: Mapping[str, Any], owner: str) -> None:
    """Raises `ValueError` for ids and lengths beyond the model's embeddings, which would crash the model."""
    # Multimodal models mark images and sounds by special ids.
    floats = {key for key, value in tokens.items() if isinstance(value, Tensor) and value.is_floating_point()}
    if any(not key.endswith("mask") and key != "inputs_embeds" for key in floats):
        return
    is_cached = any(tokens.get(key) is not None for key in ("position_ids", "cache_position", *CACHES))
    for key in ("input_ids", "decoder_input_ids"):
        ids = tokens.get(key)
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_meta or not ids.ndim:
            continue
        name = "`tokens`" if key == "input_ids" else f"`{key}`"
        stack = _decoder(model) if key != "input_ids" else model
        check_ids(
            ids if ids.ndim > 1 else ids[None], None if stack is None else vocabulary(stack), name=name, owner=owner
        )
        longest = longest_row(model)
        if longest is not None and ids.shape[-1] > longest and not is_cached and looks_up_positions(model):
            remedy = "Split them into shorter rows."
            check_length(f"Rows of {name}", ids.shape[-1], longest, remedy, owner=owner)


def _decoder(model: nn.Module) -> nn.Module | None:
    getter = getattr(model, "get_decoder", None)
    found = getter() if callable(getter) else None
    return found if isinstance(found, nn.Module) else None


def _checked(model: nn.Module, tokens: Tensor) -> Tensor:
    if tokens.is_floating_point():
        if token_embedding(model) is not None and (hasattr(model, "config") or hasattr(model, "cfg")):
            raise TypeError(
                f"`tokens` must contain integer token ids, got a tensor of {tokens.dtype} {tuple(tokens.shape)}. "
                "Pass activations to the dictionary instead of the model."
            )
        return tokens
    return tokens if tokens.dtype in (torch.int32, torch.int64) else tokens.long()
