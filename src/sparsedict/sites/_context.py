"""The tokens that a site's activations belong to: ids, padding and positions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparsedict.sites._masks import real_tokens


@dataclass(frozen=True)
class Exclusion:
    """Positions that never count: those that hold one of ``tokens``, and the first ``n_first`` of each sequence."""

    tokens: tuple[int, ...] = ()
    n_first: int = 0


@dataclass(frozen=True, eq=False)
class TokenContext:
    """The tokens of one call of one stack of layers.

    Attributes:
        shape: Leading shape of the stack's activations, usually ``(n_sequences, n_positions)``; None if unknown.
        ids: Token ids ``[*shape]``; None where the stack was called with embeddings.
        mask: The attention mask as it was given, ``[n_sequences, n_keys]`` or ``[n_sequences, n_heads, n_positions,
            n_keys]``, non-zero (or, for floats with more than two dimensions, zero) where a key is attended to.
        position_ids: As they were given, ``[n_sequences, n_positions]``.
        n_past: Number of positions that the cache holds; None if it isn't known.
        first_position: The position id that the model itself gives to the first token: 2 for RoBERTa.
        ambiguous: Whether the call had tokens for an encoder and a decoder, and these may be either's.
        problem: Why it isn't known which tokens are padding, and what to give; None if it is known.
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
        """Whether neither a mask, nor positions, nor a cache were given."""
        return self.mask is None and self.position_ids is None and self.n_past == 0

    def inherit(self, outer: TokenContext | None) -> TokenContext:
        """Returns this context, completed by that of the call around it where both have the same positions."""
        if outer is None or self.shape is None or outer.shape != self.shape:
            return self
        ids = outer.ids if self.ids is None else self.ids
        if not self.is_bare:
            # Padding is read most surely from a mask over tokens.
            plain = outer.mask is not None and outer.mask.ndim == 2 and (self.mask is None or self.mask.ndim > 2)
            return replace(self, ids=ids, **({"mask": outer.mask, "problem": None} if plain else {}))
        return replace(self, ids=ids, mask=outer.mask, position_ids=outer.position_ids, n_past=outer.n_past)

    def real(self, device: torch.device | None = None) -> Bool[Tensor, "*shape"] | None:
        """Returns which positions hold tokens and not padding; None if all do.

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
        """Returns each token's position in its sequence, counted from 0 over tokens that aren't padding.

        Raises:
            ValueError: If there is a cache of unknown length and no positions are given.
        """
        assert self.shape is not None
        counted, given = self._counted(device), self._given(device)
        if given is not None and self.n_past != 0 and self.mask is not None and self.mask.ndim > 2:
            # Such a mask may show the cached tokens of a sliding window alone.
            counted = None
        if counted is not None and given is not None:
            # Packed sequences begin anew in the one, padding isn't counted in the other.
            return torch.minimum(counted, given)
        if counted is not None:
            return counted
        if given is not None:
            return given
        if self.n_past is None:
            raise ValueError(
                "`exclude_first` needs the tokens' positions, and the model was called with a cache that doesn't say "
                "how many tokens it holds. Call the model without a cache, with `position_ids`, or with an "
                "`attention_mask` over all tokens [n_sequences, n_cached + n_positions]."
            )
        return torch.arange(self.n_past, self.n_past + self.shape[-1], device=device).expand(self.shape)

    def known_positions(self, device: torch.device | None = None) -> Int[Tensor, "*shape"] | None:
        """Returns :meth:`positions`; ``None`` where the call doesn't say them."""
        try:
            return None if self.shape is None else self.positions(device)
        except ValueError:
            return None

    def _given(self, device: torch.device | None) -> Tensor | None:
        """Positions by `position_ids`."""
        if self.position_ids is None or self.shape is None:
            return None
        given = self.position_ids.to(device)[..., -self.shape[-1] :].expand(self.shape)
        if not self.first_position or self.n_past != 0 or not given.numel():
            return given
        real = self.real(device)
        lowest = int((given if real is None else given[real]).amin()) if real is None or bool(real.any()) else 0
        return given - self.first_position if lowest == self.first_position else given

    def _counted(self, device: torch.device | None) -> Tensor | None:
        """Positions by the mask, where there is one that tells the number of tokens before these."""
        if self.mask is None or self.shape is None:
            return None
        real, n_before = real_tokens(self.mask.to(device), self.shape[-1], self.n_past)
        if self.n_past is None and n_before == 0:
            return None
        # A mask over the new tokens alone leaves the cache's to be counted.
        offset = self.n_past if n_before == 0 and self.n_past else 0
        return (real.cumsum(-1)[:, n_before:] - 1 + offset).expand(self.shape)

    def kept(
        self, shape: torch.Size, exclusion: Exclusion, device: torch.device | None = None
    ) -> Bool[Tensor, "*shape"] | None:
        """Returns which positions of activations ``[*shape, d]`` count, or None if all do.

        Raises:
            ValueError: If the tokens don't tell which positions these are.
        """
        if self.problem is not None:
            raise ValueError(self.problem)
        if self.ambiguous and (self.mask is not None or exclusion != Exclusion()):
            raise ValueError(
                "The model was called with tokens for an encoder and for a decoder, and it isn't known which of them "
                "the site belongs to. Name the model's parts `encoder` and `decoder`, or leave out `exclude_tokens`, "
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
                    f"`exclude_tokens`={exclusion.tokens} needs token ids, and the model was called without any. "
                    "Leave it out, or call the model with tokens."
                )
            ids = self.ids.to(device)
            other = ~torch.isin(ids, torch.tensor(exclusion.tokens, dtype=ids.dtype, device=ids.device))
            kept = other if kept is None else kept & other
        if kept is not None and kept.numel() != shape.numel():
            raise ValueError(
                f"The tokens {tuple(kept.shape)} must have a position for each activation, but the site's have leading "
                f"shape {tuple(shape)}. Name a site that keeps the sequence's positions."
            )
        return None if kept is None else kept.reshape(shape)

    def _over_sequences(self, shape: torch.Size) -> TokenContext:
        """The context of a module that was called with activations: their shape is that of sequences."""
        if self.mask is not None and self.mask.ndim == 2 and self.mask.numel() == shape.numel():
            return replace(self, shape=self.mask.shape)
        if len(shape) < 2:
            raise ValueError(
                f"`exclude_first` needs sequences, got activations of leading shape {tuple(shape)} and no tokens. "
                "Leave it out, or give tokens."
            )
        return replace(self, shape=shape)
