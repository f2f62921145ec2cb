"""`TokenLatents`, the latents of a dictionary on a text, stored by latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.display import Displayed
from sparsedict.seeds import generator, permutation

TokenStrings = Callable[[Sequence[int]], list[str]]
"""Returns the text of each token id, such as `sparsedict.pages.token_strings(tokenizer)`."""

_SPLIT, _SHUFFLE = 1, 2
RUN = 8
"""Number of neighbouring sequences that fall into the same half, because they often come from one document."""


def latent_indices(latents: Any, n_latents: int) -> Int[Tensor, " n_chosen"]:
    """Returns indices of latents as a tensor on the CPU.

    Raises:
        TypeError: If they aren't integers. A mask isn't a list of indices.
        ValueError: If an index is out of range.
    """
    indices = checks.indices("latents", latents, "a list of indices of latents")
    if indices.dtype == torch.bool:
        raise TypeError("`latents` must be indices of latents, got a mask. Convert it by `mask.nonzero().squeeze(-1)`.")
    if indices.ndim != 1 or (len(indices) and indices.is_floating_point()):
        raise TypeError(f"`latents` must be a list of indices of latents, got {latents!r:.80}.")
    indices = indices.long()
    if bool(((indices < 0) | (indices >= n_latents)).any()):
        raise ValueError(f"`latents` must be indices in [0, {n_latents}), got {indices.tolist()!r:.80}.")
    return indices


@dataclass(frozen=True, eq=False, repr=False)
class TokenLatents(Displayed):
    """The active latents on a text, stored by latent. `record` creates it.

    Entry ``i`` belongs to latent ``l`` if ``offsets[l] <= i < offsets[l + 1]``. Its token is ``tokens.flatten()[
    positions[i]]``. Entries of a latent are in the order of the text.

    Attributes:
        tokens: Token ids, ``[n_sequences, n_positions]``; -1 at padding.
        kept: True at positions with latents. Excluded tokens and padding are false, ``[n_sequences, n_positions]``.
        offsets: First entry of each latent, and the number of entries, ``[n_latents + 1]``.
        positions: Position of each entry in the flattened tokens, ``[n_entries]``.
        values: Value of each entry, ``[n_entries]``.
        strings: Function that returns the text of token ids; ``None`` if unknown.

    Example:
        >>> import torch
        >>> latents = torch.tensor([[[0.0, 1.0], [2.0, 0.0], [3.0, 0.0]]])
        >>> text = TokenLatents.from_dense(latents, torch.tensor([[7, 8, 9]]))
        >>> text.offsets, text.positions, text.values
        (tensor([0, 2, 3]), tensor([1, 2, 0]), tensor([2., 3., 1.]))
    """

    tokens: Int[Tensor, "n_sequences n_positions"]
    kept: Bool[Tensor, "n_sequences n_positions"]
    offsets: Int[Tensor, " n_latents_and_one"]
    positions: Int[Tensor, " n_entries"]
    values: Float[Tensor, " n_entries"]
    strings: TokenStrings | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, kinds in (("tokens", (torch.int64, torch.int32)), ("kept", (torch.bool,))):
            value = getattr(self, name)
            if not isinstance(value, Tensor) or value.dtype not in kinds:
                got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"`{name}` must be a tensor of {' or '.join(map(str, kinds))}, got {got}.")
        if self.strings is not None:
            object.__setattr__(self, "strings", checks.token_texts("strings", self.strings))

    @classmethod
    def from_dense(
        cls,
        latents: Float[Tensor, "n_sequences n_positions n_latents"],
        tokens: Int[Tensor, "n_sequences n_positions"],
        *,
        kept: Bool[Tensor, "n_sequences n_positions"] | None = None,
        strings: TokenStrings | None = None,
    ) -> TokenLatents:
        """Stores the non-zero entries of dense latents.

        Args:
            latents: The latents on each token.
            tokens: The token ids.
            kept: False at positions whose latents are ignored, such as padding.
            strings: Function that returns the text of token ids.

        Raises:
            ValueError: If the shapes differ, or the latents aren't finite.
        """
        latents, tokens = torch.as_tensor(latents, device="cpu"), torch.as_tensor(tokens, device="cpu")
        if latents.shape[:-1] != tokens.shape or tokens.ndim != 2:
            raise ValueError(
                "`latents` [n_sequences, n_positions, n_latents] must have the leading shape of `tokens`, got "
                f"{tuple(latents.shape)} and {tuple(tokens.shape)}."
            )
        kept = torch.ones_like(tokens, dtype=torch.bool) if kept is None else torch.as_tensor(kept, device="cpu")
        checks.same_shape("kept", kept, "tokens", tokens)
        checks.finite("latents", latents, "Exclude the positions with such values.")
        by_latent = (latents.detach() * kept.unsqueeze(-1)).flatten(0, 1).T.cpu()
        owner, positions = by_latent.nonzero(as_tuple=True)
        values = by_latent[owner, positions].float()
        return cls(tokens.cpu(), kept.cpu(), offsets_of(owner, latents.shape[-1]), positions, values, strings)

    @property
    def n_latents(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_tokens(self) -> int:
        """Number of tokens with latents."""
        return int(self.kept.sum())

    @property
    def counts(self) -> Int[Tensor, " n_latents"]:
        """Number of entries of each latent."""
        return self.offsets.diff()

    @property
    def owner(self) -> Int[Tensor, " n_entries"]:
        """The latent of each entry."""
        return torch.repeat_interleave(torch.arange(self.n_latents, device="cpu"), self.counts)

    @property
    def maxima(self) -> Float[Tensor, " n_latents"]:
        """Largest magnitude of each latent; 0 for a latent that never fires."""
        largest = torch.zeros(self.n_latents, device="cpu", dtype=torch.float32)
        return largest.scatter_reduce_(0, self.owner, self.values.abs(), "amax")

    def entries_where(self, mask: Bool[Tensor, " n_entries"]) -> TokenLatents:
        """Returns the latents with only the entries of a mask. The others become 0."""
        owner = self.owner[mask]
        return replace(
            self,
            offsets=offsets_of(owner, self.n_latents),
            positions=self.positions[mask],
            values=self.values[mask],
        )

    def latents(self, indices: Int[Tensor, " n_chosen"]) -> TokenLatents:
        """Returns some of the latents, in the given order.

        Raises:
            ValueError: If they aren't indices of latents.
        """
        indices = latent_indices(indices, self.n_latents)
        counts = self.counts[indices]
        within = ranges(self.offsets[:-1][indices], counts)
        return replace(
            self,
            offsets=torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
            positions=self.positions[within],
            values=self.values[within],
        )

    def sequences(self, indices: Int[Tensor, " n_chosen"]) -> TokenLatents:
        """Returns the latents on some of the sequences, in ascending order of the sequences."""
        indices = indices.sort().values
        width = self.tokens.shape[1]
        row = torch.full((len(self.tokens),), -1, device="cpu").index_put(
            (indices,), torch.arange(len(indices), device="cpu")
        )
        rows = row[torch.div(self.positions, width, rounding_mode="floor")]
        chosen = self.entries_where(rows >= 0)
        places = rows[rows >= 0] * width + chosen.positions % width
        return replace(chosen, tokens=self.tokens[indices], kept=self.kept[indices], positions=places)

    def split(self, seed: int = 0, share: float = 0.5) -> tuple[Int[Tensor, " n_first"], Int[Tensor, " n_second"]]:
        """Splits the sequences into two parts at random. Runs of 8 neighbouring sequences stay together.

        A run is shorter if there are fewer than 128 sequences.

        Args:
            seed: Random seed of the split.
            share: Share of the runs in the first part.

        Returns:
            The indices of the sequences of both parts, in ascending order.

        Raises:
            ValueError: If there are fewer than 2 sequences.
        """
        n, share = len(self.tokens), checks.in_range("share", share, 0.0, 1.0)
        if n < 2:
            raise ValueError(
                f"`text` must have at least 2 sequences, because scores use held-out text, got {n}. Record more text, "
                "or cut it into shorter sequences."
            )
        runs = torch.arange(n, device="cpu").split(max(1, min(RUN, n // 16)))
        order = permutation(len(runs), seed, _SPLIT).tolist()
        n_first = min(max(1, round(share * len(runs))), len(runs) - 1)
        first, second = (torch.cat([runs[i] for i in sorted(part)]) for part in (order[:n_first], order[n_first:]))
        return first, second

    def halves(self, seed: int = 0) -> tuple[TokenLatents, TokenLatents]:
        """Returns the latents on both parts of :meth:`split`."""
        first, second = self.split(seed)
        return self.sequences(first), self.sequences(second)

    def shuffled(self, seed: int = 0) -> TokenLatents:
        """Moves the latents of each token to a random token. Frequencies, values and cofiring stay the same.

        The latents have no relation to the text any more, so this is the null of every score of latents on text.

        Args:
            seed: Random seed of the permutation.
        """
        places = self.kept.flatten().nonzero().squeeze(1)
        moved = torch.arange(self.tokens.numel(), device="cpu")
        moved[places] = places[torch.randperm(len(places), generator=generator(seed, _SHUFFLE), device="cpu")]
        positions, owner = moved[self.positions], self.owner
        order = torch.argsort(owner * self.tokens.numel() + positions)
        return replace(self, positions=positions[order], values=self.values[order])

    def values_at(self, latent: Int[Tensor, " n"], positions: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Returns the values of latents at positions in the flattened tokens, 0 where a latent doesn't fire."""
        n = self.tokens.numel()
        keys = self.owner * n + self.positions
        found, index = lookup(keys, latent * n + positions)
        return (
            torch.where(found, self.values[index], 0.0)
            if len(keys)
            else torch.zeros(len(latent), device="cpu", dtype=torch.float32)
        )


