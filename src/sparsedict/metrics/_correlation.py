"""Pearson correlation of columns."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.metrics._moments import Moments, check_some, rows_of


def correlation(a: Float[Tensor, "*batch d"], b: Float[Tensor, "*batch d"]) -> Float[Tensor, " d"]:
    """Returns the Pearson correlation of each column of ``a`` with the same column of ``b``.

    The correlation is NaN if either column is constant.

    Args:
        a: First variables, ``[*batch, d]``.
        b: Second variables, ``[*batch, d]``.

    Example:
        >>> import torch
        >>> a = torch.tensor([[-1.0], [0.0], [1.0]])
        >>> correlation(a, a.abs()).item()
        0.0
    """
    running = RunningCorrelation()
    running.update_(a, b)
    return running.value


class RunningCorrelation:
    """The running version of `correlation`."""

    def __init__(self) -> None:
        self._moments = Moments()

    def update_(self, a: Float[Tensor, "*batch d"], b: Float[Tensor, "*batch d"]) -> None:
        """Adds a batch of both variables, ``[*batch, d]``.

        Raises:
            ValueError: If the shapes differ.
        """
        self._moments.update_(((0, 0), (0, 1), (1, 1)), *rows_of("a", a, "b", b))

    @property
    def n_tokens(self) -> int:
        return self._moments.n_tokens

    @property
    def value(self) -> Float[Tensor, " d"]:
        """Correlation of each column; NaN if either column is constant."""
        check_some("a", self.n_tokens)
        scale = self._moments.spread(0).sqrt() * self._moments.spread(1).sqrt()
        return torch.where(scale > 0, self._moments.products[0, 1] / scale, torch.nan)
