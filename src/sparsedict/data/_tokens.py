"""Sources of tokens, and the blocks of sequences that a model runs on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparsedict.data._row_source import Position
from sparsedict.seeds import permutation

DEFAULT_CONTEXT = 256

Order = tuple[int, int, int]
"""Key of a permutation: the seed, the number of the pass, and a constant for the permuted data."""


@dataclass(frozen=True)
class Block:
    """Sequences for one forward pass.

    Attributes:
        tokens: Token ids, ``[n_sequences, n_positions]``, on the CPU.
        attention_mask: False at padding; ``None`` if there is no padding.
        end: Position of the source after these sequences.
        numbers: Index of each sequence's row or item in the data.
    """

    tokens: Int[Tensor, "n_sequences n_positions"]
    attention_mask: Bool[Tensor, "n_sequences n_positions"] | None
    end: Position
    numbers: list[int]


@dataclass(frozen=True)
class Row:
    """One sequence, with the position of the source after it, and the index of its item in the data."""

    tokens: Int[Tensor, " n_positions"]
    attention_mask: Bool[Tensor, " n_positions"] | None
    end: Position
    number: int


@dataclass(frozen=True)
class BlockSize:
    """The size of forward passes.

    Attributes:
        n_sequences: Largest number of sequences; ``None`` to determine it by ``target``.
        target: Approximate number of positions, if ``n_sequences`` is ``None``.
        limit: Largest number of positions, including padding.
        pads: Whether sequences of different lengths may share a block.
    """

    n_sequences: int | None
    target: int
    limit: int
    pads: bool

    def sequences(self, width: int) -> int:
        """Returns the number of sequences of ``width`` positions in a block.

        Raises:
            ValueError: If a single sequence exceeds ``limit``.
        """
        if width > self.limit:
            raise ValueError(
                f"`buffer_size` must be at least the length of a sequence, got {self.limit} tokens for a sequence of "
                f"{width}."
            )
        wanted = max(1, self.target // width) if self.n_sequences is None else self.n_sequences
        return min(wanted, self.limit // width)


class TokenSource(ABC):
    """A source of sequences of tokens, for any number of passes.

    Attributes:
        origin: Description of the tokens.
        n_positions: Number of tokens of one pass, including excluded ones, if known.
        seeks: Whether the source has random access, so that each pass can be shuffled.
    """

    origin: str
    n_positions: int | None = None
    seeks: bool = True

    @abstractmethod
    def blocks(self, order: Order | None, epoch: int, start: Position, size: BlockSize) -> Iterator[Block]:
        """Yields the blocks of a pass from ``start`` on.

        Args:
            order: Key of the shuffle of sequences (or documents), or ``None`` for their original order.
            epoch: Number of the pass.
            start: The ``end`` of an earlier block of the same pass, or ``(0, 0)``.
            size: Size of the blocks.
        """


def stack_rows(rows: Iterable[Row], size: BlockSize) -> Iterator[Block]:
    """Stacks consecutive sequences into blocks, padded on the right if their lengths differ."""
    held: list[Row] = []
    widest = 0
    for row in rows:
        widest = max(widest, len(row.tokens))
        ragged = bool(held) and len(row.tokens) != len(held[0].tokens)
        if held and (len(held) >= size.sequences(widest) or (ragged and not size.pads)):
            yield _block(held)
            held, widest = [], len(row.tokens)
        size.sequences(len(row.tokens))
        held.append(row)
    if held:
        yield _block(held)


def _block(rows: list[Row]) -> Block:
    end, numbers = rows[-1].end, [row.number for row in rows]
    lengths = {len(row.tokens) for row in rows}
    if len(lengths) == 1 and all(row.attention_mask is None for row in rows):
        return Block(torch.stack([row.tokens for row in rows]), None, end, numbers)
    tokens = torch.zeros(len(rows), max(lengths), dtype=torch.int64, device="cpu")
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for index, row in enumerate(rows):
        n = len(row.tokens)
        tokens[index, :n] = row.tokens
        mask[index, :n] = True if row.attention_mask is None else row.attention_mask
    return Block(tokens, mask, end, numbers)


class RowArray(TokenSource):
    """An array of tokens: rows of sequences, or one long row that is split into sequences of ``context``."""

    def __init__(self, tokens: Tensor | np.ndarray, mask: Tensor | None, context: int | None) -> None:
        _check_array(tokens, mask, context)
        self._tail: Tensor | None = None
        self._mask = None if mask is None else mask.cpu() != 0
        if tokens.ndim == 1:
            width = min(context or DEFAULT_CONTEXT, len(tokens))
            n_rows = len(tokens) // width
            self._tail = _integers(tokens[n_rows * width :])
            tokens = tokens[: n_rows * width].reshape(n_rows, width)
        self._rows = tokens
        self.n_positions = int(np.prod(tokens.shape)) + (0 if self._tail is None else len(self._tail))
        self.origin = f"{self.n_positions:,} tokens in {len(tokens):,} sequences of {tokens.shape[1]:,}"

    def blocks(self, order: Order | None, epoch: int, start: Position, size: BlockSize) -> Iterator[Block]:
        n_rows, width = self._rows.shape
        index = torch.arange(n_rows, device="cpu") if order is None else permutation(n_rows, *order)
        step = size.sequences(width)
        for low in range(start[0], n_rows, step):
            chosen = index[low : low + step]
            mask = None if self._mask is None else self._mask[chosen]
            yield Block(_taken(self._rows, chosen), mask, (min(low + step, n_rows), 0), chosen.tolist())
        if self._tail is not None and len(self._tail) and start[0] <= n_rows:
            yield Block(self._tail[None], None, (n_rows + 1, 0), [n_rows])

    def all(self) -> Iterator[Block]:
        """Yields all tokens in their original order, in large blocks."""
        limit = max(self._rows.shape[1], 2**20)
        return self.blocks(None, 0, (0, 0), BlockSize(None, limit, limit, pads=False))


def _taken(rows: Tensor | np.ndarray, index: Tensor) -> Tensor:
    if isinstance(rows, np.ndarray):
        return _integers(rows[index.numpy()])
    return _integers(rows[index.to(rows.device)])


def _integers(tokens: Tensor | np.ndarray) -> Tensor:
    if isinstance(tokens, np.ndarray):
        return torch.from_numpy(np.array(tokens, dtype=np.int64))
    return tokens.to("cpu", torch.int64)


def _check_array(tokens: Tensor | np.ndarray, mask: Tensor | None, context: int | None) -> None:
    shape = tuple(tokens.shape)
    integral = tokens.dtype.kind in "iu" if isinstance(tokens, np.ndarray) else is_integral(tokens)
    if not integral:
        raise TypeError(not_ids_message("`tokens`", tokens))
    if len(shape) not in (1, 2):
        raise ValueError(f"`tokens` must be [n_sequences, context] or one long row, got shape {shape}.")
    if 0 in shape:
        raise ValueError(f"`tokens` must contain at least one token, got an empty array of shape {shape}.")
    if len(shape) == 2 and context is not None and context != shape[1]:
        raise ValueError(
            f"`context` must be omitted if `tokens` has rows, got {context} for rows of {shape[1]}. "
            "Flatten the tokens to split them into other rows."
        )
    if mask is not None and tuple(mask.shape) != shape:
        raise ValueError(f"`attention_mask` must have the shape of the tokens, {shape}, got {tuple(mask.shape)}.")
    if mask is not None and len(shape) == 1:
        raise ValueError("`attention_mask` needs `tokens` in rows, got one long row. Reshape both.")


def not_ids_message(name: str, value: Tensor | np.ndarray) -> str:
    """Returns the error message for an array that doesn't hold integers."""
    shape = tuple(value.shape)
    if value.dtype in (torch.bool, np.bool_):
        remedy = "Pass a mask together with the ids, as `attention_mask`."
    elif len(shape) > 2:
        remedy = (
            "A stream runs a model only on token ids. Capture images and other inputs batch by batch, with "
            "`site.capture(batch)`, and pass the activations to `fit`."
        )
    elif value.shape and 0 not in shape and bool((value == value.round()).all()):
        remedy = "Its values are integers: convert it to an integer type first."
    else:
        remedy = "Pass activations directly to `fit`."
    return f"{name} must contain integer token ids, got an array of {value.dtype} {shape}. {remedy}"


def is_integral(tensor: Tensor) -> bool:
    """Whether a tensor may hold token ids."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
