"""Measurements of the latents of dictionaries over several layers: later layers, duplicates and merged pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import normalize

import sparsedict as sd

ALIKE = 0.7
"""Correlation of latents, or cosine of decoder rows, above which two latents are alike."""

LEAST_FIRINGS = 10
"""Latents that are active on fewer tokens aren't compared, because the tokens of two such latents agree by chance."""


@dataclass(frozen=True)
class LiveLatents:
    """The latents that are active on at least `LEAST_FIRINGS` tokens, by layer.

    Attributes:
        centred: Latents minus their means, scaled to norm 1, ``[n_tokens, n_latents]`` for each layer. The product of
            two columns is their correlation.
        rows: Decoder rows for each target layer, ``[n_latents, n_targets, d]`` for each layer.
        frequency: Share of tokens on which a latent is active, ``[n_latents]`` for each layer.
        n_latents: Number of latents of the dictionary.
    """

    centred: list[Tensor]
    rows: list[Tensor]
    frequency: list[Tensor]
    n_latents: int

    @classmethod
    @torch.no_grad()
    def measure(cls, dictionary: sd.CrossLayerDistiller, batch: sd.Activations) -> LiveLatents:
        """Encodes a batch. All layers must have outputs of the same width."""
        latents = dictionary.encode(dictionary.select(batch)[0])
        centred, rows, frequency = [], [], []
        for index, block in enumerate(dictionary.blocks()):
            own = latents[:, block.latents]
            live = (own != 0).sum(0) >= LEAST_FIRINGS
            own = own[:, live]
            centred.append(normalize(own - own.mean(0), dim=0))
            rows.append(block.whole_rows()[live].unflatten(1, (-1, dictionary.output_widths[index])))
            frequency.append((own != 0).float().mean(0))
        return cls(centred, rows, frequency, dictionary.n_latents)

    def shares(self) -> dict[str, float]:
        """Returns the share of the dictionary's latents that these are."""
        return {"live": sum(len(rows) for rows in self.rows) / self.n_latents}

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yields all pairs of an earlier and a later layer."""
        return combinations(range(len(self.rows)), 2)


def written_later(latents: LiveLatents) -> dict[str, float]:
    """Returns the share of latents that write more than half of their squared norm to later layers.

    Latents of the last layer can't, and aren't counted. ``later, by firings`` weights each latent by its frequency, and
    ``later, random rows`` is the share for random decoder rows of the same shape.
    """
    shares, null, weights = [], [], []
    generator = torch.Generator().manual_seed(0)
    for rows, frequency in zip(latents.rows[:-1], latents.frequency[:-1], strict=True):
        shares.append(_is_later(rows))
        null.append(_is_later(torch.randn(rows.shape, generator=generator)))
        weights.append(frequency)
    later, weight = torch.cat(shares), torch.cat(weights)
    return {
        "later": float(later.mean()),
        "later, by firings": float((later * weight).sum() / weight.sum()),
        "later, random rows": float(torch.cat(null).mean()),
    }


def _is_later(rows: Tensor) -> Tensor:
    squares = rows.square().sum(-1)
    return (squares[:, 0] < 0.5 * squares.sum(1)).float()


def duplicates(latents: LiveLatents) -> dict[str, float]:
    """Returns the shares of latents with a latent of another layer that is alike.

    ``duplicates`` are alike in their activations: a correlation above 0.7. For ``duplicates, other tokens`` the tokens
    of one layer are shifted. ``near copies`` are alike in the decoder rows for their own layers: a cosine above 0.7.
    For ``near copies, permuted`` the columns of one layer's rows are permuted.
    """
    by_firing, by_row = [x.T for x in latents.centred], [normalize(rows[:, 0], dim=-1) for rows in latents.rows]
    order = torch.randperm(by_row[0].shape[1], generator=torch.Generator().manual_seed(0))
    return {
        "duplicates": _share_alike(by_firing, by_firing),
        "duplicates, other tokens": _share_alike(by_firing, [rows.roll(rows.shape[1] // 2, 1) for rows in by_firing]),
        "near copies": _share_alike(by_row, by_row),
        "near copies, permuted": _share_alike(by_row, [rows[:, order] for rows in by_row]),
    }


def _share_alike(vectors: list[Tensor], changed: list[Tensor]) -> float:
    """Returns the share of vectors that have a cosine above the threshold with a vector of another layer.

    Each vector of a layer is compared with the changed vectors of the later layers, and each changed vector with the
    vectors of the earlier layers.
    """
    found = [torch.zeros(len(own), dtype=torch.bool) for own in vectors]
    for i, j in combinations(range(len(vectors)), 2):
        alike = vectors[i] @ changed[j].T > ALIKE
        found[i] |= alike.any(1)
        found[j] |= alike.any(0)
    return float(torch.cat(found).float().mean())


def merged(per_layer: LiveLatents, cross_layer: LiveLatents) -> dict[str, float]:
    """Counts the pairs of duplicates of a per-layer dictionary that are a single latent of a cross-layer dictionary.

    A pair is a latent of one layer and a latent of a later layer whose activations have a correlation above 0.7. It is
    merged if a cross-layer latent of the earlier layer or of one before has a correlation above 0.7 with the first
    latent, and its decoder rows have cosines above 0.7 with the rows of both. For ``merged, other latent`` the second
    latent is replaced by another latent of its layer.
    """
    n_pairs, n_merged, n_null = 0, 0, 0
    for i, j in per_layer.pairs():
        first, second = (per_layer.centred[i].T @ per_layer.centred[j] > ALIKE).nonzero(as_tuple=True)
        other = (second + len(per_layer.rows[j]) // 2) % len(per_layer.rows[j])
        own, null = _are_merged(per_layer, cross_layer, i, j, first, (second, other))
        n_pairs, n_merged, n_null = n_pairs + len(first), n_merged + int(own.sum()), n_null + int(null.sum())
    return {"pairs": n_pairs, "merged": n_merged, "merged, other latent": n_null}


def _are_merged(
    per_layer: LiveLatents, cross_layer: LiveLatents, i: int, j: int, first: Tensor, seconds: Sequence[Tensor]
) -> list[Tensor]:
    """Returns a mask of the merged pairs for each choice of the second latents."""
    found = [torch.zeros(len(first), dtype=torch.bool) for _ in seconds]
    for source in range(i + 1):
        here, later = (normalize(cross_layer.rows[source][:, target - source], dim=-1) for target in (i, j))
        alike = cross_layer.centred[source].T @ per_layer.centred[i][:, first] > ALIKE
        alike &= here @ normalize(per_layer.rows[i][first, 0], dim=-1).T > ALIKE
        for mask, second in zip(found, seconds, strict=True):
            mask |= (alike & (later @ normalize(per_layer.rows[j][second, 0], dim=-1).T > ALIKE)).any(0)
    return found
