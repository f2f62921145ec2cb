"""`TeacherMLP`, an MLP whose features are known."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sparsedict import checks
from sparsedict.batches import ActivationBatch, Activations
from sparsedict.data.synthetic._features import SyntheticFeatures
from sparsedict.seeds import generator as keyed_generator
from sparsedict.torch_state import in_own_state

_PARENTS, _WRITES = int.from_bytes(b"prnt", "big"), int.from_bytes(b"wrts", "big")


class TeacherMLP:
    r"""An MLP that computes known features of known features, so that a distiller has a truth.

    .. math:: x = \sum_i c_i u_i + \varepsilon, \qquad
        f_j = \mathrm{ReLU}\Big(\sum_{i \in P_j} u_i \cdot x - \theta\Big), \qquad y = \sum_j f_j v_j

    Each feature :math:`j` of the teacher is a neuron that reads the directions of its parents :math:`P_j` and writes a
    random unit direction :math:`v_j`. With the default threshold and strengths of at most 1.5, a feature of two parents
    is rarely active unless both are; the interference of other features in superposition can change this. The true
    strengths are the neurons' outputs, so they are exact by definition. A distiller should find the rows ``reads`` and
    ``writes``. An autoencoder of the outputs should find ``writes``.

    Attributes:
        reads: Encoder rows of the features, the sums of the parents' directions, ``[n_outputs, d]``.
        writes: Unit directions of the features in the outputs, ``[n_outputs, d_out]``.
        parents: The input features of each feature, ``[n_outputs, n_parents]``.

    Args:
        inputs: The input features.
        n_outputs: Number of features that the teacher computes.
        n_parents: Number of input features that each is computed from.
        threshold: The threshold :math:`\theta`; by default 1.5 for two parents, and in general
            ``1.5 (n_parents - 1)``, or 0.5 for one parent.
        d_out: Width of the outputs; that of the inputs by default.
        seed: Seed of the parents and of the directions :math:`v_j`.

    Raises:
        ValueError: If there are fewer input features than parents.

    Example:
        >>> teacher = TeacherMLP(SyntheticFeatures(d=32, n_features=48, l0=6), n_outputs=40)
        >>> batch, strengths = teacher.sample(500)
        >>> bool(((teacher.module()(batch.inputs) - batch.outputs).abs() < 1e-5).all()), strengths.shape
        (True, torch.Size([500, 40]))
    """

    points: tuple[str, ...] = ("inputs", "outputs")

    def __init__(
        self,
        inputs: SyntheticFeatures,
        n_outputs: int,
        *,
        n_parents: int = 2,
        threshold: float | None = None,
        d_out: int | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(inputs, SyntheticFeatures):
            raise TypeError(f"`inputs` must be SyntheticFeatures, got {type(inputs).__name__}.")
        self.inputs: SyntheticFeatures = inputs
        n_features, d = inputs.reads.shape
        n_outputs = checks.at_least("n_outputs", n_outputs, 1)
        n_parents = checks.at_least("n_parents", n_parents, 1)
        if n_parents > n_features:
            raise ValueError(
                f"`n_parents` must be at most {n_features}, the number of input features, got {n_parents}."
            )
        usual = 1.5 * (n_parents - 1) or 0.5
        self.threshold: float = usual if threshold is None else checks.in_range("threshold", threshold, 0.0)
        d_out = d if d_out is None else checks.at_least("d_out", d_out, 1)
        self.seed: int = checks.at_least("seed", seed, 0)
        # Parents are drawn by their frequencies, so that rare features aren't the rule among pairs.
        drawn = keyed_generator(seed, _PARENTS)
        chances = inputs.probabilities.expand(n_outputs, -1)
        self.parents: Int[Tensor, "n_outputs n_parents"] = torch.multinomial(chances, n_parents, generator=drawn)
        self.reads: Float[Tensor, "n_outputs d"] = inputs.reads[self.parents].sum(1)
        rows = torch.randn(n_outputs, d_out, generator=keyed_generator(seed, _WRITES), device="cpu")
        self.writes: Float[Tensor, "n_outputs d_out"] = functional.normalize(rows.to(inputs.reads), dim=-1)

    def __repr__(self) -> str:
        n_outputs, n_parents = self.parents.shape
        return (
            f"TeacherMLP({self.inputs!r}, n_outputs={n_outputs}, n_parents={n_parents}, threshold={self.threshold}, "
            f"d_out={self.writes.shape[1]}, seed={self.seed})"
        )

    def module(self) -> nn.Sequential:
        """Returns the teacher as a module: a linear layer, ReLU, and a linear layer."""
        (n_outputs, d), d_out = self.reads.shape, self.writes.shape[1]
        options = {"dtype": self.reads.dtype, "device": "cpu"}
        up, down = nn.Linear(d, n_outputs, **options), nn.Linear(n_outputs, d_out, bias=False, **options)
        with torch.no_grad():
            up.weight.copy_(self.reads)
            up.bias.fill_(-self.threshold)
            down.weight.copy_(self.writes.T)
        return nn.Sequential(up, nn.ReLU(), down)

    @in_own_state
    def sample(self, n_tokens: int, seed: int = 0) -> tuple[Activations, Float[Tensor, "n_tokens n_outputs"]]:
        """Returns activations and the true strengths of the teacher's features.

        Args:
            n_tokens: Number of rows.
            seed: Seed of the rows.
        """
        n_tokens = checks.at_least("n_tokens", n_tokens, 1)
        return self.draw(n_tokens, torch.Generator(device="cpu").manual_seed(checks.at_least("seed", seed, 0)))

    def draw(
        self, n_tokens: int, generator: torch.Generator
    ) -> tuple[Activations, Float[Tensor, "n_tokens n_outputs"]]:
        """Returns activations and the true strengths, with the random numbers of a generator."""
        x = self.inputs.draw(n_tokens, generator)[0].inputs
        strengths = functional.relu(x @ self.reads.T - self.threshold)
        return ActivationBatch(x, strengths @ self.writes), strengths
