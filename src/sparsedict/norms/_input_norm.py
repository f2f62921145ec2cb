from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks


class InputNorm(ABC):
    """How activations are normalised before a dictionary encodes them, and how its output is put back into their scale.

    An immutable value without state: make it a frozen dataclass, and it is saved by its arguments. An autoencoder
    restores its output; a distiller, whose output is something else, only normalises what it reads.
    """

    @property
    def factor(self) -> float | None:
        """The number that every input is multiplied by; ``None`` where it depends on the input and can't be folded."""
        return None

    @abstractmethod
    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Returns what is encoded."""

    @abstractmethod
    def restore(self, y: Float[Tensor, "*batch d_in"], x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Returns a reconstruction of ``normalise(x)`` in the scale of ``x``.

        Args:
            y: What was decoded.
            x: The input it belongs to, as it was before it was normalised.
        """

    def check(self, d_in: int) -> None:
        """Raises ``ValueError`` where inputs of width ``d_in`` can't be normalised."""


@dataclass(frozen=True)
class InputScale(InputNorm):
    """``x * scale``, such as the factor that gives a model's activations a mean norm of ``sqrt(d_in)``.

    ``Dictionary.folded()`` moves it into the weights.

    Args:
        scale: What every input is multiplied by.

    Source: Conerly et al., "Update on how we train SAEs", 2024.
    """

    scale: float

    def __post_init__(self) -> None:
        checks.set_in_range(self, "scale", 0.0, open_low=True)

    @property
    def factor(self) -> float:
        return float(self.scale)

    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return x * self.scale

    def restore(self, y: Float[Tensor, "*batch d_in"], x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return y / self.scale


@dataclass(frozen=True)
class InputRMSNorm(InputNorm):
    """``x * sqrt(d_in) / |x|``: every input gets the norm ``sqrt(d_in)``, and the output the input's own again.

    Example:
        >>> import torch
        >>> InputRMSNorm().normalise(torch.tensor([3.0, 4.0, 0.0, 0.0]))
        tensor([1.2000, 1.6000, 0.0000, 0.0000])
    """

    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return (_wide(x) / self._scale(x)).to(x.dtype)

    def restore(self, y: Float[Tensor, "*batch d_in"], x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return (y * self._scale(x)).to(y.dtype)

    def _scale(self, x: Tensor) -> Tensor:
        wide = _wide(x)
        # A vector of zeros is left as it is.
        return wide.square().mean(-1, keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny).sqrt()


@dataclass(frozen=True)
class InputLayerNorm(InputNorm):
    """``(x - mean) / (std + eps)``, and ``y * std + mean`` for the output; the deviation is the unbiased one.

    Args:
        eps: Added to the deviation.

    Source: the normalisation ``layer_norm`` of SAELens.
    """

    eps: float = 1e-5

    def __post_init__(self) -> None:
        checks.set_in_range(self, "eps", 0.0)

    def check(self, d_in: int) -> None:
        if d_in < 2:
            raise ValueError(f"`d_in` must be at least 2 for a layer norm of the input, got {d_in}.")

    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        mean, deviation = self._moments(x)
        return ((_wide(x) - mean) / (deviation + self.eps)).to(x.dtype)

    def restore(self, y: Float[Tensor, "*batch d_in"], x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        mean, deviation = self._moments(x)
        return (y * deviation + mean).to(y.dtype)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = _wide(x)
        mean = wide.mean(-1, keepdim=True)
        # `std` warns of a batch without tokens.
        squares = (wide - mean).square().sum(-1, keepdim=True)
        return mean, (squares / (x.shape[-1] - 1)).sqrt()


def _wide(x: Tensor) -> Tensor:
    """Half precision is too coarse for sums over a vector."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
