"""How good a reconstruction is and how sparse the latents are: functions of tensors, and their running forms.

A function takes the whole set and returns a number. A running form takes batches, keeps float64 sums on their device,
and reads from it only when a value is asked for; over any split into batches its values agree to rounding.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.latents import SparseLatents


def l0(latents: Float[Tensor, "*batch n_latents"] | SparseLatents) -> float:
    """Returns how many latents are greater than zero, mean over tokens.

    Args:
        latents: Dense or sparse. Negative values, such as GELU's, and stored zeros don't count.

    Raises:
        ValueError: If there are no tokens.

    Example:
        >>> import torch
        >>> l0(torch.tensor([[0.0, 2.0, 1.0], [0.0, 3.0, -1.0]]))
        1.5
    """
    running = RunningL0()
    running.update_(latents)
    return running.value


def fvu(reconstruction: Float[Tensor, "*batch d"], target: Float[Tensor, "*batch d"]) -> float:
    r"""Returns the fraction of variance unexplained, over the whole set.

    .. math::
        \mathrm{FVU} = \frac{\sum_t |\hat y_t - y_t|^2}{\sum_t |y_t - \bar y|^2}

    Zero is perfect; the target's own mean has 1; what is worse than that has more.

    Args:
        reconstruction: $\hat y$, ``[*batch, d]``.
        target: $y$, of the same shape.

    Raises:
        ValueError: If the shapes differ, an entry isn't finite, or the target doesn't vary.

    Example:
        >>> import torch
        >>> fvu(torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([[0.0], [1.0], [2.0]]))
        1.0
    """
    return _error(reconstruction, target).fvu


def fvu_by_dimension(
    reconstruction: Float[Tensor, "*batch d"], target: Float[Tensor, "*batch d"]
) -> Float[Tensor, " d"]:
    """Returns the fraction of variance unexplained of each dimension, NaN where the target doesn't vary.

    Args:
        reconstruction: ``[*batch, d]``.
        target: Of the same shape.
    """
    return _error(reconstruction, target).fvu_by_dimension


def squared_error(reconstruction: Float[Tensor, "*batch d"], target: Float[Tensor, "*batch d"]) -> float:
    """Returns the squared error, summed over dimensions, mean over tokens.

    Args:
        reconstruction: ``[*batch, d]``.
        target: Of the same shape.

    Example:
        >>> import torch
        >>> squared_error(torch.zeros(2, 3), torch.ones(2, 3))
        3.0
    """
    return _error(reconstruction, target).squared_error


def cosine(reconstruction: Float[Tensor, "*batch d"], target: Float[Tensor, "*batch d"]) -> float:
    """Returns the cosine of each reconstruction with its target, mean over tokens; 0 where either is zero.

    Args:
        reconstruction: ``[*batch, d]``.
        target: Of the same shape.
    """
    return _error(reconstruction, target).cosine


def correlation(a: Float[Tensor, "*batch d"], b: Float[Tensor, "*batch d"]) -> Float[Tensor, " d"]:
    """Returns Pearson's correlation of each column of ``a`` with that of ``b``, NaN where either is constant.

    Args:
        a: ``[*batch, d]``.
        b: Of the same shape.

    Example:
        >>> import torch
        >>> a = torch.tensor([[-1.0], [0.0], [1.0]])
        >>> correlation(a, a.abs()).item()
        0.0
    """
    running = RunningCorrelation()
    running.update_(a, b)
    return running.value


class RunningL0:
    """The running form of `l0`.

    Example:
        >>> import torch
        >>> running = RunningL0()
        >>> running.update_(torch.tensor([[1.0, 2.0]]))
        >>> running.update_(torch.tensor([[0.0, 0.0]]))
        >>> running.value
        1.0
    """

    def __init__(self) -> None:
        self.n_tokens: int = 0
        self._n_active: Tensor | int = 0

    def update_(self, latents: Float[Tensor, "*batch n_latents"] | SparseLatents) -> None:
        """Takes in a batch of latents."""
        sparse = isinstance(latents, SparseLatents)
        self.n_tokens += latents.support.n_tokens if sparse else latents.shape[:-1].numel()
        self._n_active = self._n_active + ((latents.values if sparse else latents) > 0).sum()

    @property
    def value(self) -> float:
        """Active latents, mean over tokens."""
        _check_some("latents", self.n_tokens)
        return float(self._n_active) / self.n_tokens


class _Moments:
    """Mean and sum of squared distances from it, by dimension, merged batch by batch.

    Sums of squares would lose all digits where the mean is much larger than the spread.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    def __init__(self) -> None:
        self.n_tokens = 0
        self.means: tuple[Tensor, ...] = ()
        self.products: dict[tuple[int, int], Tensor] = {}

    def update_(self, pairs: tuple[tuple[int, int], ...], *rows: Tensor) -> None:
        """Takes in rows of one or two variables; ``pairs`` are those whose products are kept."""
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
        """Returns the sum of squared distances from the mean, exactly zero where these are but rounding."""
        products = self.products[i, i]
        rounding = self.n_tokens * (8 * torch.finfo(torch.float64).eps * self.means[i]).square()
        return products.masked_fill(products <= rounding, 0.0)


