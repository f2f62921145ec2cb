"""Token ids, padding and positions of a site's activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.sites._masks import real_tokens


@dataclass(frozen=True)
class Exclusion:
    """Positions to exclude: every occurrence of ``tokens``, and the first ``n_first`` positions of each sequence."""

    tokens: tuple[int, ...] = ()
    n_first: int = 0


def exclusion(tokens: Sequence[int], n_first: int) -> Exclusion:
    """Checks the arguments ``exclude_tokens`` and ``exclude_first`` of a site, and returns its exclusion.

    Raises:
        TypeError: If ``tokens`` isn't a sequence of integers, or ``n_first`` isn't an integer.
        ValueError: If a number is negative.
    """
    try:
        ids = tuple(index(token) for token in tokens)
    except TypeError as error:
        raise TypeError(f"`exclude_tokens` must be a list of token ids such as [0], got {tokens!r}.") from error
    ids = tuple(checks.at_least("exclude_tokens", token, 0) for token in ids)
    return Exclusion(ids, checks.at_least("exclude_first", n_first, 0))


@dataclass(frozen=True, eq=False)
class TokenContext:
    """The tokens of one call of one stack of layers.

    Attributes:
        shape: Leading shape of the stack's activations, usually ``(n_sequences, n_positions)``; None if unknown.
        ids: Token ids ``[*shape]``; None if the stack was called with embeddings.
        mask: The attention mask as passed, ``[n_sequences, n_keys]`` or ``[n_sequences, n_heads, n_positions,
            n_keys]``. Keys with a non-zero entry are attended to; in a floating-point mask with more than two
            dimensions, keys with a zero.
        position_ids: Position ids as passed, ``[n_sequences, n_positions]``.
        n_past: Number of positions in the cache; None if unknown.
        first_position: Position id that the model assigns to the first token, such as 2 for RoBERTa.
        ambiguous: Whether the call had tokens for an encoder and for a decoder, and it is unknown which apply here.
        problem: Reason why padding can't be identified, with a remedy; None if it can.
    """

    shape: torch.Size | None = None
    ids: Tensor | None = None
    mask: Tensor | None = None
    position_ids: Tensor | None = None
    n_past: int | None = 0
    first_position: int = 0
    ambiguous: bool = False
    problem: str | None = None

    @property
    def is_bare(self) -> bool:
        """Whether the call had no mask, no positions and no cache."""
        return self.mask is None and self.position_ids is None and self.n_past == 0

    def inherit(self, outer: TokenContext | None) -> TokenContext:
        """Returns this context, completed by the context of the enclosing call if both have the same positions."""
        if outer is None or self.shape is None or outer.shape != self.shape:
            return self
        ids = outer.ids if self.ids is None else self.ids
        if not self.is_bare:
            # A mask over tokens is the most reliable source for padding.
            plain = outer.mask is not None and outer.mask.ndim == 2 and (self.mask is None or self.mask.ndim > 2)
            return replace(self, ids=ids, **({"mask": outer.mask, "problem": None} if plain else {}))
        return replace(self, ids=ids, mask=outer.mask, position_ids=outer.position_ids, n_past=outer.n_past)

    def real(self, device: torch.device | None = None) -> Bool[Tensor, "*shape"] | None:
        """Returns a mask of the positions that aren't padding; None if there is no padding.

        Raises:
            ValueError: If the mask doesn't fit the positions.
        """
        if self.mask is None:
            return None
        if self.shape is None:
            return self.mask.to(device) != 0 if self.mask.ndim == 2 else None
        real, n_before = real_tokens(self.mask.to(device), self.shape[-1], self.n_past)
        return real[:, n_before:].expand(self.shape)

    def positions(self, device: torch.device | None = None) -> Int[Tensor, "*shape"]:
        """Returns the position of each token in its sequence, counted from 0 without padding.

        Raises:
            ValueError: If there is a cache of unknown length and there are no position ids.
        """
        assert self.shape is not None
        counted, given = self._from_mask(device), self._from_position_ids(device)
        if given is not None and self.n_past != 0 and self.mask is not None and self.mask.ndim > 2:
            # The mask may cover only the cached tokens of a sliding window.
            counted = None
        if counted is not None and given is not None:
            # Position ids restart in packed sequences. Counting by the mask leaves out padding.
            return torch.minimum(counted, given)
        if counted is not None:
            return counted
        if given is not None:
            return given
        if self.n_past is None:
            raise ValueError(
                "`exclude_first` needs the positions of the tokens, but the model was called with a cache of unknown "
                "length. Call the model without a cache, with `position_ids`, or with an `attention_mask` over all "
                "tokens [n_sequences, n_cached + n_positions]."
            )
        return torch.arange(self.n_past, self.n_past + self.shape[-1], device=device).expand(self.shape)

    def known_positions(self, device: torch.device | None = None) -> Int[Tensor, "*shape"] | None:
        """Returns :meth:`positions`, or ``None`` if they are unknown."""
        try:
            return None if self.shape is None else self.positions(device)
        except ValueError:
            return None

    def _from_position_ids(self, device: torch.device | None) -> Tensor | None:
        """Returns positions from ``position_ids``."""
        if self.position_ids is None or self.shape is None:
            return None
        given = self.position_ids.to(device)[..., -self.shape[-1] :].expand(self.shape)
        if not self.first_position or self.n_past != 0 or not given.numel():
            return given
        real = self.real(device)
        lowest = int((given if real is None else given[real]).amin()) if real is None or bool(real.any()) else 0
        return given - self.first_position if lowest == self.first_position else given

    def _from_mask(self, device: torch.device | None) -> Tensor | None:
        """Returns positions counted by the mask, if the mask determines the number of earlier tokens."""
        if self.mask is None or self.shape is None:
            return None
        real, n_before = real_tokens(self.mask.to(device), self.shape[-1], self.n_past)
        if self.n_past is None and n_before == 0:
            return None
        # A mask over only the new tokens doesn't cover the tokens in the cache.
        offset = self.n_past if n_before == 0 and self.n_past else 0
        return (real.cumsum(-1)[:, n_before:] - 1 + offset).expand(self.shape)

    def kept(
        self, shape: torch.Size, exclusion: Exclusion, device: torch.device | None = None
    ) -> Bool[Tensor, "*shape"] | None:
        """Returns a mask of the positions of activations ``[*shape, d]`` that are kept; None if all are kept.

        Raises:
            ValueError: If the tokens don't determine these positions.
        """
        if self.problem is not None:
            raise ValueError(self.problem)
        if self.ambiguous and (self.mask is not None or exclusion != Exclusion()):
            raise ValueError(
                "The model was called with tokens for an encoder and for a decoder, and it is unknown which of the two "
                "contains the site. Name the model's parts `encoder` and `decoder`, or omit `exclude_tokens`, "
                "`exclude_first` and the masks."
            )
        if self.shape is None and (exclusion.n_first or self.mask is not None):
            return self._over_sequences(shape).kept(shape, exclusion, device)
        kept = self.real(device)
        if exclusion.n_first:
            late = self.positions(device) >= exclusion.n_first
            kept = late if kept is None else kept & late
        if exclusion.tokens:
            if self.ids is None:
                raise ValueError(
                    f"`exclude_tokens`={exclusion.tokens} needs token ids, but the model was called without "
                    "them. Omit `exclude_tokens`, or call the model with tokens."
                )
            ids = self.ids.to(device)
            other = ~torch.isin(ids, torch.tensor(exclusion.tokens, dtype=ids.dtype, device=ids.device))
            kept = other if kept is None else kept & other
        if kept is not None and kept.numel() != shape.numel():
            raise ValueError(
                f"The leading shape of the site's activations must be that of the tokens, {tuple(kept.shape)}, got "
                f"{tuple(shape)}. Choose a site with one activation per token."
            )
        self.check_order(shape)
        return None if kept is None else kept.reshape(shape)

    def check_order(self, shape: torch.Size) -> None:
        """Raises an error for activations ``[n_positions, n_sequences, d]``, whose rows would get other tokens.

        Raises:
            ValueError: If the leading shape is that of the tokens, reversed.
        """
        if self.shape is not None and 1 not in shape and self.shape != shape and self.shape == shape[::-1]:
            raise ValueError(
                "The site's activations must have sequences as their first dimension, as the tokens "
                f"{tuple(shape[::-1])} do, got {tuple(shape)}. Call the model with one sequence at a time, or choose a "
                "site that keeps the order of the tokens."
            )

    def _over_sequences(self, shape: torch.Size) -> TokenContext:
        """Returns the context of a module that was called with activations ``[n_sequences, n_positions, d]``."""
        if self.mask is not None and self.mask.ndim == 2 and self.mask.numel() == shape.numel():
            return replace(self, shape=self.mask.shape)
        if len(shape) < 2:
            raise ValueError(
                f"`exclude_first` needs sequences, got activations of leading shape {tuple(shape)} and no tokens. "
                "Omit `exclude_first`, or call the model with tokens."
            )
        return replace(self, shape=shape)
