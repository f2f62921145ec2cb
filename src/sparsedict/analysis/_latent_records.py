"""`LatentRecords`, the facts about every latent of a dictionary that one pass over tokens collects."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis._examples import Example, ExampleTable
from sparsedict.analysis._firing import FiringFrequencies
from sparsedict.analysis._top_examples import TopExamples
from sparsedict.display import Displayed
from sparsedict.storage import CHECKPOINT, StorageError, discard_folder, read_checkpoint, write_checkpoint

KIND = "latent records"
STRONG = 0.1
"""Share of its largest magnitude from which on an activation counts in `LatentRecords.strong_frequency`."""
RARELY_ZERO = 0.9
"""Median frequency from which on `LatentRecords.rarely_zero` is true."""


@dataclass(frozen=True, eq=False, repr=False)
class Histograms(Displayed):
    """Histograms of the activations of all latents on the tokens on which they fire.

    Bin ``b`` of a latent is ``[(b - n_negative) * width, (b + 1 - n_negative) * width)``. Widths are powers of two, so
    the largest magnitude of a latent lies in the outer half of its bins. Values below ``2 ** -12`` of this power of two
    are in the bins next to 0.

    Attributes:
        counts: Number of tokens, ``[n_latents, n_bins]``.
        widths: Width of the bins of each latent; 0 for a latent that never fired, ``[n_latents]``.
        n_negative: Number of bins below 0, which is 0 if no latent has a negative activation.
    """

    counts: Int[Tensor, "n_latents n_bins"]
    widths: Float[Tensor, " n_latents"]
    n_negative: int

    def edges(self, latent: int) -> Float[Tensor, " n_edges"]:
        """Returns the edges of the bins of a latent, one more than there are bins."""
        n_bins = self.counts.shape[1]
        return (torch.arange(n_bins + 1, device="cpu") - self.n_negative) * self.widths[latent].double()

    def counts_from(self, limits: Float[Tensor, " n_latents"]) -> Float[Tensor, " n_latents"]:
        """Returns the number of tokens on which each latent is at least as far from 0 as a limit, on the same side.

        The tokens of the bin with the limit are taken as spread evenly.
        """
        bins = torch.arange(self.counts.shape[1], device="cpu") - self.n_negative
        is_negative = (limits < 0).unsqueeze(1)
        near = torch.where(is_negative, -1 - bins, bins).double()  # the edge of each bin that is nearer to 0, in widths
        within = limits.double().abs() / torch.where(self.widths > 0, self.widths, 1.0).double()
        shares = torch.where(near >= 0, (near + 1 - within.unsqueeze(1)).clamp(0, 1), 0.0)
        return (self.counts * shares).sum(1)


@dataclass(frozen=True, eq=False, repr=False)
class Partners(Displayed):
    """The latents that fire on the same tokens as each latent, of largest Jaccard index first.

    The numbers are estimates from 256 random tokens of each latent. The standard error of a Jaccard index is about
    0.03. The numbers are exact for pairs of latents that fire on fewer tokens.

    Attributes:
        latents: The partners; -1 if there are fewer, ``[n_latents, n_partners]``.
        jaccard: Number of tokens on which both fire over the number on which at least one fires,
            ``[n_latents, n_partners]``.
        share: Share of the latent's tokens on which the partner fires, ``[n_latents, n_partners]``.
    """

    latents: Int[Tensor, "n_latents n_partners"]
    jaccard: Float[Tensor, "n_latents n_partners"]
    share: Float[Tensor, "n_latents n_partners"]


@dataclass(frozen=True, eq=False, repr=False)
class LatentRecords(Displayed):
    """The activations of every latent of a dictionary: counts, quantiles, histograms, examples and partners.

    `collect` makes it. Pages, ratings, scores and exports read it. All tensors are on the CPU.

    Attributes:
        n_tokens: Number of tokens of the pass, without excluded positions and padding.
        n_sequences: Number of sequences.
        counts: Number of tokens on which each latent fires, ``[n_latents]``.
        act_min: Smallest activation on a token on which the latent fires; 0 if it never fired, ``[n_latents]``.
        act_max: Largest activation on such a token; 0 if it never fired, ``[n_latents]``.
        quantile_values: Bounds of the quantiles of the activations on tokens on which the latent fires, from
            ``act_min`` to ``act_max``; 0 if it never fired, ``[n_latents, n_quantiles + 1]``. The relative error of the
            inner bounds is at most 1/32.
        histograms: Histograms of the same activations.
        top: The tokens of largest magnitude, from different sequences, the strongest first. Group ``i`` is latent
            ``i``.
        quantiles: Random tokens of each quantile, the strongest first. Group ``i * n_quantiles + q`` is quantile ``q``
            of latent ``i``. Quantile 0 has the smallest activations.
        partners: Latents that fire on the same tokens. They mean nothing if the latents are `rarely_zero`.
        seed: Random seed of the examples.

    Example:
        >>> import sparsedict as sd
        >>> site = sd.Site(sd.zoo.load_model(), "transformer.h.1.mlp", exclude_tokens=[0])
        >>> sae = sd.SparseAutoencoder(128, 64, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
        >>> tokens = sd.zoo.tokens("evaluation", n_tokens=2048)
        >>> records = sd.analysis.collect(site, {"sae": sae}, tokens, progress=False)["sae"]
        >>> records.n_latents, len(records.examples(0)) <= 16
        (64, True)
    """

    n_tokens: int
    n_sequences: int
    counts: Int[Tensor, " n_latents"]
    act_min: Float[Tensor, " n_latents"]
    act_max: Float[Tensor, " n_latents"]
    quantile_values: Float[Tensor, "n_latents n_edges"]
    histograms: Histograms
    top: ExampleTable
    quantiles: ExampleTable
    partners: Partners
    seed: int

    @property
    def n_latents(self) -> int:
        return len(self.counts)

    @property
    def n_quantiles(self) -> int:
        return self.quantile_values.shape[1] - 1

    @property
    def frequency(self) -> Float[Tensor, " n_latents"]:
        """Share of tokens on which each latent fires."""
        return self.firing.frequency

    @property
    def firing(self) -> FiringFrequencies:
        """The firing counts, as `firing_frequencies` returns them."""
        return FiringFrequencies(self.counts, self.n_tokens)

    @cached_property
    def strong_frequency(self) -> Float[Tensor, " n_latents"]:
        """Share of tokens on which each latent has at least a tenth (`STRONG`) of its largest magnitude, and its sign.

        It describes units that are almost never zero, and compares them with others. It comes from the histograms.
        """
        largest = torch.where(self.act_min.abs() > self.act_max.abs(), self.act_min, self.act_max)
        found = self.histograms.counts_from(STRONG * largest)
        return (found / max(self.n_tokens, 1)).float()

    @cached_property
    def rarely_zero(self) -> bool:
        """Whether half of the latents that fire do so on at least nine of ten tokens, as neurons with GELU or SiLU do.

        `frequency` says nothing about such latents. Use `strong_frequency`.
        """
        own = self.frequency[~self.dead]
        return bool(len(own)) and float(own.median()) >= RARELY_ZERO

    @property
    def dead(self) -> Bool[Tensor, " n_latents"]:
        """Mask of the latents that never fired on these tokens."""
        return self.counts == 0

    @property
    def n_bytes(self) -> int:
        """Number of bytes of all tensors."""
        return _n_bytes(_plain(self))

    def examples(self, latent: int, quantile: int | None = None) -> tuple[Example, ...]:
        """Returns the examples of a latent.

        Args:
            latent: Index of the latent.
            quantile: Index of the quantile, where 0 has the smallest activations. By default, the top examples.

        Raises:
            ValueError: If there is no such latent or quantile.
        """
        latent = checks.index("latent", latent, self.n_latents)
        if quantile is None:
            return self.top.group(latent)
        return self.quantiles.group(latent * self.n_quantiles + checks.index("quantile", quantile, self.n_quantiles))

    def top_examples(self, latent: int) -> TopExamples:
        """Returns the top examples of a latent in the form of the function `top_examples`."""
        return TopExamples(latent, self.examples(latent), self.n_tokens)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the records to a folder, and replaces earlier records there.

        Raises:
            FileExistsError: If the path is a file, or a folder that doesn't hold records.
        """
        path = checks.path("path", path)
        if path.exists() and not (path / CHECKPOINT).is_file():
            raise FileExistsError(f"`path` must be a new folder or one with records, but {path} holds something else.")
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.new")
        if beside.exists():
            discard_folder(beside)
        write_checkpoint(beside, {"kind": KIND}, _plain(self))
        if path.exists():
            discard_folder(path)
        beside.rename(path)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatentRecords:
        """Reads records that `save` wrote.

        Raises:
            FileNotFoundError: If there are no records.
            StorageError: If a file is damaged or holds something else.
        """
        path = checks.path("path", path)
        if not (path / CHECKPOINT).exists():
            raise FileNotFoundError(f"`path` must be a folder of records that `save` wrote, but {path} has none.")
        settings, state = read_checkpoint(path)
        if settings.get("kind") != KIND:
            raise StorageError(f"{path} must hold latent records, got a checkpoint of a run.")
        nested = {"histograms": Histograms, "top": ExampleTable, "quantiles": ExampleTable, "partners": Partners}
        return cls(**{name: nested[name](**value) if name in nested else value for name, value in state.items()})


def _n_bytes(state: dict[str, Any]) -> int:
    parts = state.values()
    return sum(_n_bytes(part) if isinstance(part, dict) else getattr(part, "nbytes", 0) for part in parts)


def _plain(value: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass, with nested dataclasses as mappings."""
    found = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: _plain(item) if isinstance(item, Displayed) else item for name, item in found.items()}
