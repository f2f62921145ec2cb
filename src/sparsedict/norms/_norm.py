"""`DecoderNorm` and its kinds, constraints on decoder rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks

PART_ENTRIES = 2**18
"""Number of entries of a decoder that are processed together."""


class DecoderNorm(ABC):
    """Base class of constraints on decoder rows, applied in place at each optimiser step.

    A subclass is immutable. It implements :meth:`constrain_`, and also :meth:`project_gradient_` if the constraint
    would undo a part of the gradient.
    """

    bounded: bool = True
    """Whether row norms are bounded. If not, an L1 penalty can shrink latents while rows grow."""

    def at_points(self, widths: tuple[int, ...]) -> DecoderNorm:
        """Returns the constraint for rows that write several points. By default it is the same constraint.

        Args:
            widths: Width of each point. Their sum is the width of a row.
        """
        return self

    @abstractmethod
    def constrain_(self, decoder: Float[Tensor, "n_latents d_out"]) -> None:
        """Projects rows onto the constraint set, in place."""

    def project_gradient_(
        self, decoder: Float[Tensor, "n_latents d_out"], gradient: Float[Tensor, "n_latents d_out"]
    ) -> None:
        """Removes the part of the gradient that the constraint would undo, in place. By default it does nothing."""


@dataclass(frozen=True)
class Free(DecoderNorm):
    """No constraint."""

    bounded = False

    def constrain_(self, decoder: Float[Tensor, "n_latents d_out"]) -> None:
        pass


@dataclass(frozen=True)
class UnitNorm(DecoderNorm):
    """Every row has norm 1. The part of the gradient parallel to the row is removed.

    Source: Bricken et al., "Towards Monosemanticity", 2023.

    Example:
        >>> import torch
        >>> decoder = torch.tensor([[3.0, 4.0]])
        >>> UnitNorm().constrain_(decoder)
        >>> decoder
        tensor([[0.6000, 0.8000]])
    """

    @torch.no_grad()
    def constrain_(self, decoder: Float[Tensor, "n_latents d_out"]) -> None:
        for rows in _parts(decoder):
            rows.div_(_norms(rows))

    @torch.no_grad()
    def project_gradient_(
        self, decoder: Float[Tensor, "n_latents d_out"], gradient: Float[Tensor, "n_latents d_out"]
    ) -> None:
        parts = _parts(decoder)
        products = torch.empty_like(parts[0])
        for rows, slopes in zip(parts, _parts(gradient), strict=True):
            parallel = torch.mul(slopes, rows, out=products[: len(rows)]).sum(dim=-1, keepdim=True)
            slopes.addcmul_(parallel, rows, value=-1)


@dataclass(frozen=True)
class MaxNorm(DecoderNorm):
    """Every row has norm at most ``maximum``. Longer rows are scaled down after the step.

    Source: the constraint of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """

    maximum: float = 1.0

    def __post_init__(self) -> None:
        checks.set_in_range(self, "maximum", 0.0, open_low=True)

    @torch.no_grad()
    def constrain_(self, decoder: Float[Tensor, "n_latents d_out"]) -> None:
        for rows in _parts(decoder):
            rows.mul_((self.maximum / _norms(rows)).clamp_max(1.0))


def _parts(weight: Tensor) -> tuple[Tensor, ...]:
    """Splits rows into parts that fit into the cache of a CPU during several operations."""
    return weight.split(max(1, PART_ENTRIES // weight.shape[-1]) if weight.device.type == "cpu" else len(weight))


def _norms(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
