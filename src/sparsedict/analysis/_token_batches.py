"""Conversion of tokens in any form to batches of model inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from torch import Tensor, nn

from sparsedict import checks
from sparsedict.data import BlockSize, takes_mask, token_source
from sparsedict.sites import Site, Sites
from sparsedict.sites.models import IDS as ID_NAMES
from sparsedict.sites.models import check_ids, check_length, described, longest_row, vocabulary

Tokens = Tensor | Mapping[str, Any]
"""Token ids ``[n_sequences, n_positions]``, or keyword arguments of the model, such as the output of a tokenizer."""


def token_batches(tokens: Any, batch_size: int, site: Site | Sites) -> Iterator[Tokens]:
    """Yields batches of at most ``batch_size`` sequences, in order.

    Args:
        tokens: Any form that an `ActivationStream` accepts; a mapping of keyword arguments of the model, whose tensors
            are split in the same way, or a list of such mappings; or activations for a module that reads activations.
        batch_size: Number of sequences per batch.
        site: The site or the sites whose models the batches are for.

    Raises:
        TypeError: If ``tokens`` has an unsupported type.
        ValueError: If there are no tokens, a row has more positions than a model, or an id is outside of a
            model's vocabulary.
    """
    batch_size = checks.at_least("batch_size", batch_size, 1)
    sites = {"": site} if isinstance(site, Site) else dict(site)
    models = described({name: own.model for name, own in sites.items()})
    model = next(iter(models.values()))
    parts = list(tokens) if isinstance(tokens, list | tuple) else [tokens]
    if parts and all(_ready(part) for part in parts):
        if not any(map(_n_sequences, parts)):
            raise ValueError("`tokens` must contain at least one sequence, got none.")
        return _within(models, (cut for part in parts for cut in _cut(part, batch_size)))
    longest = min((n for own in models.values() if (n := longest_row(own)) is not None), default=None)
    source = token_source(tokens, getattr(model, "tokenizer", None), None, longest=longest)
    size = BlockSize(batch_size, 2**62, 2**62, pads=takes_mask(model))
    blocks = source.blocks(None, 0, (0, 0), size)
    given = (
        b.tokens if b.attention_mask is None else {"input_ids": b.tokens, "attention_mask": b.attention_mask.long()}
        for b in blocks
    )
    return _within(models, given)


def _within(models: Mapping[str, nn.Module], batches: Iterator[Tokens]) -> Iterator[Tokens]:
    """Yields the batches, and raises `ValueError` for ids or lengths that are invalid for a model."""
    limits = {owner: (longest_row(model), vocabulary(model)) for owner, model in models.items()}
    number = 0
    for batch in batches:
        ids = token_ids(batch)
        if ids is not None:
            for owner, (longest, n_vocabulary) in limits.items():
                check_length("Rows of `tokens`", ids.shape[1], longest, "Cut them into shorter rows.", owner=owner)
                check_ids(ids, n_vocabulary, range(number, number + len(ids)), owner=owner)
            number += len(ids)
        yield batch


def token_ids(tokens: Tokens) -> Tensor | None:
    """Returns the token ids ``[n_sequences, n_positions]`` of a batch, or None if it has none."""
    if isinstance(tokens, Mapping):
        tokens = next((tokens[key] for key in ID_NAMES if key in tokens), tokens)
    if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.ndim != 2:
        return None
    return tokens.long()


def with_ids(tokens: Tokens, ids: Tensor) -> Tokens:
    """Returns the batch with its token ids replaced."""
    if not isinstance(tokens, Mapping):
        return ids
    key = next((key for key in ID_NAMES if key in tokens), ID_NAMES[0])
    return {**tokens, key: ids}


def _ready(tokens: object) -> TypeGuard[Tokens]:
    """Returns whether the tokens are inputs of a model already."""
    if isinstance(tokens, Mapping):
        return any(isinstance(value, Tensor) and value.ndim > 1 for value in tokens.values())
    return isinstance(tokens, Tensor) and tokens.ndim > 1


def _n_sequences(tokens: Tokens) -> int:
    """Returns the number of sequences.

    Raises:
        ValueError: If the tensors of a mapping have different numbers of sequences.
    """
    if isinstance(tokens, Tensor):
        return len(tokens)
    lengths = {len(value) for value in tokens.values() if isinstance(value, Tensor) and value.ndim > 1}
    if len(lengths) != 1:
        raise ValueError(f"The tensors of `tokens` must have the same number of sequences, got {sorted(lengths)}.")
    return lengths.pop()


def _cut(tokens: Tokens, size: int) -> Iterator[Tokens]:
    for start in range(0, _n_sequences(tokens), size):
        rows = slice(start, start + size)
        if isinstance(tokens, Tensor):
            yield tokens[rows]
        else:
            yield {key: v[rows] if isinstance(v, Tensor) and v.ndim > 1 else v for key, v in tokens.items()}
