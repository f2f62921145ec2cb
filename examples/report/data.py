"""Reading of training text or token ids as rows of equal length."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sparsedict as sd

LOADERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
"""Loaders of the datasets library by the suffix of a file."""
END = "<|endoftext|>"
"""Separator of the documents in a text file."""
CHARACTERS_PER_TOKEN = 5
"""Upper estimate of the number of characters per token in prose."""


def read_rows(name: str, tokenizer: Any | None, *, context: int, n_tokens: int, column: str) -> Tensor:
    """Reads token ids ``[n_sequences, n_positions]``.

    Args:
        name: A file with token ids (``.npy``); a file with texts (``.txt``, ``.jsonl``, ``.json``, ``.csv``,
            ``.parquet``); or a dataset on the hub, as ``NAME`` or ``NAME:CONFIG:SPLIT``.
        tokenizer: Tokenizer of texts, or ``None`` if the model has none.
        context: Number of tokens per sequence. A matrix of ids keeps its width.
        n_tokens: Approximate largest number of tokens to read.
        column: Column or field of the texts.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there are texts but no tokenizer, or too few tokens for one sequence.
    """
    if Path(name).suffix == ".npy":
        ids = np.load(name, mmap_mode="r", allow_pickle=False)
        n_positions = ids.shape[1] if ids.ndim == 2 else context
        ids = ids.reshape(-1)[: n_tokens // n_positions * n_positions]
        rows = torch.from_numpy(ids[: len(ids) // n_positions * n_positions].astype(np.int64))
        return rows.reshape(-1, n_positions)
    if tokenizer is None:
        raise ValueError(
            f"--data must be a .npy file with token ids if the model has no tokenizer, got {name!r}. Add the files of "
            "the tokenizer to the folder of the model, or pass token ids."
        )
    texts = _first(_texts(name, column), CHARACTERS_PER_TOKEN * n_tokens)
    return sd.data.pack(texts, tokenizer, context=context)


def held_out_rows(rows: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Splits sequences into training sequences and held-out sequences, which are the last ones.

    Raises:
        ValueError: If there are fewer than two sequences.
    """
    n_held_out = max(1, round(len(rows) * share))
    if n_held_out >= len(rows):
        raise ValueError(f"--data must contain at least 2 sequences, because one is held out, got {len(rows)}.")
    return rows[:-n_held_out], rows[-n_held_out:]


def read_vocabulary(path: Path) -> list[str]:
    """Reads the strings of tokens from a JSON list, ordered by id, or from a JSON object of ids by string.

    Raises:
        ValueError: If the file contains neither.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(found, dict):
        by_id = {index: token for token, index in found.items()}
        return [by_id.get(index, f"[{index}]") for index in range(max(by_id, default=-1) + 1)]
    if not isinstance(found, list) or not all(isinstance(token, str) for token in found):
        raise ValueError(f"--vocabulary must be a JSON list of strings or an object of ids by string, got {path}.")
    return found


def _texts(name: str, column: str) -> Iterator[str]:
    path = Path(name)
    if path.suffix == ".txt":
        return iter([text for text in path.read_text(encoding="utf-8").split(END) if text.strip()])
    import datasets

    if path.suffix in LOADERS:
        if not path.is_file():
            raise FileNotFoundError(f"--data must be a file or a dataset on the hub, but there is no file {name!r}.")
        rows = datasets.load_dataset(LOADERS[path.suffix], data_files=name, split="train", streaming=True)
    else:
        where, config, split = (*name.split(":"), "", "")[:3]
        rows = datasets.load_dataset(where, config or None, split=split or "train", streaming=True)
    return (row[column] for row in rows)


def _first(texts: Iterator[str], n_characters: int) -> Iterator[str]:
    for text in texts:
        yield text
        n_characters -= len(text)
        if n_characters <= 0:
            return
