"""`BalancedError`, the squared error with equal weight for every point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import ForwardPass
from sparsedict.losses._loss import Loss


@dataclass(frozen=True)
class BalancedError(Loss):
    """The squared error with equal weight for every point, for dictionaries over several points.

    The squared error of point ``p`` is multiplied by ``mean(v) / v_p``, where ``v_p`` is the variance of the targets at
    ``p`` over the batch. With `SquaredError`, layers with large outputs dominate, and layers with small outputs are
    hardly trained.

    Example:
        >>> import sparsedict as sd
        >>> sd.BalancedError()
        BalancedError()
    """

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        checks.same_shape("reconstruction", out.reconstruction, "targets", out.targets)
        widths = out.dictionary.point_widths or (out.dictionary.d_out,)
        targets = out.targets.detach()
        variances = torch.stack([out.whole.variances(part).sum() for part in targets.split(widths, dim=-1)])
        weights = torch.where(variances > 0, variances.mean() / variances, torch.ones_like(variances))
        errors = (out.reconstruction - out.targets).square().sum(dim=0)
        return torch.stack([part.sum() for part in errors.split(widths)]).mul(weights).sum() / out.n_tokens
