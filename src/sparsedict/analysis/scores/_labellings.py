"""Labels by the string, the class and the position of tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis.scores._labels import Labelling, Labels
from sparsedict.analysis.scores._token_classes import token_class
from sparsedict.analysis.scores._token_latents import TokenLatents

_BASE = 2**20
"""An upper bound on the size of a vocabulary."""


@dataclass(frozen=True)
class TokensAt:
    """The tokens at some offsets from the current token: ``(0,)``, ``(-1,)``, or an n-gram such as ``(-1, 0)``.

    A latent of a causal model depends only on the current token and earlier ones, so offsets are at most 0 by default.
    Use positive offsets for models with bidirectional attention.

    Attributes:
        offsets: Offsets of the tokens, in ascending order.

    Raises:
        ValueError: If there are no offsets, or more than 3, or they aren't in ascending order.
    """

    offsets: tuple[int, ...]

    def __post_init__(self) -> None:
        what = "one to three offsets in ascending order"
        object.__setattr__(self, "offsets", checks.integers("offsets", self.offsets, -sys.maxsize, what))
        is_sorted = list(self.offsets) == sorted(set(self.offsets))
        if not 1 <= len(self.offsets) <= 3 or not is_sorted:
            raise ValueError(f"`offsets` must be {what}, got {self.offsets!r}.")

    def __call__(self, text: TokenLatents, /) -> Labels:
        parts = [_shifted(text.tokens, offset) for offset in self.offsets]
        packed = parts[0]
        for part in parts[1:]:
            packed = torch.where((packed < 0) | (part < 0), -1, packed * _BASE + part)
        ids, values = _compressed(packed)
        tokens = torch.stack([values // _BASE**i % _BASE for i in range(len(parts))][::-1], 1)

        def name(value: int) -> str:
            return quoted("".join(_strings(text, tokens[value].tolist())))

        return Labels(ids, name, f"{_place(self.offsets)} {{}}")


@dataclass(frozen=True)
class Affix:
    """The first or the last characters of a token, without white space around it.

    Attributes:
        n: Number of characters: positive for a prefix, negative for a suffix.
        offset: Offset of the token.

    Raises:
        ValueError: If ``n`` is 0.
    """

    n: int
    offset: int = 0

    def __post_init__(self) -> None:
        checks.set_at_least(self, "n", -sys.maxsize)
        if self.n == 0:
            raise ValueError("`n` must be positive for a prefix or negative for a suffix, got 0.")

    def __call__(self, text: TokenLatents, /) -> Labels | None:
        if text.strings is None:
            return None
        verb = "starts" if self.n > 0 else "ends"
        ids, names = by_string(text, self._of, self.offset)
        return Labels(ids, names.__getitem__, f"{_noun(self.offset)} {verb} with {{}}")

    def _of(self, string: str) -> str | None:
        string = string.strip()
        part = string[: self.n] if self.n > 0 else string[self.n :]
        return quoted(part) if len(string) >= abs(self.n) else None


@dataclass(frozen=True)
class ClassAt:
    """The class of a token, such as a number or a capitalised word. See `token_class`.

    Attributes:
        offset: Offset of the token.
    """

    offset: int = 0

    def __call__(self, text: TokenLatents, /) -> Labels | None:
        if text.strings is None:
            return None
        ids, names = by_string(text, token_class, self.offset)
        return Labels(ids, names.__getitem__, f"{_noun(self.offset)} is {{}}")


@dataclass(frozen=True)
class PositionInSequence:
    """The position of a token in its sequence, counted from 0. Positions from 8 on are grouped by powers of two."""

    def __call__(self, text: TokenLatents, /) -> Labels:
        real = text.tokens >= 0
        position = (real.cumsum(1) - 1).clamp(min=0)
        group = torch.where(position < 8, position, 5 + position.clamp(min=1).log2().floor().long())
        names = [str(v) if v < 8 else f"{2 ** (v - 5)} to {2 ** (v - 4) - 1}" for v in range(32)]
        return Labels(
            torch.where(real, group, -1), names.__getitem__, "the position in the sequence is {}", is_ordered=True
        )


DEFAULT_LABELLINGS: tuple[Labelling, ...] = (
    *(TokensAt((offset,)) for offset in (0, -1, -2, -3)),
    *(TokensAt(offsets) for offsets in ((-1, 0), (-2, -1), (-2, -1, 0))),
    *(Affix(n) for n in (1, 2, 3, -1, -2, -3)),
    Affix(1, -1),
    Affix(-1, -1),
    ClassAt(0),
    ClassAt(-1),
    PositionInSequence(),
)


def quoted(text: str) -> str:
    """Returns a text between quotes, with line breaks and control characters escaped."""
    return repr(text)


def _shifted(tokens: Tensor, offset: int) -> Tensor:
    """Returns the token at an offset from each token, -1 beyond the sequence."""
    rolled = torch.full_like(tokens, -1)
    width = tokens.shape[1]
    if abs(offset) >= width:
        return rolled
    if offset <= 0:
        rolled[:, -offset:] = tokens[:, : width + offset]
    else:
        rolled[:, : width - offset] = tokens[:, offset:]
    return rolled


def _compressed(values: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers the distinct values from 0, without -1. Returns the numbers and the distinct values."""
    distinct, index = values.unique(return_inverse=True)
    if len(distinct) and distinct[0] < 0:
        return index - 1, distinct[1:]
    return index, distinct


def by_string(
    text: TokenLatents, function: Callable[[str], str | None], offset: int = 0
) -> tuple[Int[Tensor, "n_sequences n_positions"], tuple[str, ...]]:
    """Returns the values of a function of the token's string, as numbers and names; -1 where it returns None.

    Args:
        text: The text, with ``strings``.
        function: The function.
        offset: Offset of the token whose string is read.
    """
    index, tokens = _compressed(_shifted(text.tokens, offset))
    names = [function(string) for string in _strings(text, tokens.tolist())]
    known = {name: number for number, name in enumerate(dict.fromkeys(name for name in names if name is not None))}
    of_token = torch.tensor([-1 if name is None else known[name] for name in names] + [-1], device="cpu")
    return of_token[index], tuple(known)


def _strings(text: TokenLatents, tokens: list[int]) -> list[str]:
    return [f"[{token}]" for token in tokens] if text.strings is None else text.strings(tokens)


def _noun(offset: int) -> str:
    names = {0: "the token", -1: "the previous token", 1: "the next token"}
    side = "before" if offset < 0 else "after"
    return names.get(offset, f"the token {abs(offset)} places {side}")


def _place(offsets: tuple[int, ...]) -> str:
    if len(offsets) == 1:
        return f"{_noun(offsets[0])} is"
    if offsets == tuple(range(1 - len(offsets), 1)):
        return f"the last {len(offsets)} tokens are"
    return f"the tokens at offsets {', '.join(map(str, offsets))} are"
