"""`InputNorm` and its kinds, normalisations of the encoder's input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks


class InputNorm(ABC):
    """Base class of input normalisation, with its inverse for the output.

    Subclasses are immutable. Declare them as frozen dataclasses, so that they are saved by their arguments. An
    autoencoder applies the inverse to its output. A distiller, which has another output, only normalises its input.

    A norm with numbers that are measured on the data, such as `InputCentre`, also implements :meth:`initial_state`,
    :meth:`measured` and :meth:`with_state`. The dictionary holds the numbers.
    """

    @property
    def affine(self) -> tuple[Tensor | float, Tensor | float] | None:
        """Factor and shift, if ``normalise(x) == x * factor + shift``. ``None`` if they depend on the input.

        Affine norms can be folded into the weights.
        """
        return None

    def initial_state(self, d_in: int) -> dict[str, Tensor]:
        """Returns the numbers of a new dictionary by name. By default there are none."""
        return {}

    def measured(self, inputs: Float[Tensor, "n_tokens d_in"]) -> dict[str, Tensor]:
        """Returns the numbers measured on some inputs, by name."""
        return {}

    def with_state(self, state: Mapping[str, Tensor]) -> InputNorm:
        """Returns the normalisation with the given numbers. By default it has none and returns itself."""
        return self

    @abstractmethod
    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Returns the normalised input, which is encoded."""

    @abstractmethod
    def restore(self, y: Float[Tensor, "*batch d_in"], x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Returns a reconstruction of ``normalise(x)`` in the scale of ``x``.

        Args:
            y: The decoded output.
            x: The input before normalisation.
        """

    def check(self, d_in: int) -> None:
        """Raises ``ValueError`` if inputs of width ``d_in`` can't be normalised."""


@dataclass(frozen=True)
class InputScale(InputNorm):
    """``x * scale``, such as the factor that gives a model's activations a mean norm of ``sqrt(d_in)``.

    ``Dictionary.folded()`` moves the factor into the weights.

    Args:
        scale: Factor of every input.

    Source: Conerly et al., "Update on how we train SAEs", 2024.
    """

    scale: float

    def __post_init__(self) -> None:
        checks.set_in_range(self, "scale", 0.0, open_low=True)

    @property
    def affine(self) -> tuple[float, float]:
        return float(self.scale), 0.0

    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return x * self.scale

    def restore(self, y: Float[Tensor, "*batch d_in"], x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return y / self.scale


@dataclass(frozen=True)
class InputRMSNorm(InputNorm):
    """``x * sqrt(d_in) / |x|``, so that every input has norm ``sqrt(d_in)``. The output is scaled back.

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
        # A zero vector isn't scaled.
        return wide.square().mean(-1, keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny).sqrt()


@dataclass(frozen=True)
class InputLayerNorm(InputNorm):
    """``(x - mean) / (std + eps)``, and ``y * std + mean`` for the output, with the unbiased standard deviation.

    Args:
        eps: Added to the standard deviation.

    Source: the normalisation ``layer_norm`` of SAELens.
    """

    eps: float = 1e-5

    def __post_init__(self) -> None:
        checks.set_in_range(self, "eps", 0.0)

    def check(self, d_in: int) -> None:
        if d_in < 2:
            raise ValueError(f"`d_in` must be at least 2 for InputLayerNorm, got {d_in}.")

    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        mean, deviation = self._moments(x)
        return ((_wide(x) - mean) / (deviation + self.eps)).to(x.dtype)

    def restore(self, y: Float[Tensor, "*batch d_in"], x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        mean, deviation = self._moments(x)
        return (y * deviation + mean).to(y.dtype)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = _wide(x)
        mean = wide.mean(-1, keepdim=True)
        # `std` would issue a warning for a batch without tokens.
        squares = (wide - mean).square().sum(-1, keepdim=True)
        return mean, (squares / (x.shape[-1] - 1)).sqrt()


def _wide(x: Tensor) -> Tensor:
    """Converts half precision to float32, since sums over a vector need more precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
