"""Relative decoder norms of the latents of a crosscoder at its points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.batches import names_of
from sparsedict.dictionaries import Dictionary
from sparsedict.display import Displayed


@dataclass(frozen=True, eq=False, repr=False)
class DecoderShares(Displayed):
    """Relative decoder norms of each latent at the points that a dictionary writes.

    A latent is exclusive to a point if its share there is above ``exclusive_above``. It is shared if its smallest share
    is above ``shared_above`` divided by the number of points. Other latents are neither, as are dead latents and rows
    of zeros.

    Attributes:
        points: Names of the points.
        shares: Norm of the decoder row at each point over the sum of its norms at all points, 0 for a row of zeros,
            ``[n_latents, n_points]``.
        is_counted: False for dead latents and rows of zeros, ``[n_latents]``.
        exclusive_above: Share at a point above which a latent is exclusive to the point.
        shared_above: A latent is shared if all shares are above this number divided by the number of points.
    """

    points: tuple[str, ...]
    shares: Float[Tensor, "n_latents n_points"]
    is_counted: Bool[Tensor, " n_latents"]
    exclusive_above: float
    shared_above: float

    @property
    def n_latents(self) -> int:
        return len(self.shares)

    @property
    def exclusive(self) -> Mapping[str, Int[Tensor, " n"]]:
        """Latents that are exclusive to each point, by its name."""
        is_exclusive = (self.shares > self.exclusive_above) & self.is_counted[:, None]
        return {point: is_exclusive[:, index].nonzero().flatten() for index, point in enumerate(self.points)}

    @property
    def shared(self) -> Int[Tensor, " n"]:
        """Latents that write to all points."""
        smallest = self.shares.min(dim=1).values
        return ((smallest > self.shared_above / len(self.points)) & self.is_counted).nonzero().flatten()

    def to_dict(self) -> dict[str, int]:
        """Returns the numbers of latents by name."""
        found = {f"n_exclusive {point}": len(latents) for point, latents in self.exclusive.items()}
        n_counted = int(self.is_counted.sum())
        return {"n_latents": self.n_latents, "n_counted": n_counted, "n_shared": len(self.shared)} | found

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the name, the number and the meaning of each count."""
        rows: list[tuple[str, ...]] = [("latents", f"{int(self.is_counted.sum()):,}", f"of {self.n_latents:,} counted")]
        least = self.shared_above / len(self.points)
        rows.append(("shared", f"{len(self.shared):,}", f"share above {least:.2f} at every point"))
        for point, latents in self.exclusive.items():
            rows.append((f"exclusive to {point}", f"{len(latents):,}", f"share above {self.exclusive_above:g} there"))
        return rows

    def __str__(self) -> str:
        rows = self.display_rows()
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        return "\n".join(f"{name:<{widths[0]}}  {value:>{widths[1]}}  {note}" for name, value, note in rows)


@torch.no_grad()
def decoder_shares(
    dictionary: Dictionary,
    *,
    exclusive_above: float = 0.9,
    shared_above: float = 0.6,
    dead: Bool[Tensor, " n_latents"] | None = None,
) -> DecoderShares:
    """Returns for each latent its relative decoder norm at each point that the dictionary writes.

    For a crosscoder of two models, the share at a point is the relative norm of model diffing. It is 0.5 for a latent
    with equal norms in both models, and 1 for a latent of a single model. Norms are in units of the spread at each
    point.

    An L1 penalty shortens decoder rows. If a latent contributes little to a point, its row there becomes zero. The
    latent then seems exclusive to the other points, although its feature is not. Train with BatchTopK before you draw
    conclusions from exclusive latents.

    Args:
        dictionary: A `Crosscoder`, or another dictionary that writes several points.
        exclusive_above: Share at a point above which a latent is exclusive to the point.
        shared_above: A latent is shared if all shares are above this number divided by the number of points.
        dead: Latents that never fired, which aren't counted, such as ``evaluation.dead.mask``.

    Raises:
        ValueError: If the dictionary writes a single point, or a threshold is out of range.

    Source: Lindsey et al., "Sparse Crosscoders for Cross-Layer Features and Model Diffing", 2024; Minder et al.,
    "Robustly Identifying Concepts Introduced During Chat Fine-Tuning Using Crosscoders", 2025.

    Example:
        >>> import torch, sparsedict as sd
        >>> crosscoder = sd.Crosscoder({"a": 4, "b": 4}, 8, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
        >>> _ = crosscoder.decoder[0, 4:].data.zero_()
        >>> decoder_shares(crosscoder).exclusive["a.outputs"]
        tensor([0])
    """
    if not isinstance(dictionary, Dictionary):
        raise TypeError(
            f"`dictionary` must be a Dictionary such as sd.Crosscoder, got {type(dictionary).__name__}."
            f"{checks.unwrapped(dictionary)}"
        )
    points = names_of(dictionary.writes)
    if len(points) < 2 or len(dictionary.point_widths) != len(points):
        raise ValueError(
            f"`dictionary` must write several points, as a Crosscoder does, got a {type(dictionary).__name__} that "
            f"writes {', '.join(map(repr, points))}."
        )
    exclusive_above = checks.in_range("exclusive_above", exclusive_above, 0.5, 1.0)
    shared_above = checks.in_range("shared_above", shared_above, 0.0, 1.0)
    norms = dictionary.point_norms().detach()
    norms = norms.to(torch.promote_types(norms.dtype, torch.float32))
    total = norms.sum(dim=1, keepdim=True)
    shares = torch.where(total > 0, norms / total.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
    is_counted = total.flatten() > 0
    if dead is not None:
        checks.latent_vector("dead", dead, dictionary.n_latents)
        is_counted &= ~dead.to(is_counted.device)
    return DecoderShares(points, shares, is_counted, exclusive_above, shared_above)