class RunningError:
    """The running form of `fvu`, `fvu_by_dimension`, `squared_error` and `cosine`.

    Example:
        >>> import torch
        >>> running = RunningError()
        >>> for target in (0.0, 1.0, 2.0):
        ...     running.update_(torch.tensor([[1.0]]), torch.tensor([[target]]))
        >>> running.fvu, running.n_tokens
        (1.0, 3)
    """

    def __init__(self) -> None:
        self._target = _Moments()
        self._errors: Tensor | int = 0
        self._cosines: Tensor | int = 0

    def update_(self, reconstruction: Float[Tensor, "*batch d"], target: Float[Tensor, "*batch d"]) -> None:
        """Takes in a batch ``[*batch, d]`` of reconstructions and their targets.

        Raises:
            ValueError: If the shapes differ.
        """
        y, t = _rows("reconstruction", reconstruction, "target", target)
        self._target.update_(((0, 0),), t)
        self._errors = self._errors + (y - t).square().sum(0)
        self._cosines = self._cosines + torch.nn.functional.cosine_similarity(y, t, dim=-1).sum()

    @property
    def n_tokens(self) -> int:
        return self._target.n_tokens

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained.

        Raises:
            ValueError: If there are no tokens, the target doesn't vary, or an entry wasn't finite.
        """
        errors, variances = self._sums()
        error, variance = float(errors.sum()), float(variances.sum())
        if variance == 0:
            raise ValueError(
                f"`target` must vary for a fraction of its variance to be had, got {self.n_tokens} equal rows. "
                "Give more tokens, or take the `squared_error`."
            )
        return error / variance

    @property
    def fvu_by_dimension(self) -> Float[Tensor, " d"]:
        """Fraction of variance unexplained of each dimension, NaN where the target doesn't vary."""
        errors, variances = self._sums()
        return torch.where(variances > 0, errors / variances, torch.nan)

    @property
    def squared_error(self) -> float:
        """Squared error, summed over dimensions, mean over tokens."""
        errors, _ = self._sums()
        return float(errors.sum()) / self.n_tokens

    @property
    def cosine(self) -> float:
        """Cosine of reconstruction and target, mean over tokens."""
        self._sums()
        return float(self._cosines) / self.n_tokens

    def _sums(self) -> tuple[Tensor, Tensor]:
        _check_some("reconstruction", self.n_tokens)
        assert isinstance(self._errors, Tensor)
        variances = self._target.spread(0)
        checks.finite("target", variances, "Leave the broken tokens out.")
        checks.finite("reconstruction", self._errors, "The dictionary may have diverged in training.")
        return self._errors, variances


class RunningCorrelation:
    """The running form of `correlation`."""

    def __init__(self) -> None:
        self._moments = _Moments()

    def update_(self, a: Float[Tensor, "*batch d"], b: Float[Tensor, "*batch d"]) -> None:
        """Takes in a batch ``[*batch, d]`` of both.

        Raises:
            ValueError: If the shapes differ.
        """
        self._moments.update_(((0, 0), (0, 1), (1, 1)), *_rows("a", a, "b", b))

    @property
    def n_tokens(self) -> int:
        return self._moments.n_tokens

    @property
    def value(self) -> Float[Tensor, " d"]:
        """Correlation of each column, NaN where either is constant."""
        _check_some("a", self.n_tokens)
        scale = self._moments.spread(0).sqrt() * self._moments.spread(1).sqrt()
        return torch.where(scale > 0, self._moments.products[0, 1] / scale, torch.nan)


def _error(reconstruction: Tensor, target: Tensor) -> RunningError:
    running = RunningError()
    running.update_(reconstruction, target)
    return running


def _rows(name_a: str, a: Tensor, name_b: str, b: Tensor) -> tuple[Tensor, Tensor]:
    for name, value in ((name_a, a), (name_b, b)):
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim == 0:
            got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"`{name}` must be a floating-point tensor [*batch, d], got {got}.")
    checks.same_shape(name_a, a, name_b, b)
    return _double(a.detach()).reshape(-1, a.shape[-1]), _double(b.detach()).reshape(-1, b.shape[-1])


def _double(value: Tensor) -> Tensor:
    # Apple's device has no float64.
    return (value.cpu() if value.device.type == "mps" else value).double()


def _check_some(name: str, n_tokens: int) -> None:
    if n_tokens == 0:
        raise ValueError(f"`{name}` must hold at least one token, got none.")
