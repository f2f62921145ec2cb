"""Data named on the command line, as tokens to train on and tokens held out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sparsedict.cli._data_files import SUFFIXES, read_files, suffix
from sparsedict.cli._data_name import DataName
from sparsedict.cli._data_sets import read_folder, read_hub
from sparsedict.data import BlockSize, Bos, Texts, TokenSource, token_source

TOO_MANY = 2
"""At most so many times the tokens that are wanted are read, since the held-out ones are among them."""


@dataclass(frozen=True)
class Corpus:
    """How data is to be read.

    Attributes:
        tokenizer: Of texts; ``None`` where the model brings none.
        context: Tokens per sequence.
        column: Column, field or tensor that holds the texts or token ids; ``None`` for ``input_ids``, else ``text``.
        split: Of a dataset; ``None`` for ``train``.
        n_tokens: About so many tokens are wanted. Twice as many are read, from the beginning.
        config: Configuration of a dataset; ``None`` for the usual one.
        bos: Where texts get a BOS, see `sparsedict.data.pack`.
        join: Whether a sequence may hold tokens of several texts.
        cut: Whether token rows of another length than ``context`` are joined and cut to it, though all have one length.
    """

    tokenizer: Any | None
    context: int
    column: str | None
    split: str | None
    n_tokens: int
    config: str | None = None
    bos: Bos = "both"
    join: bool = True
    cut: bool = False

    def read(self, name: str, option: str = "--data") -> Int[Tensor, "n_sequences context"]:
        """Returns the sequences of a file, a folder, files that a pattern names, or a dataset on the hub.

        Args:
            name: See `DataName`.
            option: That it was given to, for errors.

        Raises:
            FileNotFoundError: If there is no such data.
            ValueError: If it isn't in a known form, or too short for one sequence.
        """
        own = ":" in name and option != "--data"  # other data says its own split
        data = DataName.parsed(name, None if own else self.config, None if own else self.split, option)
        found = self._found(data)
        try:
            found, column, are_ids = _recognised(found, self.column)
            long = getattr(found, "ndim", 0) == 1
            source = token_source(
                found,
                self.tokenizer or _no_tokenizer(data),
                None if are_ids and not long else self.context,
                text_column=column,
                bos=self.bos,
                join=self.join,
            )
            return self._rows(source, long=long)
        except (TypeError, ValueError) as error:
            raise ValueError(_for_options(str(error), data)) from error

    def _found(self, data: DataName) -> Any:
        if data.path.is_dir():
            return read_folder(data, self.column)
        files = [data.path] if data.path.is_file() else data.files
        if files:
            known = {suffix(file) in ("", *SUFFIXES) for file in files}
            if known != {True}:
                raise ValueError(
                    f"{data.option} must end in {', '.join(SUFFIXES)} where it is a file, got {data.name!r}."
                )
            return read_files(files, self.column)
        missing = data.missing(SUFFIXES)
        if missing is not None:
            raise missing
        return read_hub(data)

    def _rows(self, source: TokenSource, *, long: bool) -> Tensor:
        """Returns rows of one length: those of the data, or the data's tokens joined and cut anew."""
        rows: list[Tensor] = []
        n_tokens, wanted = 0, TOO_MANY * self.n_tokens
        for block in source.blocks(None, 0, (0, 0), BlockSize(None, min(2**12, wanted), 2**62, pads=True)):
            if block.attention_mask is None:
                rows += block.tokens
            else:
                rows += [own[its] for own, its in zip(block.tokens, block.attention_mask, strict=True)]
            n_tokens += block.tokens.numel()
            if n_tokens >= wanted:
                break
        whole, lengths = rows, {len(row) for row in rows}
        if isinstance(source, Texts) or long:
            whole = [row for row in rows if len(row) == self.context]
        elif len(lengths) > 1 or (self.cut and rows):
            whole = [row for row in torch.cat(rows).split(self.context) if len(row) == self.context]
        if not whole:
            n = sum(map(len, rows))
            raise ValueError(
                f"`tokens` must hold at least one sequence of {self.context} tokens, got {n:,} tokens in all. "
                + ("Lower --context." if n > 1 else "Are all texts empty?")
            )
        return torch.stack(whole)


def _recognised(found: Any, column: str | None) -> tuple[Any, str | None, bool]:
    """Returns data with its ids under the name ``input_ids``, the column of its texts, and whether it holds ids."""
    if isinstance(found, Mapping):
        name = column or "input_ids"
        ids = found.get(name)
        if ids is None or (isinstance(ids, list) and any(isinstance(row, str) for row in ids)):
            return found, column, False
        if name != "input_ids":
            found = {"input_ids": ids, "attention_mask": found.get("attention_mask")}
        only = found.get("attention_mask") is None and isinstance(ids, Tensor | np.ndarray)
        return ids if only else found, None, True
    if isinstance(found, Tensor | np.ndarray):
        return found, None, True
    rows = iter(found)
    first = next(rows, None)
    if rows is found and first is not None:
        found = chain([first], rows)
    if isinstance(first, int):
        return np.array([*found]), None, True
    if not isinstance(first, Mapping):
        return found, None, not isinstance(first, str)
    held = first.get(column or "input_ids")
    if not isinstance(held, list | tuple | np.ndarray | Tensor):
        return found, column, False
    if column in (None, "input_ids"):
        return found, None, True
    rows = ({"input_ids": row.get(column), "attention_mask": row.get("attention_mask")} for row in found)
    return rows, None, True


def _no_tokenizer(data: DataName) -> Callable[[str], list[int]]:
    def tokenizer(text: str) -> list[int]:
        raise ValueError(
            "the data is text, but MODEL brings no tokenizer. Put the tokenizer's files beside the model, or give "
            "token ids, for example as a .npy file."
        )

    return tokenizer


def _for_options(message: str, data: DataName) -> str:
    """Returns an error of the library in the words of the command line."""
    message = re.sub(r"`tokens\[(\d+)\]`", r"row \1", message)
    for name, option in (
        ("`text_column=`", "--column"),
        ("`text_column`", "--column"),
        ("a column of `tokens`", "a column"),
        ("`tokens` must have at least one item, got an empty list", "the data must hold at least one text, got none"),
        ("`tokens`", "the data"),
        ("`context`", "--context"),
    ):
        message = message.replace(name, option)
    return message if message.startswith(data.option) else f"{data.option} {data.name!r}: {message}"


def held_out_rows(rows: Tensor, part: float) -> tuple[Tensor, Tensor]:
    """Divides sequences into those to train on and the last ones, which are held out.

    Raises:
        ValueError: If there are too few.
    """
    n_held_out = max(1, round(len(rows) * part))
    if n_held_out >= len(rows):
        raise ValueError(
            f"--data must hold at least 2 sequences, one of them to be held out, got {len(rows)} of "
            f"{rows.shape[1]} tokens. Give more text, or a smaller --context."
        )
    return rows[:-n_held_out], rows[-n_held_out:]
