"""Tokens on their way into a model, and which of their positions count."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

Tokens = Tensor | Mapping[str, Any]
"""Token ids ``[n_sequences, n_positions]``, or the model's keyword arguments, such as a tokenizer gives."""


@dataclass(frozen=True)
class Exclusion:
    """Positions that never count: those that hold one of ``tokens``, and the first ``n_first`` of each sequence."""

    tokens: tuple[int, ...] = ()
    n_first: int = 0


@dataclass
class Seen:
    """What is known of the tokens of one forward pass."""

    ids: Tensor | None = None
    attention_mask: Tensor | None = None
    n_past: int = 0

    def clear(self) -> None:
        """Forgets the tokens, at the end of a forward pass."""
        self.ids = self.attention_mask = None
        self.n_past = 0

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Takes over what a module was called with; what isn't named there stays as it was."""
        named = (kwargs.get(key) for key in ("input_ids", "input", "tokens", "idx"))
        for value in (*named, *args[:1]):
            if isinstance(value, Tensor) and not value.is_floating_point() and value.ndim in (1, 2):
                self.ids = value
                break
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            self.attention_mask = mask
        past = getattr(kwargs.get("past_key_values"), "get_seq_length", None)
        if callable(past):
            self.n_past = int(past())  # pyright: ignore[reportArgumentType]

    def kept(
        self, shape: torch.Size, exclusion: Exclusion, device: torch.device | None = None
    ) -> Bool[Tensor, "*shape"] | None:
        """Returns which positions of activations ``[*shape, d]`` count, or None if all do.

        Raises:
            ValueError: If positions are to be excluded and the tokens don't tell which these are.
        """
        n_positions = self.ids.shape[-1] if self.ids is not None else (shape[-1] if shape else 0)
        kept = None if self.attention_mask is None else self.attention_mask.to(device) != 0
        if exclusion.n_first:
            if self.ids is None and kept is None and len(shape) < 2:
                raise ValueError(
                    f"`exclude_first`={exclusion.n_first} needs sequences, got activations of leading shape "
                    f"{tuple(shape)} and no tokens. Leave it out, or give tokens."
                )
            # Counted over real tokens, so that padding on the left moves no first position out of the exclusion.
            positions = torch.arange(self.n_past, self.n_past + n_positions, device=device)
            late = (positions if kept is None else kept.cumsum(-1) - 1) >= exclusion.n_first
            kept = late if kept is None else kept & late
        if kept is not None:
            kept = kept[..., -n_positions:]
        if exclusion.tokens:
            if self.ids is None:
                raise ValueError(
                    f"`exclude_tokens`={exclusion.tokens} needs token ids, and the model was called without any. "
                    "Leave it out, or call the model with tokens."
                )
            ids = self.ids.to(device)
            for token in exclusion.tokens:
                kept = ids != token if kept is None else kept & (ids != token)
        return None if kept is None else self._shaped(kept, shape)

    def _shaped(self, kept: Tensor, shape: torch.Size) -> Tensor:
        if self.ids is not None:
            kept = kept.expand(self.ids.shape)
        elif kept.numel() != shape.numel():
            kept = kept.expand(shape)
        if kept.numel() != shape.numel():
            raise ValueError(
                f"The tokens {tuple(kept.shape)} must have a position for each activation, but the site's have leading "
                f"shape {tuple(shape)}. Name a site that keeps the sequence's positions."
            )
        return kept.reshape(shape)


@dataclass(frozen=True)
class Call:
    """One call of a model, with what is known of its tokens."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    seen: Seen = field(default_factory=Seen)


def prepare(model: nn.Module, tokens: Tokens, *, cache: bool = True) -> Call:
    """Returns the call that ``tokens`` stand for, on the model's device.

    Raises:
        TypeError: If ``tokens`` are no tensor and no mapping, or activations where the model takes token ids.
    """
    device = next((p.device for p in model.parameters()), None)
    parameters = inspect.signature(model.forward).parameters
    if isinstance(tokens, Tensor):
        args, kwargs = (_checked(model, tokens).to(device),), {}
    elif isinstance(tokens, Mapping):
        kwargs = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in tokens.items()}
        args = ()
        if isinstance(kwargs.get("input_ids"), Tensor):
            kwargs["input_ids"] = _checked(model, kwargs["input_ids"])
            # TransformerLens calls its first argument `input`.
            if "input_ids" not in parameters and "input" in parameters:
                args = (kwargs.pop("input_ids"),)
    else:
        raise TypeError(
            "`tokens` must be a tensor of token ids [n_sequences, n_positions] or a mapping of the model's keyword "
            f"arguments, got {type(tokens).__name__}. Turn lists and arrays into a tensor with `torch.as_tensor`."
        )
    if not cache and "use_cache" in parameters and "use_cache" not in kwargs and hasattr(model, "config"):
        kwargs["use_cache"] = False
    call = Call(args, kwargs)
    call.seen.read(args, kwargs)
    return call


def _checked(model: nn.Module, tokens: Tensor) -> Tensor:
    if tokens.is_floating_point():
        if token_embedding(model) is not None and (hasattr(model, "config") or hasattr(model, "cfg")):
            raise TypeError(
                f"`tokens` must hold integer token ids, got a tensor of {tokens.dtype} {tuple(tokens.shape)}. "
                "Activations don't go through the model: give them to the dictionary itself."
            )
        return tokens
    return tokens if tokens.dtype in (torch.int32, torch.int64) else tokens.long()


def token_embedding(model: nn.Module) -> nn.Module | None:
    """Returns the module that looks up token ids, if the model has one."""
    getter = getattr(model, "get_input_embeddings", None)
    if callable(getter):
        try:
            found = getter()
        except (NotImplementedError, AttributeError):
            found = None
        return found if isinstance(found, nn.Module) and "Embedding" in type(found).__name__ else None
    own = getattr(model, "embed", None)
    if isinstance(own, nn.Module):
        return own
    return next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)


@contextmanager
def watched(model: nn.Module) -> Iterator[Seen]:
    """Keeps track of the tokens of the forward pass that the model is in."""
    seen = Seen()

    def start(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.clear()
        seen.read(args, kwargs)

    def refine(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.read(args, kwargs)

    def embed(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if seen.ids is None:
            seen.read(args, kwargs)

    def end(*_: object) -> None:
        seen.clear()

    # TransformerLens calls `forward` itself when it runs with hooks, past the hooks of the outermost module; then
    # the wrapped model or the embedding still tells the tokens.
    entries = [(model, start), (getattr(model, "original_model", None), refine), (token_embedding(model), embed)]
    handles = [m.register_forward_pre_hook(hook, with_kwargs=True) for m, hook in entries if isinstance(m, nn.Module)]
    handles.append(model.register_forward_hook(end, always_call=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
