"""Reconstruction errors: FVU, squared error and cosine similarity."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.metrics._moments import Moments, check_some, rows_of


def fvu(reconstruction: Float[Tensor, "*batch d"], target: Float[Tensor, "*batch d"]) -> float:
    r"""Returns the fraction of variance unexplained (FVU), over all tokens.

    .. math::
        \mathrm{FVU} = \frac{\sum_t |\hat y_t - y_t|^2}{\sum_t |y_t - \bar y|^2}

    The FVU is 0 for a perfect reconstruction, 1 if the reconstruction is the mean of the target, and larger for worse
    reconstructions.

    Args:
        reconstruction: Reconstruction :math:`\hat y`, ``[*batch, d]``.
        target: Target :math:`y`, ``[*batch, d]``.

    Raises:
        ValueError: If the shapes differ, an entry isn't finite, or the target is constant.

    Example:
        >>> import torch
        >>> fvu(torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([[0.0], [1.0], [2.0]]))
        1.0
    """
    return _error(reconstruction, target).fvu


def fvu_by_dimension(
    reconstruction: Float[Tensor, "*batch d"], target: Float[Tensor, "*batch d"]
) -> Float[Tensor, " d"]:
    """Returns the fraction of variance unexplained of each dimension; NaN if the target is constant.

    Args:
        reconstruction: Reconstruction, ``[*batch, d]``.
        target: Target, ``[*batch, d]``.
    """
    return _error(reconstruction, target).fvu_by_dimension


def squared_error(reconstruction: Float[Tensor, "*batch d"], target: Float[Tensor, "*batch d"]) -> float:
    """Returns the squared error, summed over dimensions, mean over tokens.

    Args:
        reconstruction: Reconstruction, ``[*batch, d]``.
        target: Target, ``[*batch, d]``.

    Example:
        >>> import torch
        >>> squared_error(torch.zeros(2, 3), torch.ones(2, 3))
        3.0
    """
    return _error(reconstruction, target).squared_error


def cosine(reconstruction: Float[Tensor, "*batch d"], target: Float[Tensor, "*batch d"]) -> float:
    """Returns the cosine similarity of reconstruction and target, mean over tokens. It is 0 if either vector is zero.

    Args:
        reconstruction: Reconstruction, ``[*batch, d]``.
        target: Target, ``[*batch, d]``.
    """
    return _error(reconstruction, target).cosine


class RunningError:
    """The running version of `fvu`, `fvu_by_dimension`, `squared_error` and `cosine`.

    Args:
        argument: The name of the caller's parameter from which the targets come, for error messages. By default the
            caller passes the targets themselves.

    Example:
        >>> import torch
        >>> running = RunningError()
        >>> for target in (0.0, 1.0, 2.0):
        ...     running.update_(torch.tensor([[1.0]]), torch.tensor([[target]]))
        >>> running.fvu, running.n_tokens
        (1.0, 3)
    """

    def __init__(self, argument: str | None = None) -> None:
        self._argument = argument
        self._target = Moments()
        self._errors: Tensor | int = 0
        self._cosines: Tensor | int = 0

    def update_(self, reconstruction: Float[Tensor, "*batch d"], target: Float[Tensor, "*batch d"]) -> None:
        """Adds a batch of reconstructions and targets, ``[*batch, d]``.

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
            ValueError: If there are no tokens, the target is constant, or an entry wasn't finite.
        """
        errors, variances = self._sums()
        error, variance = float(errors.sum()), float(variances.sum())
        if variance == 0 and self._argument is not None:
            raise ValueError(
                f"`{self._argument}` must give targets that differ, because FVU divides by their variance, got "
                f"{self.n_tokens} equal rows. Use more tokens."
            )
        if variance == 0:
            raise ValueError(
                f"`target` must not be constant, because FVU divides by its variance, got {self.n_tokens} equal rows. "
                "Use more tokens, or `squared_error`."
            )
        return error / variance

    @property
    def fvu_by_dimension(self) -> Float[Tensor, " d"]:
        """Fraction of variance unexplained of each dimension; NaN if the target is constant."""
        errors, variances = self._sums()
        return torch.where(variances > 0, errors / variances, torch.nan)

    @property
    def squared_error(self) -> float:
        """Squared error, summed over dimensions, mean over tokens."""
        errors, _ = self._sums()
        return float(errors.sum()) / self.n_tokens

    @property
    def cosine(self) -> float:
        """Cosine similarity of reconstruction and target, mean over tokens."""
        self._sums()
        return float(self._cosines) / self.n_tokens

    def _sums(self) -> tuple[Tensor, Tensor]:
        check_some("reconstruction", self.n_tokens)
        assert isinstance(self._errors, Tensor)
        variances = self._target.spread(0)
        checks.finite("target", variances, "Leave out the tokens with such values.")
        checks.finite("reconstruction", self._errors, "The dictionary may have diverged in training.")
        return self._errors, variances


def _error(reconstruction: Tensor, target: Tensor) -> RunningError:
    running = RunningError()
    running.update_(reconstruction, target)
    return running
