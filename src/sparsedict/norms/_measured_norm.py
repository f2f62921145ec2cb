"""`InputCentre` and `InputStandardise`, input norms that are measured on the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.norms._input_norm import InputNorm


class MeasuredNorm(InputNorm):
    """A norm whose numbers are measured on the data. A dictionary has them as buffers."""

    def with_state(self, state: Mapping[str, Tensor]) -> InputNorm:
        return AffineNorm(state["mean"], state.get("scale"))

    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        raise self._unmeasured()

    def restore(self, y: Float[Tensor, "*batch d_in"], x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        raise self._unmeasured()

    def _unmeasured(self) -> RuntimeError:
        return RuntimeError(f"{self} has no numbers of its own. Use it in a dictionary, or call `with_state` first.")


@dataclass(frozen=True)
class InputCentre(MeasuredNorm):
    """``x - mean``, with the mean input of each dimension. An autoencoder adds it to its output.

    The mean is measured on the first batches of the training run (``Dictionary.initialise_``) and saved with the
    dictionary as ``input_mean``. Before, it is zero. ``Dictionary.folded()`` moves it into the weights. The encoder
    then doesn't spend latents or biases on a large mean.

    Example:
        >>> import torch, sparsedict as sd
        >>> parts = {"activation": sd.TopK(2), "decoder_norm": sd.UnitNorm()}
        >>> sae = sd.SparseAutoencoder(2, 4, input_norm=sd.InputCentre(), **parts)
        >>> x = torch.tensor([[1.0, 4.0], [3.0, 8.0]])
        >>> sae.initialise_(x, x)
        >>> sae.input_mean
        tensor([2., 6.])
    """

    def initial_state(self, d_in: int) -> dict[str, Tensor]:
        return {"mean": torch.zeros(d_in, device="cpu", dtype=torch.float32)}

    def measured(self, inputs: Float[Tensor, "n_tokens d_in"]) -> dict[str, Tensor]:
        return {"mean": _wide(inputs).mean(0)}


@dataclass(frozen=True)
class InputStandardise(MeasuredNorm):
    """``(x - mean) / scale`` of each dimension, with its mean and standard deviation over tokens.

    Like `InputCentre`, and each dimension is also divided by its standard deviation, saved as ``input_scale``. A few
    dimensions with a huge variance then don't dominate the encoder. An autoencoder minimises the error of the original
    activations, since its output is scaled back.

    Args:
        floor: Smallest scale, as a fraction of the root mean square of all scales. It limits the factor of dimensions
            that are nearly constant.

    Example:
        >>> import torch, sparsedict as sd
        >>> parts = {"activation": sd.TopK(2), "decoder_norm": sd.UnitNorm()}
        >>> sae = sd.SparseAutoencoder(2, 4, input_norm=sd.InputStandardise(), **parts)
        >>> x = torch.tensor([[1.0, 4.0], [3.0, 8.0]])
        >>> sae.initialise_(x, x)
        >>> sae.input_scale
        tensor([1., 2.])
    """

    floor: float = 0.01

    def __post_init__(self) -> None:
        checks.set_in_range(self, "floor", 0.0, 1.0, open_low=True)

    def initial_state(self, d_in: int) -> dict[str, Tensor]:
        return {
            "mean": torch.zeros(d_in, device="cpu", dtype=torch.float32),
            "scale": torch.ones(d_in, device="cpu", dtype=torch.float32),
        }

    def measured(self, inputs: Float[Tensor, "n_tokens d_in"]) -> dict[str, Tensor]:
        wide = _wide(inputs)
        scale = wide.std(dim=0, correction=0)
        typical = scale.square().mean().sqrt()
        # Constant inputs aren't scaled.
        scale = torch.where(typical > 0, scale.clamp_min(self.floor * typical), torch.ones_like(scale))
        return {"mean": wide.mean(0), "scale": scale}


@dataclass(frozen=True, eq=False)
class AffineNorm(InputNorm):
    """``(x - mean) / scale`` with given numbers: the bound form of `InputCentre` and `InputStandardise`.

    Args:
        mean: ``[d_in]``.
        scale: ``[d_in]``; ``None`` for 1.
    """

    mean: Float[Tensor, " d_in"]
    scale: Float[Tensor, " d_in"] | None

    @property
    def affine(self) -> tuple[Tensor | float, Tensor | float]:
        factor = 1.0 if self.scale is None else 1 / self.scale
        return factor, -self.mean * factor

    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        centred = x - self.mean.to(x)
        return centred if self.scale is None else centred / self.scale.to(x)

    def restore(self, y: Float[Tensor, "*batch d_in"], x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return (y if self.scale is None else y * self.scale.to(y)) + self.mean.to(y)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