def offsets_of(owner: Int[Tensor, " n_entries"], n: int) -> Int[Tensor, " n_and_one"]:
    """Returns the first entry of each owner, for entries sorted by owner."""
    return torch.nn.functional.pad(torch.bincount(owner, minlength=n).cumsum(0), (1, 0))


def ranges(starts: Int[Tensor, " n"], lengths: Int[Tensor, " n"]) -> Int[Tensor, " total"]:
    """Returns the integers of the ranges ``starts[i], ..., starts[i] + lengths[i] - 1``, one range after the other."""
    ends = lengths.cumsum(0)
    shift = torch.repeat_interleave(starts - ends + lengths, lengths)
    return shift + torch.arange(len(shift), device="cpu")


def lookup(keys: Int[Tensor, " n_keys"], wanted: Int[Tensor, " n"]) -> tuple[Bool[Tensor, " n"], Int[Tensor, " n"]]:
    """Finds numbers in a sorted vector. Returns a mask of those that are there, and their indices."""
    index = torch.searchsorted(keys, wanted).clamp_(max=max(len(keys) - 1, 0))
    found = keys[index] == wanted if len(keys) else torch.zeros_like(wanted, dtype=torch.bool)
    return found, index


def checked_text(text: Any) -> TokenLatents:
    """Returns the argument if it is a `TokenLatents`.

    Raises:
        TypeError: If it isn't.
    """
    if not isinstance(text, TokenLatents):
        raise TypeError(
            f"`text` must be the latents on a text, which `scores.record(site, dictionary, tokens)` returns, got "
            f"{type(text).__name__}."
        )
    return text
