"""Firing frequencies, dead latents and means of latents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.analysis._blocks import blocks, evaluation_mode
from sparsedict.display import Displayed
from sparsedict.latents import SparseLatents, firing_counts
from sparsedict.types import Role


@dataclass(frozen=True, eq=False, repr=False)
class FiringFrequencies(Displayed):
    """The number of tokens on which each latent fires.

    Attributes:
        counts: Number of tokens, ``[n_latents]``.
        n_tokens: Number of tokens.
    """

    counts: Int[Tensor, " n_latents"]
    n_tokens: int

    @property
    def frequency(self) -> Float[Tensor, " n_latents"]:
        """Share of tokens on which each latent fires."""
        return self.counts.double() / self.n_tokens

    @property
    def log10(self) -> Float[Tensor, " n_latents"]:
        """Decimal logarithm of the frequency; minus infinity for a latent that never fired."""
        return self.frequency.log10()

    @property
    def dead(self) -> DeadLatents:
        """The latents that never fired on these tokens."""
        return DeadLatents(self.counts == 0, self.n_tokens)


@dataclass(frozen=True, eq=False, repr=False)
class DeadLatents(Displayed):
    """The latents that never fired on a number of tokens.

    Attributes:
        mask: True for latents that never fired, ``[n_latents]``.
        n_tokens: Number of tokens. Some of the latents may fire on more tokens.
    """

    mask: Bool[Tensor, " n_latents"]
    n_tokens: int

    @property
    def n_dead(self) -> int:
        return int(self.mask.sum())

    @property
    def share(self) -> float:
        """Share of dead latents."""
        return self.n_dead / len(self.mask)

    def __str__(self) -> str:
        return f"{self.n_dead:,} of {len(self.mask):,} latents never fired on {self.n_tokens:,} tokens"


def firing_frequencies(
    dictionary: Any, data: Any, *, n_tokens: int | None = None, reads: Role | None = None, above: float | None = None
) -> FiringFrequencies:
    """Counts the tokens on which each latent fires, i.e. is not zero.

    Args:
        dictionary: A `Dictionary`, or any object with ``encode``.
        data: An `ActivationStream`, a tensor of inputs of the dictionary, or any other data that ``fit`` accepts.
        n_tokens: Number of tokens to use, at most one pass over the data. One pass by default.
        reads: The activations that an object of another library reads: ``"inputs"``, ``"outputs"`` or ``"neurons"``.
        above: If passed, values above this threshold count as firing, instead of non-zero values. Use ``above=0.0`` for
            GELU or SiLU, which are almost never zero.

    Raises:
        ValueError: If the data is empty, contains NaN, or has another width than the dictionary.

    Example:
        >>> import torch, sparsedict as sd
        >>> sae = sd.SparseAutoencoder(4, 8, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
        >>> frequencies = firing_frequencies(sae, torch.randn(100, 4), n_tokens=50)
        >>> frequencies.n_tokens, frequencies.counts.shape
        (50, torch.Size([8]))
    """
    if above is not None:
        above = checks.in_range("above", above, 0.0)
    adapter = Adapter(dictionary, reads)
    counts: Tensor | int = 0
    n_seen = 0
    with evaluation_mode(dictionary):
        for inputs, _ in blocks(adapter, data, n_tokens):
            latents = adapter.encode_sparse(inputs)
            counts = counts + (firing_counts(latents) if above is None else _counts_above(latents, above))
            n_seen += len(inputs)
    assert isinstance(counts, Tensor)
    return FiringFrequencies(counts, n_seen)


def _counts_above(latents: Tensor | SparseLatents, above: float) -> Tensor:
    if not isinstance(latents, SparseLatents):
        return (latents > above).sum(0)
    return firing_counts(replace(latents, values=latents.values * (latents.values > above)))


def dead_latents(
    dictionary: Any, data: Any, *, n_tokens: int | None = None, reads: Role | None = None, above: float | None = None
) -> DeadLatents:
    """Finds the latents that never fire.

    Args:
        dictionary: A `Dictionary`, or any object with ``encode``.
        data: Activations, see `firing_frequencies`.
        n_tokens: Number of tokens to use, at most one pass over the data. One pass by default.
        reads: The activations that an object of another library reads.
        above: Threshold, see `firing_frequencies`.

    Raises:
        ValueError: If the data is empty, contains NaN, or has another width than the dictionary.
    """
    return firing_frequencies(dictionary, data, n_tokens=n_tokens, reads=reads, above=above).dead


def latent_means(
    dictionary: Any, data: Any, *, n_tokens: int | None = None, reads: Role | None = None
) -> Float[Tensor, " n_latents"]:
    """Returns the mean of each latent over all tokens, including zeros. Mean ablation uses these values.

    Args:
        dictionary: A `Dictionary`, or any object with ``encode``.
        data: Activations, see `firing_frequencies`.
        n_tokens: Number of tokens to use, at most one pass over the data. One pass by default.
        reads: The activations that an object of another library reads.

    Raises:
        ValueError: If the data is empty, contains NaN, or has another width than the dictionary.

    Example:
        >>> import torch, sparsedict as sd
        >>> sae = sd.SparseAutoencoder(4, 8, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
        >>> x = torch.randn(100, 4)
        >>> torch.allclose(latent_means(sae, x), sae.encode(x).mean(0))
        True
    """
    adapter = Adapter(dictionary, reads)
    sums: Tensor | None = None
    n_seen = 0
    dtype = torch.float32
    with evaluation_mode(dictionary):
        for inputs, _ in blocks(adapter, data, n_tokens):
            latents = adapter.encode_sparse(inputs)
            dtype = latents.values.dtype if isinstance(latents, SparseLatents) else latents.dtype
            new = _sums(latents)
            sums = new if sums is None else sums + new
            n_seen += len(inputs)
    assert sums is not None
    return (sums / n_seen).to(dtype)


def _sums(latents: Tensor | SparseLatents) -> Tensor:
    if not isinstance(latents, SparseLatents):
        return latents.sum(0, dtype=torch.float64)
    sums = torch.zeros(latents.n_latents, dtype=torch.float64, device=latents.values.device)
    return sums.index_add_(0, latents.latents, latents.values.double())
