"""Tokens cut into batches of sequences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from torch import Tensor

from sparsedict import checks

Tokens = Tensor | Mapping[str, Any]
"""Token ids ``[n_sequences, n_positions]``, or the model's keyword arguments, such as a tokenizer gives."""


def token_batches(tokens: Tokens | Iterable[Tokens], batch_size: int) -> list[Tokens]:
    """Returns batches that a model takes, each of at most ``batch_size`` sequences unless it came ready-made.

    Args:
        tokens: Ids ``[n_sequences, n_positions]``; a mapping of the model's keyword arguments, whose tensors are cut
            alike; or an iterable of either, as batches.
        batch_size: Sequences per batch.

    Raises:
        TypeError: If ``tokens`` are none of these.
        ValueError: If there are none.
    """
    checks.at_least("batch_size", batch_size, 1)
    if isinstance(tokens, Tensor | Mapping):
        batches = list(_cut(cast(Tokens, tokens), batch_size))
    elif isinstance(tokens, Iterable) and not isinstance(tokens, str | bytes):
        batches = [part for batch in tokens for part in _checked(batch)]
    else:
        raise TypeError(f"`tokens` must be {_WANTED}, got {type(tokens).__name__}.")
    if not batches:
        raise ValueError("`tokens` must hold at least one sequence, got none.")
    return batches


_WANTED = (
    "a tensor of token ids [n_sequences, n_positions], a mapping of the model's keyword arguments, or an iterable of "
    "these as batches"
)


def token_ids(tokens: Tokens) -> Tensor | None:
    """Returns the token ids ``[n_sequences, n_positions]`` of a batch, or None where it has none."""
    if isinstance(tokens, Mapping):
        tokens = next((tokens[key] for key in ("input_ids", "input", "tokens", "idx") if key in tokens), tokens)
    if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.ndim != 2:
        return None
    return tokens


def _checked(batch: Any) -> Iterator[Tokens]:
    if not isinstance(batch, Tensor | Mapping):
        raise TypeError(f"`tokens` must be {_WANTED}, got an iterable of {type(batch).__name__}.")
    return _cut(batch, 2**62)


def _cut(tokens: Tokens, size: int) -> Iterator[Tokens]:
    if isinstance(tokens, Tensor):
        if tokens.ndim < 2:
            raise ValueError(
                f"`tokens` must have the shape [n_sequences, n_positions], got {tuple(tokens.shape)}. "
                "Cut a long text with `tokens.reshape(-1, n_positions)`."
            )
        yield from (part for part in tokens.split(min(size, max(len(tokens), 1))) if part.numel())
        return
    lengths = {len(value) for value in tokens.values() if isinstance(value, Tensor) and value.ndim > 1}
    if len(lengths) != 1:
        raise ValueError(f"The tensors of `tokens` must hold the same number of sequences, got {sorted(lengths)}.")
    n = lengths.pop()
    for start in range(0, n, size):
        stop = min(start + size, n)
        cut = {k: v[start:stop] if isinstance(v, Tensor) and v.ndim > 1 else v for k, v in tokens.items()}
        yield cut
