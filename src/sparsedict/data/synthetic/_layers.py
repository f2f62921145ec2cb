"""Activations of a residual network of MLPs whose features are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from sparsedict import checks
from sparsedict.batches import Activations
from sparsedict.torch_state import in_own_state

THRESHOLD = 1.5
"""Sum of the strengths of two parents above which a computed feature is active. One parent alone doesn't reach it."""
GAIN = 2.0
"""Factor that gives computed features about the strengths of given features."""
PRESENCE = 0.8
"""Probability of each given feature of a group, if the group is present."""


@dataclass(frozen=True, eq=False)
class ComputedFeature:
    """A feature that an MLP computes.

    Attributes:
        layer: Index of the MLP.
        hops: Number of MLPs between the given features and this feature, this MLP included.
        parents: Indices of the two features that it is computed from: given features first, then computed ones.
        group: Index of its group.
    """

    layer: int
    hops: int
    parents: tuple[int, int]
    group: int


class SyntheticLayers:
    r"""A residual network of ReLU MLPs that computes known features in a known number of hops.

    The residual stream starts as a sparse sum of *given* features, :math:`x_0 = \sum_i c_i u_i`, with strengths
    :math:`c_i` uniform in ``[0.5, 1.5]``. Each MLP has one neuron per feature that it computes. The neuron reads the
    directions of the feature's two parents `a` and `b`, and writes the feature's own direction:

    .. math::
        f = 2\, \mathrm{ReLU}(s_a u_a \cdot x_l + s_b u_b \cdot x_l - 1.5), \qquad x_{l+1} = x_l + \sum_f f u_f

    The scale :math:`s` is 1 for a given parent and 1/2 for a computed parent, so no parent reaches the threshold alone.
    Up to the interference of other features in superposition, a feature is active only if both parents are.

    Given features come in groups of ``n_layers + 1``. In the first half of the groups, MLP :math:`l` computes a feature
    of the feature of MLP :math:`l-1` and of a given feature. Such a chain takes :math:`l+1` hops. In the second half,
    MLP :math:`l` computes a feature of two given features in one hop.

    Attributes:
        directions: Unit directions of given and computed features, ``[n_features, d]``.
        features: The computed features.
        n_given: Number of given features.

    Args:
        d: Width of the residual stream.
        n_groups: Number of groups, an even number.
        n_layers: Number of MLPs.
        l0: Mean number of groups per token.
        seed: Seed of the directions.

    Raises:
        ValueError: If ``n_groups`` is odd, or ``l0`` exceeds ``n_groups``.

    Example:
        >>> truth = SyntheticLayers(d=64, n_groups=20, n_layers=2)
        >>> batch, codes = truth.sample(1000, seed=1)
        >>> sorted(batch), codes.shape
        (['0.inputs', '0.outputs', '1.inputs', '1.outputs'], torch.Size([1000, 40]))
        >>> [sorted({f.hops for f in truth.features if f.layer == layer}) for layer in range(2)]
        [[1], [1, 2]]
    """

    def __init__(self, d: int, n_groups: int, n_layers: int = 2, *, l0: float = 2.0, seed: int = 0) -> None:
        d = checks.at_least("d", d, 1)
        self.n_groups: int = checks.at_least("n_groups", n_groups, 2)
        if self.n_groups % 2:
            raise ValueError(f"`n_groups` must be even, got {n_groups}: half of the groups are chains.")
        self.n_layers: int = checks.at_least("n_layers", n_layers, 1)
        self.l0: float = checks.in_range("l0", l0, 0, self.n_groups, open_low=True)
        self.n_given: int = self.n_groups * (self.n_layers + 1)
        self.features: tuple[ComputedFeature, ...] = self._computed()
        self.seed: int = checks.at_least("seed", seed, 0)
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        n_features = self.n_given + len(self.features)
        rows = torch.randn(n_features, d, generator=generator, device="cpu", dtype=torch.float32)
        self.directions: Float[Tensor, "n_features d"] = functional.normalize(rows, dim=-1)

    def _computed(self) -> tuple[ComputedFeature, ...]:
        computed: list[ComputedFeature] = []
        chain_ends: dict[int, int] = {}
        for layer in range(self.n_layers):
            for group in range(self.n_groups):
                given = group * (self.n_layers + 1)
                is_chain = group < self.n_groups // 2
                first = chain_ends.get(group, given) if is_chain else given
                chain_ends[group] = self.n_given + len(computed)
                hops = layer + 1 if is_chain else 1
                computed.append(ComputedFeature(layer, hops, (first, given + layer + 1), group))
        return tuple(computed)

    @property
    def hops(self) -> Int[Tensor, " n_computed"]:
        """Number of hops of each computed feature."""
        return torch.tensor([feature.hops for feature in self.features], device="cpu")

    @property
    def layers(self) -> Int[Tensor, " n_computed"]:
        """Index of the MLP that computes each feature."""
        return torch.tensor([feature.layer for feature in self.features], device="cpu")

    @property
    def writes(self) -> Float[Tensor, "n_computed d"]:
        """Directions of the computed features, which the MLPs write."""
        return self.directions[self.n_given :]

    def __repr__(self) -> str:
        d = self.directions.shape[1]
        return (
            f"SyntheticLayers(d={d}, n_groups={self.n_groups}, n_layers={self.n_layers}, l0={self.l0}, "
            f"seed={self.seed})"
        )

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the points of the activations."""
        return tuple(f"{layer}.{role}" for layer in range(self.n_layers) for role in ("inputs", "outputs"))

    @in_own_state
    def sample(self, n_tokens: int, seed: int = 0) -> tuple[Activations, Float[Tensor, "n_tokens n_computed"]]:
        """Returns activations of all MLPs, and the strengths of the computed features.

        Args:
            n_tokens: Number of tokens.
            seed: Seed of the tokens.

        Returns:
            The activations, by the points ``"0.inputs"``, ``"0.outputs"``, ``"1.inputs"`` and so on, and the outputs of
            the MLPs' neurons in the order of ``features``.
        """
        n_tokens = checks.at_least("n_tokens", n_tokens, 1)
        return self.draw(n_tokens, torch.Generator(device="cpu").manual_seed(checks.at_least("seed", seed, 0)))

    def draw(
        self, n_tokens: int, generator: torch.Generator
    ) -> tuple[Activations, Float[Tensor, "n_tokens n_computed"]]:
        """Returns activations and the strengths of the computed features, with the random numbers of a generator."""
        stream = self._given(n_tokens, generator) @ self.directions[: self.n_given]
        points: dict[str, Tensor] = {}
        codes: list[Tensor] = []
        for layer in range(self.n_layers):
            of_layer = [feature for feature in self.features if feature.layer == layer]
            reads = torch.stack([self._reads(feature) for feature in of_layer])
            strengths = GAIN * functional.relu(stream @ reads.T - THRESHOLD)
            outputs = strengths @ self.writes[self.layers == layer]
            points |= {f"{layer}.inputs": stream, f"{layer}.outputs": outputs}
            codes.append(strengths)
            stream = stream + outputs
        return Activations(points), torch.cat(codes, dim=1)

    def _reads(self, feature: ComputedFeature) -> Float[Tensor, " d"]:
        scales = [1 / GAIN if parent >= self.n_given else 1.0 for parent in feature.parents]
        return torch.tensor(scales, device="cpu", dtype=torch.float32) @ self.directions[list(feature.parents)]

    def _given(self, n_tokens: int, generator: torch.Generator) -> Float[Tensor, "n_tokens n_given"]:
        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32)

        of_group: Bool[Tensor, "n_tokens n_groups 1"] = uniform(n_tokens, self.n_groups, 1) < self.l0 / self.n_groups
        shape = n_tokens, self.n_groups, self.n_layers + 1
        is_present = of_group & (uniform(*shape) < PRESENCE)
        return (is_present * (0.5 + uniform(*shape))).flatten(1)
