from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks

PART_ENTRIES = 2**18
"""Entries of a decoder that are worked on at once."""


class DecoderNorm(ABC):
    """A constraint on decoder rows: immutable, applied in place around each optimiser step.

    A subclass implements :meth:`constrain_`, and :meth:`project_gradient_` where part of a gradient would only be
    undone by the constraint.
    """

    bounded: bool = True
    """Whether row norms are bounded. If not, shrinking latents and growing rows cheats a plain L1 penalty."""

    @abstractmethod
    def constrain_(self, decoder: Float[Tensor, "n_latents d_out"]) -> None:
        """Moves rows onto the allowed set, in place."""

    def project_gradient_(
        self, decoder: Float[Tensor, "n_latents d_out"], gradient: Float[Tensor, "n_latents d_out"]
    ) -> None:
        """Removes from the gradient, in place, what the constraint would undo (default: nothing)."""


@dataclass(frozen=True)
class Free(DecoderNorm):
    """No constraint."""

    bounded = False

    def constrain_(self, decoder: Float[Tensor, "n_latents d_out"]) -> None:
        pass


@dataclass(frozen=True)
class UnitNorm(DecoderNorm):
    """Every row has norm 1; the gradient's part parallel to the row is removed.

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
    """Every row has norm at most ``maximum``; longer rows are shortened after the step.

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
    """Cuts rows, on a CPU, into parts that its cache holds while several operations go over them."""
    return weight.split(max(1, PART_ENTRIES // weight.shape[-1]) if weight.device.type == "cpu" else len(weight))


def _norms(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
