"""Running first and second moments in float64, which the running metrics use."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedict import checks


class Moments:
    """The running mean and sum of squared deviations of each dimension.

    Plain sums of squares would lose all digits if the mean is much larger than the standard deviation.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    def __init__(self) -> None:
        self.n_tokens = 0
        self.means: tuple[Tensor, ...] = ()
        self.products: dict[tuple[int, int], Tensor] = {}

    def update_(self, pairs: tuple[tuple[int, int], ...], *rows: Tensor) -> None:
        """Adds rows of one or two variables. ``pairs`` selects the products of deviations to accumulate."""
        n_new = len(rows[0])
        if n_new == 0:
            return
        n = self.n_tokens + n_new
        means = tuple(r.mean(0) for r in rows)
        centred = tuple(r - m for r, m in zip(rows, means, strict=True))
        old = self.means or means
        shifts = tuple(new - before for new, before in zip(means, old, strict=True))
        for i, j in pairs:
            own = (centred[i] * centred[j]).sum(0) + shifts[i] * shifts[j] * (self.n_tokens * n_new / n)
            self.products[i, j] = self.products.get((i, j), 0) + own
        self.means = tuple(before + shift * (n_new / n) for before, shift in zip(old, shifts, strict=True))
        self.n_tokens = n

    def spread(self, i: int) -> Tensor:
        """Returns the sum of squared deviations from the mean, with values below the rounding error set to zero."""
        products = self.products[i, i]
        rounding = self.n_tokens * (8 * torch.finfo(torch.float64).eps * self.means[i]).square()
        return products.masked_fill(products <= rounding, 0.0)


def rows_of(name_a: str, a: Tensor, name_b: str, b: Tensor) -> tuple[Tensor, Tensor]:
    for name, value in ((name_a, a), (name_b, b)):
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim == 0:
            got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"`{name}` must be a floating-point tensor [*batch, d], got {got}.")
    checks.same_shape(name_a, a, name_b, b)
    return _double(a.detach()).reshape(-1, a.shape[-1]), _double(b.detach()).reshape(-1, b.shape[-1])


def _double(value: Tensor) -> Tensor:
    # The MPS device has no float64.
    return (value.cpu() if value.device.type == "mps" else value).double()


def check_some(name: str, n_tokens: int) -> None:
    if n_tokens == 0:
        raise ValueError(f"`{name}` must contain at least one token, got none.")
