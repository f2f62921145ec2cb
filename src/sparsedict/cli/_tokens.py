"""Conversion of the data of the command line to training tokens and held-out tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sparsedict import checks
from sparsedict.cli._data_files import SUFFIXES, read_files, suffix
from sparsedict.cli._data_form import DataForm, form_of
from sparsedict.cli._data_name import DataName
from sparsedict.cli._data_sets import read_folder, read_hub
from sparsedict.cli._errors import OptionError
from sparsedict.cli._rows import Rows, divided, read_rows, whole_rows
from sparsedict.data import Bos, Texts, TokenSource, token_source

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
        join: Whether a sequence may contain tokens of several texts or rows.
        cut: Whether rows of tokens that all have the same length are split to the length ``context``.
        strict: Whether options that have no effect on the data are errors.
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
    strict: bool = True

    def read(self, name: str, option: str = "--data") -> Int[Tensor, "n_sequences context"]:
        """Returns the sequences of a file, a folder, the files of a pattern, or a dataset on the hub.

        Args:
            name: Name of the data, see `DataName`.
            option: The command-line option of the name, for error messages.

        Raises:
            FileNotFoundError: If there is no such data.
            ValueError: If the data has an unknown form, or is too short for one sequence.
        """
        data = DataName.parse(name, self.config, self.split, option)
        found = self._found(data)
        try:
            form = form_of(found, self.column)
            self._check(data, form)
            source = token_source(
                form.data,
                self.tokenizer or _no_tokenizer(data),
                None if form.are_ids and not form.is_flat else self.context,
                text_column=form.column,
                bos=self.bos,
                join=self.join,
            )
            return self._rows(source, long=form.is_flat)
        except OptionError:
            raise
        except (TypeError, ValueError) as error:
            raise OptionError(_for_options(str(error), data)) from error

    def _found(self, data: DataName) -> Any:
        if data.path.is_dir():
            return read_folder(data, self.column, strict=self.strict)
        files = [data.path] if data.path.is_file() else data.files
        if files:
            known = {suffix(file) in ("", *SUFFIXES) for file in files}
            if known != {True}:
                raise OptionError(
                    f"{data.option} must be a file with one of the suffixes {', '.join(SUFFIXES)}, got {data.name!r}."
                )
            if self.strict:
                data.check_no_parts("which is not a dataset")
            return read_files(files, self.column)
        missing = data.missing(SUFFIXES)
        if missing is not None:
            raise missing
        return read_hub(data)

    def _rows(self, source: TokenSource, *, long: bool) -> Tensor:
        """Returns rows of the same length: those of the data, or the tokens of all rows split again."""
        rows = read_rows(source, READ_FACTOR * self.n_tokens)
        n, lengths = sum(map(len, rows)), {len(row) for row in rows}
        found = Rows(rows, 0, 0)
        if isinstance(source, Texts) or long:
            found = whole_rows(rows, self.context)
        elif len(lengths) > 1 or self.cut:
            found = whole_rows(divided(rows, self.context, join=self.join), self.context)
        if not found.whole:
            several = "" if self.join else ", or omit --no-join"
            raise ValueError(
                f"`tokens` must contain at least one sequence of {self.context} tokens, got {n:,} tokens in total. "
                + (f"Lower --context{several}." if n > 1 else "Check that the texts aren't empty.")
            )
        if found.n_short and not self.join:
            checks.warn(
                f"--no-join leaves out {found.n_short:,} of {len(found.whole) + found.n_short:,} sequences, with "
                f"{found.n_short_tokens / n:.1%} of the tokens, because they have fewer than --context {self.context} "
                "tokens. A smaller --context leaves out fewer tokens."
            )
        return torch.stack([*found.whole])

    def _check(self, data: DataName, form: DataForm) -> None:
        """Checks that the options can be applied to the data.

        Raises:
            ValueError: If an option would have no effect.
        """
        # Options of --data needn't apply to other data of --held-out.
        if not self.strict or data.option != "--data":
            return
        reason = None
        if self.column is not None and not form.has_columns:
            reason = "--column", "has no columns"
        elif self.bos != "both" and form.are_ids:
            reason = "--bos", "has token ids, not texts"
        elif not self.join and form.is_flat:
            reason = "--no-join", "is one sequence of token ids, without rows"
        if reason is not None:
            raise OptionError(f"{reason[0]} must be omitted for {data.option} {data.name!r}, which {reason[1]}.")


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
    message = re.sub(r"`tokens\['([^']*)'\]`", r"the value of '\1'", message)
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
