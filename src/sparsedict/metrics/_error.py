from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.metrics._moments import Moments, check_some, rows_of


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
        self._target = Moments()
        self._errors: Tensor | int = 0
        self._cosines: Tensor | int = 0

    def update_(self, reconstruction: Float[Tensor, "*batch d"], target: Float[Tensor, "*batch d"]) -> None:
        """Takes in a batch ``[*batch, d]`` of reconstructions and their targets.

        Raises:
            ValueError: If the shapes differ.
        """
        y, t = rows_of("reconstruction", reconstruction, "target", target)
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
        check_some("reconstruction", self.n_tokens)
        assert isinstance(self._errors, Tensor)
        variances = self._target.spread(0)
        checks.finite("target", variances, "Leave the broken tokens out.")
        checks.finite("reconstruction", self._errors, "The dictionary may have diverged in training.")
        return self._errors, variances


def _error(reconstruction: Tensor, target: Tensor) -> RunningError:
    running = RunningError()
    running.update_(reconstruction, target)
    return running
