"""Synthetic activations with known features."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.batches import ActivationBatch, Activations
from sparsedict.torch_state import in_own_state


class SyntheticFeatures:
    r"""Activations that are sparse sums of known unit-norm features.

    .. math::
        x = \sum_i c_i u_i + \varepsilon, \qquad y = \sum_i c_i v_i, \qquad \|u_i\| = \|v_i\| = 1

    Each token has ``l0`` features on average, drawn independently, with strengths :math:`c_i` uniform in ``[0.5,
    1.5]``. Inputs contain the directions :math:`u_i`, outputs the directions :math:`v_i`. An autoencoder trained on the
    outputs should find :math:`v_i`, and a distiller both. Known features were introduced by Sharkey, Braun and
    Millidge, "Taking features out of superposition with sparse autoencoders" (2022).

    Attributes:
        reads: Directions in the inputs, ``[n_features, d]``.
        writes: Directions in the outputs, ``[n_features, d]``.

    Args:
        d: Width of inputs and outputs.
        n_features: Number of features; with more than ``d``, they are in superposition.
        l0: Average number of features per token.
        seed: Seed of the features.
        noise: Standard deviation of each entry of the inputs' noise.

    Raises:
        ValueError: If ``l0`` exceeds ``n_features``.

    Example:
        >>> truth = SyntheticFeatures(d=16, n_features=64, l0=3, seed=0)
        >>> batch, codes = truth.sample(1000, seed=1)
        >>> batch.inputs.shape, codes.shape, bool((batch.outputs - codes @ truth.writes).abs().max() < 1e-5)
        (torch.Size([1000, 16]), torch.Size([1000, 64]), True)
    """

    def __init__(self, d: int, n_features: int, l0: float, seed: int = 0, *, noise: float = 0.0) -> None:
        d = checks.at_least("d", d, 1)
        n_features = checks.at_least("n_features", n_features, 1)
        self.l0: float = checks.in_range("l0", l0, 0, n_features, open_low=True)
        self.noise: float = checks.in_range("noise", noise, 0)
        generator = torch.Generator(device="cpu").manual_seed(checks.at_least("seed", seed, 0))
        directions = torch.randn(2, n_features, d, generator=generator, device="cpu", dtype=torch.float32)
        self.reads: Float[Tensor, "n_features d"]
        self.writes: Float[Tensor, "n_features d"]
        self.reads, self.writes = torch.nn.functional.normalize(directions, dim=-1).unbind()

    def __repr__(self) -> str:
        n_features, d = self.reads.shape
        return f"SyntheticFeatures(d={d}, n_features={n_features}, l0={self.l0}, noise={self.noise})"

    @in_own_state
    def sample(self, n_tokens: int, seed: int = 0) -> tuple[Activations, Float[Tensor, "n_tokens n_features"]]:
        """Returns activations and the true strengths of the features.

        Args:
            n_tokens: Number of rows.
            seed: Seed of the rows. Another seed gives other rows of the same features.
        """
        n_tokens = checks.at_least("n_tokens", n_tokens, 1)
        generator = torch.Generator(device="cpu").manual_seed(checks.at_least("seed", seed, 0))
        shape = (n_tokens, len(self.reads))
        present = torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32) < self.l0 / len(self.reads)
        codes = present * (0.5 + torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32))
        inputs = codes @ self.reads
        if self.noise:
            inputs = inputs + self.noise * torch.randn(
                inputs.shape, generator=generator, device="cpu", dtype=torch.float32
            )
        return ActivationBatch(inputs, codes @ self.writes), codes
