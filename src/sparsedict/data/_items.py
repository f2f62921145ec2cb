"""Sequences and iterables of items, each with tokens or a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedict.data._row_source import Position
from sparsedict.data._tables import MASK, TEXT, TOKENS, chosen_columns
from sparsedict.data._tokens import Block, BlockSize, Order, Row, TokenSource, is_integral, not_ids_message, stack_rows
from sparsedict.seeds import permutation
from sparsedict.sites.models import check_length

LOOK_AHEAD = 64
"""Number of items to fetch, and of documents to tokenise, at a time."""

_NOTHING = object()


class Items:
    """A sequence of items, shuffled for each pass, or an iterable, read from its beginning for each pass.

    Attributes:
        first: The first item.
        seeks: Whether items can be fetched in any order.
        name: Name of the caller's parameter, for error messages.
        text_column: Key of the text in items that are mappings; ``None`` for the default.
    """

    def __init__(self, data: Any, name: str = "tokens", text_column: str | None = None) -> None:
        self.seeks: bool = has_random_access(data)
        self.kind: str = type(data).__name__
        self.name = name
        self.text_column = text_column
        self._data: Any = data
        iterator = iter(data) if not self.seeks else (data[index] for index in range(min(1, len(data))))
        self._once = iterator is data
        self._read = False
        self.first: Any = next(iterator, _NOTHING)
        if self.first is _NOTHING:
            raise ValueError(f"`{name}` must have at least one item, got an empty {self.kind}.")
        if self._once:
            self._data = chain([self.first], iterator)

    @property
    def origin(self) -> str:
        if self.seeks:
            return f"a {self.kind} of {len(self._data):,}"
        return f"a {self.kind} {'that can be read once' if self._once else 'in its own order'}"

    def after(self, start: int, order: Order | None, epoch: int) -> Iterator[tuple[int, Any]]:
        """Yields the items of a pass from item ``start`` on, each with its index in the data."""
        if self.seeks:
            return self._fetched(start, order)
        if self._once and self._read:
            raise ValueError(
                f"`{self.name}` must be re-iterable for another pass, got an iterator ({self.kind}), which can be read "
                "only once. Pass a list or a dataset instead, or train on fewer tokens."
            )
        self._read = True
        # Streaming datasets have their own shuffle, which depends on the epoch.
        set_epoch = getattr(self._data, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
        return islice(enumerate(self._data), start, None)

    def _fetched(self, start: int, order: Order | None) -> Iterator[tuple[int, Any]]:
        n = len(self._data)
        index = torch.arange(n, device="cpu") if order is None else permutation(n, *order)
        several = getattr(self._data, "__getitems__", None)
        for low in range(start, n, LOOK_AHEAD):
            chosen = index[low : low + LOOK_AHEAD].tolist()
            fetched: Any = several(chosen) if callable(several) else (self._data[i] for i in chosen)
            yield from zip(chosen, fetched, strict=True)


def has_random_access(data: object) -> bool:
    """Whether the items of the data can be fetched in any order."""
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


def as_text(item: Any, number: int, items: Items) -> str:
    """Returns the text of an item.

    Raises:
        TypeError: If it has no text. The error names the item and the remedy.
    """
    found, where = item, f"`{items.name}[{number}]`"
    if isinstance(item, Mapping):
        column = TEXT if items.text_column is None else items.text_column
        if column not in item:
            chosen_columns([str(key) for key in item], f"{items.name}[{number}]", items.text_column or "text")
        found, where = item[column], f"{where}, column {column!r},"
    elif items.text_column is not None:
        raise ValueError(
            f"`text_column` must be omitted if `{items.name}` has no columns, got {items.text_column!r} for items "
            f"of type {type(item).__name__}."
        )
    if isinstance(found, str):
        return found
    raise TypeError(f"{where} must be a text, got {_described(found)}. {_text_remedy(found)}")


def _described(found: Any) -> str:
    if found is None:
        return "None"
    shown = repr(found).partition("\n")[0]
    return f"{shown[:40] + '...' if len(shown) > 40 else shown} of type {type(found).__name__}"


def is_missing(found: Any) -> bool:
    """Whether a value of a table is missing: None, NaN, or the NA of pandas."""
    return found is None or type(found).__name__ == "NAType" or (isinstance(found, float) and found != found)


def _text_remedy(found: Any) -> str:
    if is_missing(found):
        return "Remove rows without a text first, or replace the missing texts by '', which are skipped."
    if isinstance(found, bytes):
        return "Decode it first."
    if isinstance(found, list | tuple) and found and isinstance(found[0], str):
        return "Pass a flat list with one text per item."
    if isinstance(found, list | tuple) and found and isinstance(found[0], Mapping):
        return "Convert chats to texts first, for example with `tokenizer.apply_chat_template(..., tokenize=False)`."
    if isinstance(found, list | tuple | np.ndarray | Tensor):
        return "Pass only texts, or only token ids. A dataset's column of token ids must be named `input_ids`."
    return "Pass only texts, or only token ids."


class TokenItems(TokenSource):
    """Items with tokens: rows, batches of rows, or mappings with ``input_ids`` and ``attention_mask``."""

    def __init__(self, items: Items, context: int | None, longest: int | None) -> None:
        self._items = items
        self._context = context
        self._longest = longest
        self.seeks = items.seeks
        self.origin = f"tokens from {items.origin}"
        rows_of(items.first, "`tokens[0]`")

    def blocks(self, order: Order | None, epoch: int, start: Position, size: BlockSize) -> Iterator[Block]:
        return stack_rows(self._cut(order, epoch, start), size)

    def _cut(self, order: Order | None, epoch: int, start: Position) -> Iterator[Row]:
        for count, (number, item) in enumerate(self._items.after(start[0], order, epoch), start[0]):
            name = f"`{self._items.name}[{number}]`"
            pieces = [piece for row in rows_of(item, name) for piece in _pieces(*row, self._context)]
            skipped = start[1] if count == start[0] else 0
            for done, (tokens, mask) in enumerate(pieces[skipped:], skipped + 1):
                check_length(name, len(tokens), self._longest, f"Split longer rows with context={self._longest}.")
                yield Row(tokens, mask, (count + 1, 0) if done == len(pieces) else (count, done), number)


def _pieces(tokens: Tensor, mask: Tensor | None, context: int | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    step = context or max(1, len(tokens))
    for low in range(0, len(tokens), step):
        yield tokens[low : low + step], None if mask is None else mask[low : low + step]


def rows_of(item: Any, name: str) -> list[tuple[Tensor, Tensor | None]]:
    """Returns the sequences of one item, each with its mask.

    Raises:
        TypeError: If the item doesn't hold integer ids.
        ValueError: If its shape isn't that of a row or a batch of rows.
    """
    mask = None
    if isinstance(item, Mapping):
        chosen_columns([str(key) for key in item], name, None)
        mask, item = item.get(MASK), item.get(TOKENS)
    tokens = _tensor(item, name)
    mask = None if mask is None else _tensor(mask, f"the {MASK} of {name}").cpu() != 0
    if tokens.numel() and not is_integral(tokens):
        raise TypeError(not_ids_message(name, tokens))
    if tokens.ndim not in (1, 2):
        what = ". Put the ids of a row in a list or an array" if tokens.ndim == 0 else ""
        raise ValueError(
            f"{name} must be a row [n_positions] or a batch [n_sequences, n_positions], got the shape "
            f"{tuple(tokens.shape)}{what}."
        )
    if mask is not None and mask.shape != tokens.shape:
        raise ValueError(
            f"`attention_mask` must have the shape of its tokens, {tuple(tokens.shape)}, got {tuple(mask.shape)} in "
            f"{name}."
        )
    tokens = tokens.to("cpu", torch.int64)
    tokens, mask = (t if t is None or t.ndim == 2 else t[None] for t in (tokens, mask))
    assert tokens is not None
    return [(row, None if mask is None else mask[index]) for index, row in enumerate(tokens)]


def _tensor(item: Any, name: str) -> Tensor:
    if isinstance(item, list | tuple) and len(item) == 1 and isinstance(item[0], Tensor | np.ndarray):
        item = item[0]  # an item of a TensorDataset
    try:
        if isinstance(item, np.ndarray):
            return (
                torch.from_numpy(item.astype(np.int64))
                if item.dtype.kind in "iu"
                else torch.as_tensor(item.tolist(), device="cpu")
            )
        return torch.as_tensor(item, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        several = isinstance(item, list | tuple) and item and isinstance(item[0], Tensor)
        remedy = (
            "Pass tokens and mask as a mapping with `input_ids` and `attention_mask`."
            if several
            else "Pass only token ids, or only texts."
        )
        raise TypeError(f"{name} must contain integer token ids, got {_described(item)}. {remedy}") from error
