"""`NormWeighted`, `PointNormWeighted`, `Relative` and `WarmUp`, which modify another penalty."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import Dictionary, ForwardPass
from sparsedict.penalties._penalty import LatentPenalty, Penalty, target_variance


@dataclass(frozen=True, eq=False)
class _Weighted(Penalty):
    """A penalty on the latents times a norm of their decoder rows."""

    penalty: LatentPenalty

    def __post_init__(self) -> None:
        if not isinstance(self.penalty, LatentPenalty):
            raise TypeError(f"`penalty` must be a LatentPenalty such as `sd.L1(0.2)`, got {self.penalty!r}.")

    @abstractmethod
    def norms(self, out: ForwardPass) -> Float[Tensor, " n_latents"]:
        """Returns the factor of each latent, differentiable."""

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        return self.for_values(out, out.values)

    def for_values(self, out: ForwardPass, values: Float[Tensor, "*entries"]) -> Float[Tensor, ""]:
        """Returns the penalty for other values than those of the latents."""
        return self.penalty.for_values(out, values * out.aligned(self.norms(out)))

    def check(self, dictionary: Dictionary) -> None:
        self.penalty.check_cost(dictionary)


@dataclass(frozen=True, eq=False)
class NormWeighted(_Weighted):
    """A penalty on ``a * |decoder row|`` instead of ``a``, which is invariant to rescaling under any decoder norm.

    Args:
        penalty: The penalty.

    Source: Conerly et al., "Update on how we train SAEs", Transformer Circuits, April 2024.

    Example:
        >>> import sparsedict as sd
        >>> sd.NormWeighted(sd.L1(0.2))
        NormWeighted(penalty=L1(coefficient=0.2))
    """

    def norms(self, out: ForwardPass) -> Float[Tensor, " n_latents"]:
        return out.decoder_norms


@dataclass(frozen=True, eq=False)
class PointNormWeighted(_Weighted):
    """A penalty on ``a * sum |decoder row at a point|`` instead of ``a``, with the sum over all written points.

    For a dictionary over several points, such as `Crosscoder`. Unlike the norm of the whole row in `NormWeighted`, the
    sum of norms sets the row at a point to zero where the latent contributes little. Latents then look exclusive to the
    other points, even if all points share their feature.

    Args:
        penalty: The penalty.

    Source: Lindsey et al., "Sparse Crosscoders for Cross-Layer Features and Model Diffing", 2024.

    Example:
        >>> import sparsedict as sd
        >>> sd.PointNormWeighted(sd.L1(0.2))
        PointNormWeighted(penalty=L1(coefficient=0.2))
    """

    def norms(self, out: ForwardPass) -> Float[Tensor, " n_latents"]:
        return out.point_norms.sum(dim=-1)


@dataclass(frozen=True, eq=False)
class Relative(Penalty):
    """A penalty whose effect doesn't depend on the scale of the data: ``v * penalty(latents / sqrt(v))``.

    ``v`` is the mean squared distance of the targets of a batch from their mean. If the data is multiplied by ``s``,
    latents and ``sqrt(v)`` are multiplied by ``s``, and penalty and squared error by ``s ** 2``. A coefficient thus has
    the same effect on models with small and with large activations.

    Args:
        penalty: A penalty on powers of the latents, such as `L1`, also in `NormWeighted` or `PointNormWeighted`.

    Example:
        >>> import sparsedict as sd
        >>> sd.Relative(sd.L1(0.01))
        Relative(penalty=L1(coefficient=0.01))
    """

    penalty: LatentPenalty | _Weighted

    def __post_init__(self) -> None:
        if not isinstance(self.penalty, LatentPenalty | _Weighted):
            raise TypeError(f"`penalty` must be a LatentPenalty such as `sd.L1(0.01)`, got {self.penalty!r}.")

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        variance = target_variance(out)
        return self.penalty.for_values(out, out.values / variance.sqrt()) * variance

    def check(self, dictionary: Dictionary) -> None:
        self.penalty.check(dictionary)


@dataclass(frozen=True, eq=False)
class WarmUp(Penalty):
    """A penalty whose weight increases linearly from 0 to 1 over the first steps.

    Args:
        penalty: The penalty to warm up.
        n_steps: Number of optimiser steps until the full weight.
    """

    penalty: Penalty
    n_steps: int

    def __post_init__(self) -> None:
        if not isinstance(self.penalty, Penalty):
            raise TypeError(f"`penalty` must be a Penalty such as `sd.L1(0.2)`, got {self.penalty!r}.")
        checks.set_at_least(self, "n_steps", 1)

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        return self.penalty(out) * min(1.0, (out.step + 1) / self.n_steps)

    def after_step_(self, out: ForwardPass) -> None:
        self.penalty.after_step_(out)

    def missed(self, l0: float, n_tokens: int) -> str | None:
        return self.penalty.missed(l0, n_tokens)

    def check(self, dictionary: Dictionary) -> None:
        self.penalty.check(dictionary)
