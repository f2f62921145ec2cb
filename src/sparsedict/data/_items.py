"""Tokens and texts that come one item at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sparsedict import checks
from sparsedict.data._batches import Position
from sparsedict.data._seeds import permutation
from sparsedict.data._tokens import (
    DEFAULT_CONTEXT,
    Block,
    BlockSize,
    Order,
    Row,
    RowArray,
    TokenSource,
    is_integral,
    stacked,
)

LOOK_AHEAD = 64
"""Documents that are fetched and tokenised together."""

Tokenizer = Callable[..., Any]
"""A Hugging Face tokenizer, or a function from a text to its token ids."""


def token_source(tokens: Any, tokenizer: Tokenizer | None, context: int | None) -> TokenSource:
    """Returns a source for any form of tokens that `ActivationStream` takes.

    Raises:
        TypeError: If it is none of them, or texts come without a tokenizer.
        ValueError: If it is empty.
    """
    if context is not None:
        checks.at_least("context", context, 1)
    if isinstance(tokens, Tensor | np.ndarray):
        return RowArray(tokens, None, context)
    if isinstance(tokens, Mapping):
        return _from_mapping(tokens, context)
    if isinstance(tokens, list | tuple) and tokens and all(isinstance(token, int) for token in tokens):
        return RowArray(torch.tensor(tokens, device="cpu"), None, context)
    if isinstance(tokens, str | bytes) or not (isinstance(tokens, Iterable) or _indexed(tokens)):
        raise TypeError(
            "`tokens` must be token ids [n_sequences, context], one long row of them, a dataset, or an iterable of "
            f"token batches or texts, got {type(tokens).__name__}{': put it in a list' * isinstance(tokens, str)}."
        )
    items = Items(tokens)
    if _text(items.first) is not None:
        return Texts(items, tokenizer, context)
    _rows(items.first)
    return TokenItems(items, context)


def pack(texts: Iterable[str], tokenizer: Tokenizer, *, context: int = DEFAULT_CONTEXT) -> Int[Tensor, "n context"]:
    """Returns texts as rows of tokens, each row and each document begun by the tokenizer's BOS.

    What doesn't fill a last row is left out. A stream over these tokens knows how many there are, and if they fit
    into its buffer, harvests them once for all passes.

    Args:
        texts: Documents.
        tokenizer: A Hugging Face tokenizer, or a function from a text to token ids (then nothing begins rows).
        context: Tokens per row.

    Raises:
        ValueError: If the texts don't fill one row.
    """
    source = Texts(Items(texts), tokenizer, checks.at_least("context", context, 1))
    rows = [row.tokens for row in source.rows(None, 0, (0, 0)) if len(row.tokens) == context]
    if not rows:
        raise ValueError(f"`texts` must fill at least one row of {context} tokens, got fewer. Lower `context`.")
    return torch.stack(rows)


def _from_mapping(tokens: Mapping[str, Any], context: int | None) -> TokenSource:
    ids, mask = tokens.get("input_ids"), tokens.get("attention_mask")
    if ids is None:
        raise TypeError(
            f"`tokens` must have `input_ids` where it is a mapping, got the keys {sorted(map(str, tokens))[:8]}. "
            "Of a dataset with splits, take one."
        )
    if not isinstance(ids, Tensor | np.ndarray) and len({len(row) for row in ids}) > 1:
        masks = mask if mask is not None else [None] * len(ids)
        pairs = zip(ids, masks, strict=True)
        return TokenItems(Items([{"input_ids": row, "attention_mask": own} for row, own in pairs]), context)
    return RowArray(
        torch.as_tensor(ids, device="cpu"), None if mask is None else torch.as_tensor(mask, device="cpu"), context
    )


def _indexed(data: object) -> bool:
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


class Items:
    """A sequence of items in an order of each pass's own, or an iterable, gone through from its beginning.

    Attributes:
        first: The first item.
        seeks: Whether items can be fetched in any order.
    """

    def __init__(self, data: Any) -> None:
        self.seeks = _indexed(data)
        self.kind = type(data).__name__
        self._data: Any = data
        iterator = iter(data) if not self.seeks else (data[index] for index in range(min(1, len(data))))
        self._once = iterator is data
        self._read = False
        self.first = next(iterator, None)
        if self.first is None:
            raise ValueError(f"`tokens` must give at least one item, got an empty {self.kind}.")
        if self._once:
            self._data = chain([self.first], iterator)

    @property
    def origin(self) -> str:
        if self.seeks:
            return f"a {self.kind} of {len(self._data):,}"
        return f"a {self.kind} {'that can be read once' if self._once else 'in its own order'}"

    def after(self, start: int, order: Order | None, epoch: int) -> Iterator[Any]:
        """Serves a pass from item ``start`` on."""
        if self.seeks:
            return self._fetched(start, order)
        if self._once and self._read:
            raise ValueError(
                f"`tokens` is an iterator ({self.kind}) that has been read and can't begin again. Give an object whose "
                "iter() starts anew, such as a list or a dataset, or ask for fewer tokens."
            )
        self._read = True
        # Datasets that stream have a shuffle of their own, which wants to know of the pass.
        set_epoch = getattr(self._data, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
        return islice(iter(self._data), start, None)

    def _fetched(self, start: int, order: Order | None) -> Iterator[Any]:
        n = len(self._data)
        index = torch.arange(n, device="cpu") if order is None else permutation(n, *order)
        several = getattr(self._data, "__getitems__", None)
        for low in range(start, n, LOOK_AHEAD):
            chosen = index[low : low + LOOK_AHEAD].tolist()
            fetched: Any = several(chosen) if callable(several) else (self._data[i] for i in chosen)
            yield from fetched


class TokenItems(TokenSource):
    """Items that hold tokens: rows, batches of rows, or mappings with ``input_ids`` and ``attention_mask``."""

    def __init__(self, items: Items, context: int | None) -> None:
        self._items = items
        self._context = context
        self.seeks = items.seeks
        self.origin = f"tokens from {items.origin}"

    def blocks(self, order: Order | None, epoch: int, start: Position, size: BlockSize) -> Iterator[Block]:
        return stacked(self._cut(order, epoch, start), size)

    def _cut(self, order: Order | None, epoch: int, start: Position) -> Iterator[Row]:
        for number, item in enumerate(self._items.after(start[0], order, epoch), start[0]):
            pieces = [piece for row in _rows(item) for piece in _pieces(*row, self._context)]
            skipped = start[1] if number == start[0] else 0
            for count, (tokens, mask) in enumerate(pieces[skipped:], skipped + 1):
                yield Row(tokens, mask, (number + 1, 0) if count == len(pieces) else (number, count))


def _pieces(tokens: Tensor, mask: Tensor | None, context: int | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    step = context or max(1, len(tokens))
    for low in range(0, len(tokens), step):
        yield tokens[low : low + step], None if mask is None else mask[low : low + step]


def _rows(item: Any) -> list[tuple[Tensor, Tensor | None]]:
    """Returns the sequences of one item."""
    mask = None
    if isinstance(item, Mapping):
        mask = item.get("attention_mask")
        if "input_ids" not in item:
            raise TypeError(
                "`tokens` must give items with `input_ids` or `text`, got the columns "
                f"{sorted(map(str, item))[:8]}. Rename the column that holds the text."
            )
        item = item["input_ids"]
    try:
        tokens = torch.as_tensor(item, device="cpu")
        mask = None if mask is None else torch.as_tensor(mask, device="cpu") != 0
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`tokens` must give token ids or texts, got an item of type {type(item).__name__} that is neither."
        ) from error
    if tokens.numel() and not is_integral(tokens):
        raise TypeError(
            f"`tokens` must give integer token ids, got an item of {tokens.dtype} {tuple(tokens.shape)}. Activations "
            "need no stream: give them to `fit` as they are."
        )
    if tokens.ndim not in (1, 2):
        raise ValueError(
            f"`tokens` must give rows [n_positions] or batches [n_sequences, n_positions], got an item of shape "
            f"{tuple(tokens.shape)}."
        )
    if mask is not None and mask.shape != tokens.shape:
        raise ValueError(
            f"`attention_mask` must have the shape of its tokens, {tuple(tokens.shape)}, got {tuple(mask.shape)}."
        )
    tokens = tokens.to("cpu", torch.int64)
    tokens, mask = (t if t is None or t.ndim == 2 else t[None] for t in (tokens, mask))
    assert tokens is not None
    return [(row, None if mask is None else mask[index]) for index, row in enumerate(tokens)]


def _text(item: Any) -> str | None:
    if isinstance(item, Mapping) and "input_ids" not in item:
        item = item.get("text")
    return item if isinstance(item, str) else None


class Texts(TokenSource):
    """Documents, tokenised and packed into rows without a gap.

    Each row and each document begins with the tokenizer's BOS (its CLS or EOS, where it has no BOS). The last row may
    be shorter. A position counts documents, and tokens of the document that a row breaks.
    """

    def __init__(self, items: Items, tokenizer: Tokenizer | None, context: int | None) -> None:
        if tokenizer is None:
            raise TypeError("`tokenizer` must be given where `tokens` are texts, got None.")
        if not callable(tokenizer):
            raise TypeError(f"`tokenizer` must be callable on texts, got {type(tokenizer).__name__}.")
        self._items = items
        self._tokenizer = tokenizer
        self._bos = _beginning(tokenizer)
        self._context = checks.at_least("context", context or DEFAULT_CONTEXT, 1 if self._bos is None else 2)
        self.seeks = items.seeks
        self.origin = f"texts from {items.origin}, packed into sequences of {self._context:,} tokens"

    def blocks(self, order: Order | None, epoch: int, start: Position, size: BlockSize) -> Iterator[Block]:
        return stacked(self.rows(order, epoch, start), size)

    def rows(self, order: Order | None, epoch: int, start: Position) -> Iterator[Row]:
        """Serves packed rows."""
        row: list[int] = []
        number, at = start
        for document in self._tokenised(self._items.after(start[0], order, epoch)):
            while at < len(document):
                if self._bos is not None and (not row or at == 0):
                    row.append(self._bos)
                taken = document[at : at + self._context - len(row)]
                row += taken
                at += len(taken)
                if len(row) == self._context:
                    yield Row(
                        torch.tensor(row, device="cpu"), None, (number, at) if at < len(document) else (number + 1, 0)
                    )
                    row = []
            number, at = number + 1, 0
        if row:
            yield Row(torch.tensor(row, device="cpu"), None, (number, 0))

    def _tokenised(self, items: Iterator[Any]) -> Iterator[list[int]]:
        while group := list(islice(items, LOOK_AHEAD)):
            texts = [_text(item) for item in group]
            missing = next((item for item, text in zip(group, texts, strict=True) if text is None), None)
            if missing is not None:
                raise TypeError(f"`tokens` must give texts only, got an item of type {type(missing).__name__} as well.")
            if hasattr(self._tokenizer, "bos_token_id"):
                yield from self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            else:
                yield from ([int(token) for token in self._tokenizer(text)] for text in texts)


def _beginning(tokenizer: Tokenizer) -> int | None:
    for name in ("bos_token_id", "cls_token_id", "eos_token_id"):
        value = getattr(tokenizer, name, None)
        if value is not None:
            return int(value)
    return None
