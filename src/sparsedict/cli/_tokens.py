"""Data named on the command line, as tokens to train on and tokens held out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sparsedict.data import pack


@dataclass(frozen=True)
class Corpus:
    """How data is to be read.

    Attributes:
        tokenizer: Of texts; ``None`` where the model brings none.
        context: Tokens per sequence.
        text_column: Field or column that holds the text.
        split: Of a data set on the hub.
        n_tokens: About so many tokens are wanted from a data set on the hub, which may hold far more.
    """

    tokenizer: Any | None
    context: int
    text_column: str
    split: str
    n_tokens: int

    def read(self, name: str) -> Int[Tensor, "n_sequences context"]:
        """Returns all sequences of a file, a folder of text files, or a data set on the hub.

        Raises:
            FileNotFoundError: If there is no such data.
            ValueError: If it isn't in a known form, or too short for one sequence.
        """
        path = Path(name).expanduser()
        if path.suffix == ".npy" and path.is_file():
            return self._rows(np.load(path, mmap_mode="r", allow_pickle=False), path)
        return self._packed(self._texts(name, path), name)

    def _texts(self, name: str, path: Path) -> Iterable[str]:
        if path.is_dir():
            files = sorted(path.rglob("*.txt"))
            if not files:
                raise FileNotFoundError(f"--data must be a folder with .txt files, but {name!r} holds none.")
            return (text for file in files for text in _documents(file))
        if path.is_file():
            if path.suffix == ".jsonl":
                return _fields(path, self.text_column)
            if path.suffix in ("", ".txt", ".md", ".text"):
                return _documents(path)
            raise ValueError(f"--data must end in .txt, .jsonl or .npy where it is a file, got {name!r}.")
        if path.suffix in (".txt", ".npy", ".jsonl") or name.startswith((".", "/", "~")):
            raise FileNotFoundError(f"--data must name data that exists, but there is no file or folder {name!r}.")
        return self._from_hub(name)

    def _from_hub(self, name: str) -> Iterator[str]:
        try:
            import datasets
        except ImportError as error:
            raise ImportError("A data set on the hub needs datasets: pip install 'sparsedict[hf]'.") from error
        try:
            found = datasets.load_dataset(name, split=self.split, streaming=True)
            first = next(iter(found))
        # Anything from no network to no such split; the library's own words say which.
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise FileNotFoundError(
                f"--data must be a file, a folder or a data set on the hub; {name!r} is nothing here, and the hub "
                f"didn't give its split {self.split!r} ({reason})."
            ) from error
        if self.text_column not in first:
            raise ValueError(f"--text-column must be one of {', '.join(sorted(first))}, got {self.text_column!r}.")
        return _until((row[self.text_column] for row in found), self.n_tokens)

    def _packed(self, texts: Iterable[str], name: str) -> Tensor:
        if self.tokenizer is None:
            raise ValueError(
                f"--data {name!r} is text, but MODEL brings no tokenizer. Put the tokenizer's files beside the model, "
                "or give token ids as a .npy file."
            )
        return pack(texts, self.tokenizer, context=self.context)

    def _rows(self, array: np.ndarray, path: Path) -> Tensor:
        if array.ndim not in (1, 2) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"--data {str(path)!r} must hold integer token ids [n] or [n_sequences, context], got {array.dtype} "
                f"{array.shape}."
            )
        if array.ndim == 1:
            n_rows = len(array) // self.context
            array = array[: n_rows * self.context].reshape(n_rows, self.context)
        if not array.size:
            raise ValueError(f"--data {str(path)!r} must hold at least one sequence of {self.context} tokens.")
        return torch.from_numpy(array.astype(np.int64))


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


def vocabulary(path: Path) -> list[str]:
    """Reads the strings of tokens, a JSON list in the order of ids or an object from strings to ids.

    Raises:
        ValueError: If the file is neither.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--vocabulary must be a JSON file, but {str(path)!r} isn't: {error}") from error
    if isinstance(found, dict) and all(isinstance(index, int) for index in found.values()):
        by_id = {index: token for token, index in found.items()}
        return [by_id.get(index, f"[{index}]") for index in range(max(by_id, default=-1) + 1)]
    if isinstance(found, list) and all(isinstance(token, str) for token in found):
        return found
    raise ValueError(
        f"--vocabulary must be a JSON list of strings, or an object from strings to ids, got {type(found).__name__} "
        f"in {str(path)!r}."
    )


def _documents(file: Path) -> list[str]:
    """Divides a text where it says that documents end, as the text files of TinyStories and others do."""
    texts = file.read_text(encoding="utf-8", errors="replace").split("<|endoftext|>")
    return [text for text in texts if text.strip()]


def _fields(file: Path, column: str) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[column]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"--data {str(file)!r}, line {number}, must be a JSON object with the field {column!r} "
                    "(see --text-column)."
                ) from error
            yield str(text)


def _until(texts: Iterable[str], n_tokens: int) -> Iterator[str]:
    """Ends when the texts surely hold so many tokens: no tokenizer makes them eight characters long on average."""
    n_characters = 0
    for text in texts:
        yield text
        n_characters += len(text)
        if n_characters > 8 * n_tokens:
            return
