"""`PointStatistics`, the numbers about activations that decide how to train on them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict.display import Displayed

OUTLIER = 5.0
"""Standard deviation of a dimension, relative to the median one, above which it is an outlier."""


@dataclass(frozen=True, eq=False, repr=False)
class PointStatistics(Displayed):
    r"""Statistics of the activations at a point.

    Attributes:
        mean_over_spread: :math:`\gamma = |\mu| / |\sigma|`, with the mean and the standard deviation of each dimension.
        outliers: Dimensions whose standard deviation is more than 5 times the median one, largest first.
        outlier_share: Share of the variance in these dimensions.
        effective_rank: :math:`\exp H(\lambda / \sum \lambda)`, with the entropy :math:`H` of the eigenvalues of the
            covariance. Outlier dimensions are first scaled to the median standard deviation, since they would hide the
            others.
        d: Width of the activations.
        norm_spread: Standard deviation of the distance from the mean, relative to its mean.
        n_tokens: Number of tokens.

    Source: :math:`\gamma` from Simon, Adams and Zou, "On the Relationship Between Activation Outliers and Feature Death
    in Sparse Autoencoders", 2026, arXiv 2605.31518; the effective rank from Roy and Vetterli, "The effective rank: a
    measure of effective dimensionality", 2007.
    """

    mean_over_spread: float
    outliers: Int[Tensor, " n_outliers"]
    outlier_share: float
    effective_rank: float
    d: int
    norm_spread: float
    n_tokens: int

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the name and value of each number."""
        listed = ", ".join(map(str, self.outliers[:6].tolist())) + (", ..." if len(self.outliers) > 6 else "")
        outliers = f"{len(self.outliers)}: {listed} ({self.outlier_share:.1%} of the variance)"
        return [
            ("mean over spread (gamma)", f"{self.mean_over_spread:.3g}"),
            ("outlier dimensions", outliers if len(self.outliers) else "none"),
            ("effective rank", f"{self.effective_rank:.1f} of {self.d}"),
            ("spread of norms", f"{self.norm_spread:.3g}"),
        ]


def point_statistics(rows: Float[Tensor, "n_tokens d"]) -> PointStatistics:
    """Returns the statistics of some activations."""
    wide = rows.double()
    mean = wide.mean(0)
    centred = wide - mean
    variance = centred.square().mean(0)
    spread = variance.sqrt()
    total = float(variance.sum())
    order = spread.sort(descending=True).indices
    outliers = order[spread[order] > OUTLIER * spread.median()]
    distances = torch.linalg.vector_norm(centred, dim=1)
    size = float(mean.norm())
    return PointStatistics(
        mean_over_spread=size / math.sqrt(total) if total else (math.inf if size else 0.0),
        outliers=outliers.cpu(),
        outlier_share=float(variance[outliers].sum()) / total if total else 0.0,
        effective_rank=_effective_rank(_without_outliers(centred, spread, outliers)),
        d=rows.shape[1],
        norm_spread=float(distances.std(correction=0) / distances.mean()) if total else 0.0,
        n_tokens=len(rows),
    )


def _without_outliers(
    centred: Float[Tensor, "n_tokens d"], spread: Float[Tensor, " d"], outliers: Int[Tensor, " n_outliers"]
) -> Float[Tensor, "n_tokens d"]:
    """Returns the activations with outlier dimensions scaled to the median standard deviation."""
    if not len(outliers) or not spread.median():
        return centred
    return centred * torch.ones_like(spread).index_copy(0, outliers, spread.median() / spread[outliers])


def _effective_rank(centred: Float[Tensor, "n_tokens d"]) -> float:
    """Returns the exponential of the entropy of the normalised eigenvalues of the covariance."""
    # The smaller one of the two Gram matrices has the same eigenvalues.
    wide = centred if centred.shape[0] >= centred.shape[1] else centred.T
    values = torch.linalg.eigvalsh(wide.T @ wide).clamp_min(0)
    if not values.sum():
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def linear_share(
    inputs: Float[Tensor, "n_tokens d_in"], outputs: Float[Tensor, "n_tokens d_out"], ridge: float = 1e-3
) -> float:
    """Returns the share of the outputs' variance that a linear map of the inputs explains on other tokens.

    The map is fitted on every other token and measured on the rest. It is NaN with fewer than twice as many tokens as
    inputs, and if the outputs are constant.

    Args:
        inputs: Activations that the MLP reads.
        outputs: Activations that it writes.
        ridge: Regularisation, relative to the mean variance of the inputs.
    """
    if len(inputs) < 4 * inputs.shape[1]:
        return math.nan
    x, y = inputs.double(), outputs.double()
    means = x[::2].mean(0), y[::2].mean(0)
    (fit_x, fit_y), (x, y) = (x[::2] - means[0], y[::2] - means[1]), (x[1::2] - means[0], y[1::2] - means[1])
    covariance = fit_x.T @ fit_x
    covariance.diagonal().add_(ridge * covariance.diagonal().mean().clamp_min(1e-300))
    error = (y - x @ torch.linalg.solve(covariance, fit_x.T @ fit_y)).square().sum()
    total = (y - y.mean(0)).square().sum()
    return float(1 - error / total) if total else math.nan
