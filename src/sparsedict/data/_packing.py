"""Tokenises documents and packs them into rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch

from sparsedict import checks
from sparsedict.data._items import LOOK_AHEAD, Items, as_text
from sparsedict.data._row_source import Position
from sparsedict.data._tokenizers import Tokenizer, bos_id, check_tokenizer, tokenize_texts
from sparsedict.data._tokens import Block, BlockSize, Order, Row, TokenSource, stack_rows

Bos = Literal["both", "rows", "documents", "none"]
"""Where a BOS is inserted (at the start of each row, of each document, of both, or nowhere)."""


@dataclass(frozen=True)
class Packing:
    """Options for packing documents into rows.

    Attributes:
        context: Largest number of tokens of a row.
        bos: Where a BOS is inserted.
        join: Whether a row may contain tokens of several documents.
    """

    context: int
    bos: Bos = "both"
    join: bool = True

    def __post_init__(self) -> None:
        checks.one_of("bos", self.bos, ("both", "rows", "documents", "none"))
        checks.set_boolean(self, "join")


class Texts(TokenSource):
    """Documents, tokenised and packed into rows.

    The BOS is that of the tokenizer (or its CLS or EOS if it has no BOS). It is never doubled: none is inserted in
    front of a document that starts with it, or right after a document that ends with it. Empty documents are skipped.
    The last row may be shorter, and without ``join`` also the last row of each document. A position counts documents,
    and the tokens (with the BOS) of a document that continues in the next row.
    """

    def __init__(self, items: Items, tokenizer: Tokenizer | None, packing: Packing) -> None:
        check_tokenizer(tokenizer, items.name)
        assert tokenizer is not None
        as_text(items.first, 0, items)
        self._items = items
        self._tokenizer = tokenizer
        bos = None if packing.bos == "none" else bos_id(tokenizer)
        self._row_bos = bos if packing.bos in ("both", "rows") else None
        self._document_bos = bos if packing.bos in ("both", "documents") else None
        self._context = checks.at_least("context", packing.context, 1 if self._row_bos is None else 2)
        self._join = packing.join
        self.seeks: bool = items.seeks
        packed = "packed into" if packing.join else "cut into"
        self.origin: str = f"texts from {items.origin}, {packed} sequences of {self._context:,} tokens"

    def blocks(self, order: Order | None, epoch: int, start: Position, size: BlockSize) -> Iterator[Block]:
        return stack_rows(self.rows(order, epoch, start), size)

    def rows(self, order: Order | None, epoch: int, start: Position) -> Iterator[Row]:
        """Yields packed rows."""
        row: list[int] = []
        (count, at), number = start, start[0]
        for number, document in self._documents(self._items.after(start[0], order, epoch)):
            if at == 0 and row and row[-1] == self._document_bos == document[0]:
                at = 1
            while at < len(document):
                if not row and self._row_bos is not None and self._row_bos != document[at]:
                    row.append(self._row_bos)
                taken = document[at : at + self._context - len(row)]
                row += taken
                at += len(taken)
                if len(row) == self._context or (at == len(document) and not self._join):
                    end = (count, at) if at < len(document) else (count + 1, 0)
                    yield Row(torch.tensor(row, device="cpu"), None, end, number)
                    row = []
            count, at = count + 1, 0
        if row:
            yield Row(torch.tensor(row, device="cpu"), None, (count, 0), number)

    def _documents(self, items: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, list[int]]]:
        """Yields the index and the tokens of each document, with a BOS if documents get one."""
        while group := list(islice(items, LOOK_AHEAD)):
            texts = [as_text(item, number, self._items) for number, item in group]
            for (number, _), tokens in zip(group, tokenize_texts(self._tokenizer, texts), strict=True):
                bos = self._document_bos
                yield number, tokens if bos is None or tokens[:1] in ([], [bos]) else [bos, *tokens]
