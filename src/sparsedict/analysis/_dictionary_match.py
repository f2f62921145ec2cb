"""`match_dictionaries`, the nearest latents of two dictionaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict.analysis._cosines import decoder_of, nearest, random_nearest
from sparsedict.display import Displayed


@dataclass(frozen=True, eq=False, repr=False)
class DictionaryMatch(Displayed):
    """The nearest latent of the other dictionary, by signed decoder cosine, for each latent of two dictionaries.

    Attributes:
        cosine_a: Cosine of each latent of ``a`` with the nearest latent of ``b``, ``[n_a]``.
        latent_of_a: Index of the nearest latent of ``b``, ``[n_a]``.
        null_a: The same cosine for random directions, ``[n_a]``.
        cosine_b: Cosine of each latent of ``b`` with the nearest latent of ``a``, ``[n_b]``.
        latent_of_b: Index of the nearest latent of ``a``, ``[n_b]``.
        null_b: The same cosine for random directions, ``[n_b]``.
    """

    cosine_a: Float[Tensor, " n_a"]
    latent_of_a: Int[Tensor, " n_a"]
    null_a: Float[Tensor, " n_a"]
    cosine_b: Float[Tensor, " n_b"]
    latent_of_b: Int[Tensor, " n_b"]
    null_b: Float[Tensor, " n_b"]

    @property
    def mutual(self) -> Bool[Tensor, " n_a"]:
        """Mask of the latents of ``a`` that are the nearest latent of their nearest latent."""
        return self.latent_of_b[self.latent_of_a] == torch.arange(len(self.latent_of_a), device=self.latent_of_a.device)

    @property
    def pairs(self) -> Int[Tensor, "n_pairs 2"]:
        """The pairs of mutually nearest latents, as indices into ``a`` and ``b``."""
        a = self.mutual.nonzero().squeeze(1)
        return torch.stack([a, self.latent_of_a[a]], dim=1)


def match_dictionaries(a: Any, b: Any, *, seed: int = 0) -> DictionaryMatch:
    """Finds the nearest latent in the other dictionary, by decoder row, for each latent of two dictionaries.

    ``.mutual`` marks latents that are nearest to each other. The mean of ``.cosine_a`` is known as mean max cosine
    similarity.

    Args:
        a: A `Dictionary`, a matrix of decoder rows ``[n_a, d]``, or another library's object (see `match_neurons`).
        b: Another dictionary that writes the same activations.
        seed: Random seed of the random directions.

    Raises:
        ValueError: If the widths differ.

    Source: Sharkey, Braun and Millidge, "Taking features out of superposition with sparse autoencoders", 2022.

    Example:
        >>> import torch
        >>> match = match_dictionaries(torch.eye(3), torch.tensor([[0.0, 0.0, 2.0], [0.5, 0.1, 0.0]]))
        >>> match.pairs
        tensor([[0, 1],
                [2, 0]])
    """
    rows_a, rows_b = decoder_of("a", a), decoder_of("b", b)
    if rows_a.shape[1] != rows_b.shape[1]:
        raise ValueError(
            f"`a` and `b` must write activations of the same width, got {rows_a.shape[1]} and {rows_b.shape[1]}."
        )
    rows_b = rows_b.to(rows_a.device)
    of_a, of_b = nearest(rows_a, rows_b), nearest(rows_b, rows_a)
    return DictionaryMatch(
        of_a.cosine,
        of_a.index,
        random_nearest(rows_a, rows_b, seed),
        of_b.cosine,
        of_b.index,
        random_nearest(rows_b, rows_a, seed + 1),
    )
