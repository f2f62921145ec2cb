"""`SyntheticFeatures`, activations that are sparse sums of known features."""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sparsedict import checks
from sparsedict.batches import ActivationBatch, Activations
from sparsedict.data.synthetic._cofiring import Cofiring, Independent
from sparsedict.data.synthetic._frequencies import Equal, Frequencies
from sparsedict.data.synthetic._hierarchy import Hierarchy
from sparsedict.data.synthetic._magnitudes import Magnitudes, Uniform
from sparsedict.torch_state import in_own_state

_Part = TypeVar("_Part")

DENSE_SHARE = 0.1
"""Share of active features above which a dense product is faster than a sum over the active ones."""


class SyntheticFeatures:
    r"""Activations that are sparse sums of known unit-norm features.

    .. math::
        x = \sum_i c_i u_i + b + \varepsilon, \qquad y = \sum_i c_i v_i + b', \qquad \|u_i\| = \|v_i\| = 1

    Each token has ``l0`` features on average. Inputs contain the directions :math:`u_i`, outputs the directions
    :math:`v_i`. An autoencoder trained on the outputs should find :math:`v_i`, and a distiller both. By default
    features have equal frequencies, are drawn independently and have strengths :math:`c_i` uniform in ``[0.5, 1.5]``.
    Known features were introduced by Sharkey, Braun and Millidge, "Taking features out of superposition with sparse
    autoencoders" (2022).

    Attributes:
        reads: Directions in the inputs, ``[n_features, d]``.
        writes: Directions in the outputs, ``[n_features, d]``.
        probabilities: Probability with which each feature is drawn, before the hierarchy, in float64, ``[n_features]``.
        bias: Constant part of the inputs and of the outputs, ``[2, d]``.

    Args:
        d: Width of inputs and outputs.
        n_features: Number of features; with more than ``d``, they are in superposition.
        l0: Average number of features per token, before the hierarchy.
        seed: Seed of the features.
        noise: Standard deviation of each entry of the inputs' noise.
        frequencies: Relative frequencies of the features, such as ``PowerLaw(0.6)``.
        cofiring: Which features are active together, such as ``Correlated()``.
        hierarchy: Trees of features; ``None`` for features without parents.
        magnitudes: Strengths of active features.
        bias_norm: Norm of the constant part of the activations, which has a random direction.
        dtype: Type of the directions and the activations. The random numbers are the same for every type.

    Raises:
        ValueError: If ``l0`` exceeds ``n_features``, or the trees have more than ``n_features`` features.

    Example:
        >>> truth = SyntheticFeatures(d=16, n_features=64, l0=3, seed=0)
        >>> batch, codes = truth.sample(1000, seed=1)
        >>> batch.inputs.shape, codes.shape, bool((batch.outputs - codes @ truth.writes).abs().max() < 1e-5)
        (torch.Size([1000, 16]), torch.Size([1000, 64]), True)
    """

    points: tuple[str, ...] = ("inputs", "outputs")

    def __init__(
        self,
        d: int,
        n_features: int,
        l0: float,
        seed: int = 0,
        *,
        noise: float = 0.0,
        frequencies: Frequencies | None = None,
        cofiring: Cofiring | None = None,
        hierarchy: Hierarchy | None = None,
        magnitudes: Magnitudes | None = None,
        bias_norm: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        d = checks.at_least("d", d, 1)
        n_features = checks.at_least("n_features", n_features, 1)
        self.l0: float = checks.in_range("l0", l0, 0, n_features, open_low=True)
        self.noise: float = checks.in_range("noise", noise, 0)
        self.bias_norm: float = checks.in_range("bias_norm", bias_norm, 0)
        self.frequencies: Frequencies = _part("frequencies", frequencies, Frequencies, Equal())
        self.cofiring: Cofiring = _part("cofiring", cofiring, Cofiring, Independent())
        self.magnitudes: Magnitudes = _part("magnitudes", magnitudes, Magnitudes, Uniform())
        self.hierarchy: Hierarchy | None = (
            None if hierarchy is None else _part("hierarchy", hierarchy, Hierarchy, hierarchy)
        )
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"`dtype` must be a floating-point type such as torch.float64, got {dtype}.")
        self.seed: int = checks.at_least("seed", seed, 0)
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        directions = torch.randn(2, n_features, d, generator=generator, device="cpu", dtype=torch.float32)
        self.reads: Float[Tensor, "n_features d"]
        self.writes: Float[Tensor, "n_features d"]
        self.reads, self.writes = functional.normalize(directions.to(dtype), dim=-1).unbind()
        constant = torch.randn(2, d, generator=generator, device="cpu", dtype=torch.float32).to(dtype)
        self.bias: Float[Tensor, "2 d"] = self.bias_norm * functional.normalize(constant, dim=-1)
        self.probabilities: Float[Tensor, " n_features"] = self.frequencies.probabilities(n_features, self.l0)
        if self.hierarchy is not None:
            self.hierarchy.check(n_features)
            self.probabilities = self.hierarchy.compensate(self.probabilities)

    def __repr__(self) -> str:
        n_features, d = self.reads.shape
        optional = (("frequencies", Equal()), ("cofiring", Independent()), ("magnitudes", Uniform()))
        parts = [f"{name}={getattr(self, name)!r}" for name, usual in optional if getattr(self, name) != usual]
        parts += [] if self.hierarchy is None else [f"hierarchy={self.hierarchy!r}"]
        parts += [f"bias_norm={self.bias_norm}"] if self.bias_norm else []
        settings = [f"d={d}", f"n_features={n_features}", f"l0={self.l0}", f"seed={self.seed}"]
        parts += [f"noise={self.noise}"] if self.noise else []
        return f"SyntheticFeatures({', '.join([*settings, *parts])})"

    @in_own_state
    def sample(self, n_tokens: int, seed: int = 0) -> tuple[Activations, Float[Tensor, "n_tokens n_features"]]:
        """Returns activations and the true strengths of the features.

        Args:
            n_tokens: Number of rows.
            seed: Seed of the rows. Another seed gives other rows of the same features.
        """
        n_tokens = checks.at_least("n_tokens", n_tokens, 1)
        return self.draw(n_tokens, torch.Generator(device="cpu").manual_seed(checks.at_least("seed", seed, 0)))

    def draw(
        self, n_tokens: int, generator: torch.Generator
    ) -> tuple[Activations, Float[Tensor, "n_tokens n_features"]]:
        """Returns activations and the true strengths of the features, with the random numbers of a generator."""
        codes = self._codes(n_tokens, generator)
        inputs, outputs = self._summed(codes)
        if self.bias_norm:
            inputs, outputs = inputs + self.bias[0], outputs + self.bias[1]
        if self.noise:
            noise = torch.randn(inputs.shape, generator=generator, device="cpu", dtype=torch.float32)
            inputs = inputs + self.noise * noise.to(inputs)
        return ActivationBatch(inputs, outputs), codes

    def _codes(self, n_tokens: int, generator: torch.Generator) -> Float[Tensor, "n_tokens n_features"]:
        active = self.cofiring.draw(self.probabilities, n_tokens, generator)
        tokens, features = active.nonzero(as_tuple=True)
        strengths = self.magnitudes.draw(features, len(self.reads), generator).to(self.reads)
        codes = strengths.new_zeros(active.shape)
        codes[tokens, features] = strengths
        if self.hierarchy is not None:
            self.hierarchy.apply_(codes, self.magnitudes.means(len(self.reads)).to(codes), generator)
        return codes

    def _summed(self, codes: Float[Tensor, "n_tokens n_features"]) -> tuple[Tensor, Tensor]:
        """Returns the sums of the directions in inputs and outputs."""
        if self.l0 > DENSE_SHARE * codes.shape[1]:
            return codes @ self.reads, codes @ self.writes
        tokens, features = codes.nonzero(as_tuple=True)
        counts = torch.bincount(tokens, minlength=len(codes))
        weights = {"offsets": counts.cumsum(0) - counts, "per_sample_weights": codes[tokens, features], "mode": "sum"}
        read, written = (functional.embedding_bag(features, part, **weights) for part in (self.reads, self.writes))
        return read, written


def _part(name: str, value: object, kind: type[_Part], usual: _Part) -> _Part:
    """Returns a part after checking its type; ``usual`` for ``None``."""
    if value is None:
        return usual
    if not isinstance(value, kind):
        raise TypeError(
            f"`{name}` must be an object of `sparsedict.data.synthetic.{kind.__name__}`, got "
            f"{value!r}{checks.instance_hint(value)}."
        )
    return value
