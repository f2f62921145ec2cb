"""`stability`, the share of latents that return under another seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis._cosines import directions, units
from sparsedict.analysis.scores._extra import needed
from sparsedict.analysis.scores._result import LatentScores
from sparsedict.seeds import generator
from sparsedict.torch_state import in_own_state

_NULL = int.from_bytes(b"seed", "big")


@in_own_state
def stability(dictionary: Any, others: Any, *, threshold: float = 0.7, seed: int = 0) -> LatentScores:
    """Returns the share of other dictionaries in which each latent returns.

    The latents of the dictionary are assigned to those of another one, each to at most one, so that the sum of cosines
    is largest. If both dictionaries have encoder rows, the cosine is the mean of the cosines of encoder rows and of
    decoder rows; otherwise it is the cosine of the decoder rows. A latent returns if the cosine of its partner is at
    least ``threshold``. Train the other dictionaries on the same data under other seeds, in one pass with `fit_many`.

    The null assigns random directions instead of the latents of the other dictionary. ``chance`` is the share of the
    latents whose random partner reaches the threshold. The columns are ``cosine``, the mean cosine of the partners,
    ``null cosine``, and ``partner``, the partner in the first of the others, or -1.

    The assignment takes memory for a matrix ``[n_latents, n_others]`` and time that grows with the cube of the width:
    about a second for 2,048 latents and a few minutes for 16,384.

    Args:
        dictionary: A `Dictionary`, a matrix of decoder rows ``[n, d]``, a tuple of encoder and decoder rows, or another
            library's object.
        others: Another dictionary of the same widths, or a list of them.
        threshold: Cosine from which on a latent returns.
        seed: Random seed of the null and the interval over latents.

    Raises:
        ImportError: If SciPy isn't installed (``pip install 'sparsedict[scores]'``).
        ValueError: If there is no other dictionary, or widths differ.

    Source: Paulo and Belrose, "Sparse autoencoders trained on the same data learn different features", arXiv
    2501.16615, 2025.

    Example:
        >>> import torch
        >>> rows = torch.eye(3)
        >>> stability(rows, torch.stack([rows[2], rows[0], -rows[1]])).value  # doctest: +SKIP
        tensor([1., 0., 1.])
    """
    needed("scipy.optimize", "The optimal assignment of latents", "scipy")
    threshold = checks.in_range("threshold", threshold, 0.0, 1.0, open_low=True)
    several = isinstance(others, Sequence) and not isinstance(others, tuple)
    listed = list(others) if several else [others]
    if not listed:
        raise ValueError("`others` must hold at least one dictionary, got none. Train one under another seed.")
    encoder, decoder = directions("dictionary", dictionary)
    cosines, nulls, partners = [], [], []
    for number, other in enumerate(listed):
        name = f"others[{number}]" if several else "others"
        matrix = _cosines((encoder, decoder), directions(name, other), name)
        cosine, partner = _assigned(matrix)
        random = tuple(
            None if part is None else _random(part.shape, generator(seed, _NULL, number, kind))
            for kind, part in enumerate(directions(name, other))
        )
        cosines.append(cosine)
        partners.append(partner)
        nulls.append(_assigned(_cosines((encoder, decoder), random, name))[0])
    cosine, null = torch.stack(cosines), torch.stack(nulls)
    returned = (cosine >= threshold).float().mean(0)
    return LatentScores(
        name="stability",
        value=returned,
        chance=(null >= threshold).float().mean(0),
        columns={"cosine": cosine.mean(0), "null cosine": null.mean(0), "partner": partners[0].float()},
        notes={"n_others": len(listed), "threshold": threshold},
        seed=seed,
    )


def _cosines(
    own: tuple[Tensor | None, Tensor], other: tuple[Tensor | None, ...], name: str
) -> Float[Tensor, "n_latents n_others"]:
    """Returns the mean of the cosines of the encoder rows and the decoder rows."""
    found = []
    for role, mine, theirs in zip(("encoder", "decoder"), own, other, strict=True):
        if mine is None or theirs is None:
            continue
        if mine.shape[1] != theirs.shape[1]:
            raise ValueError(
                f"`{name}` must have {role} rows of the same width as `dictionary`, {mine.shape[1]}, got "
                f"{theirs.shape[1]}."
            )
        mine, theirs = units(mine.cpu(), theirs.cpu())
        found.append(mine @ theirs.T)
    return torch.stack(found).mean(0)


def _random(shape: torch.Size, own: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=own, device="cpu", dtype=torch.float32)


def _assigned(cosines: Float[Tensor, "n_latents n_others"]) -> tuple[Tensor, Tensor]:
    """Returns the cosine and the index of the partner of each latent; 0 and -1 without a partner."""
    assignment = needed("scipy.optimize", "The optimal assignment of latents", "scipy").linear_sum_assignment
    rows, columns = (torch.from_numpy(part) for part in assignment(cosines.numpy(), maximize=True))
    cosine = torch.zeros(len(cosines), device="cpu", dtype=torch.float32)
    partner = torch.full((len(cosines),), -1, device="cpu")
    cosine[rows], partner[rows] = cosines[rows, columns].float(), columns
    return cosine, partner
