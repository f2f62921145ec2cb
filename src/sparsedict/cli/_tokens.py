"""Conversion of the data of the command line to training tokens and held-out tokens."""

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
from sparsedict.cli._errors import OptionError
from sparsedict.data import BlockSize, Bos, Texts, TokenSource, token_source

READ_FACTOR = 2
"""Largest number of tokens to read, relative to the requested number, because some tokens are held out."""


@dataclass(frozen=True)
class Corpus:
    """The options for reading data.

    Attributes:
        tokenizer: Tokenizer of texts, or ``None`` if the model has none.
        context: Number of tokens per sequence.
        column: Column, field or tensor of the texts or token ids. ``None`` is ``input_ids`` if it exists, else
            ``text``.
        split: Split of a dataset. ``None`` is ``train``.
        n_tokens: Approximate number of tokens needed. Up to twice this number are read.
        config: Configuration of a dataset, or ``None`` for the default.
        bos: Positions of BOS tokens in texts, see `sparsedict.data.pack`.
        join: Whether a sequence may contain tokens of several texts.
        cut: Whether rows of tokens that all have the same length are joined and split to the length ``context``.
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
        """Returns the sequences of a file, a folder, the files of a pattern, or a dataset on the hub.

        Args:
            name: Name of the data, see `DataName`.
            option: The command-line option of the name, for error messages.

        Raises:
            FileNotFoundError: If there is no such data.
            ValueError: If the data has an unknown form, or is too short for one sequence.
        """
        own = ":" in name and option != "--data"  # such a name has its own configuration and split
        data = DataName.parse(name, None if own else self.config, None if own else self.split, option)
        found = self._found(data)
        try:
            found, column, are_ids = _normalise(found, self.column)
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
        except OptionError:
            raise
        except (TypeError, ValueError) as error:
            raise OptionError(_for_options(str(error), data)) from error

    def _found(self, data: DataName) -> Any:
        if data.path.is_dir():
            return read_folder(data, self.column)
        files = [data.path] if data.path.is_file() else data.files
        if files:
            known = {suffix(file) in ("", *SUFFIXES) for file in files}
            if known != {True}:
                raise OptionError(
                    f"{data.option} must be a file with one of the suffixes {', '.join(SUFFIXES)}, got {data.name!r}."
                )
            return read_files(files, self.column)
        missing = data.missing(SUFFIXES)
        if missing is not None:
            raise missing
        return read_hub(data)

    def _rows(self, source: TokenSource, *, long: bool) -> Tensor:
        """Returns rows of the same length: those of the data, or the tokens of all rows joined and split again."""
        rows: list[Tensor] = []
        n_tokens, wanted = 0, READ_FACTOR * self.n_tokens
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
                f"`tokens` must contain at least one sequence of {self.context} tokens, got {n:,} tokens in total. "
                + ("Lower --context." if n > 1 else "Check that the texts aren't empty.")
            )
        return torch.stack(whole)


def _normalise(found: Any, column: str | None) -> tuple[Any, str | None, bool]:
    """Returns the data with ids named ``input_ids``, the column of its texts, and whether it contains ids."""
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
            "the data is text, but MODEL has no tokenizer. Add the files of the tokenizer to the folder of the model, "
            "or pass token ids, for example as a .npy file."
        )

    return tokenizer


def _for_options(message: str, data: DataName) -> str:
    """Replaces arguments in an error message of the library by options."""
    message = re.sub(r"`tokens\[(\d+)\]`", r"row \1", message)
    for name, option in (
        ("`text_column=`", "--column"),
        ("`text_column`", "--column"),
        ("a column of `tokens`", "a column"),
        (
            "`tokens` must have at least one item, got an empty list",
            "the data must contain at least one text, got none",
        ),
        ("`tokens`", "the data"),
        ("`context`", "--context"),
    ):
        message = message.replace(name, option)
    return f"{data.option} {data.name!r}: {message}"


def held_out_rows(rows: Tensor, part: float) -> tuple[Tensor, Tensor]:
    """Splits sequences into training sequences and held-out sequences, which are the last ones.

    Raises:
        ValueError: If there are too few sequences.
    """
    n_held_out = max(1, round(len(rows) * part))
    if n_held_out >= len(rows):
        raise OptionError(
            f"--data must contain at least 2 sequences, because one is held out, got {len(rows)} of "
            f"{rows.shape[1]} tokens. Use more text or a smaller --context."
        )
    return rows[:-n_held_out], rows[-n_held_out:]
