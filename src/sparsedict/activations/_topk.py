"""`TopK`, `AbsTopK` and `BatchTopK`, which keep the largest pre-activations."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.activations._activation import Activation, State
from sparsedict.latents import Support
from sparsedict.selections import Above, Largest, LargestOfBatch, Selection

AVERAGED = 10
"""The running mean covers the last steps, one divided by this number of all steps."""


@dataclass(frozen=True)
class TopK(Activation):
    """The ``k`` largest of ``max(p, 0)`` for each token. Ties are resolved in favour of the lowest index.

    Args:
        k: Largest number of active latents of a token. There are fewer if fewer pre-activations are positive.

    Source: Gao et al., "Scaling and evaluating sparse autoencoders", 2024.

    Example:
        >>> import torch
        >>> TopK(1).support(torch.tensor([[0.5, 2.0, 2.0]]), {}, training=False).latents
        tensor([1])
    """

    k: int

    elementwise = False

    def __post_init__(self) -> None:
        checks.set_at_least(self, "k", 1)

    def check(self, n_latents: int) -> None:
        _check_k(self.k, n_latents)

    def for_subset(self, n_latents: int) -> TopK:
        # A latent that fires in the whole dictionary also fires in a subset, where at most as many are larger.
        return replace(self, k=min(self.k, n_latents))

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return pre.relu()

    def selection(self, state: State, *, training: bool) -> Selection:
        return Largest(self.k, lowest_ties=not training)


@dataclass(frozen=True)
class AbsTopK(Activation):
    """The ``k`` pre-activations of largest magnitude for each token, with their signs. Of ties, the first is selected.

    Latents may be negative, so that one direction can represent a concept and its opposite. Negative latents fire too.

    Args:
        k: Number of active latents of a token.

    Source: Zhu et al., "AbsTopK: Rethinking Sparse Autoencoders For Bidirectional Features", 2025.

    Example:
        >>> import torch
        >>> AbsTopK(1).support(torch.tensor([[0.5, -2.0, 1.0]]), {}, training=False).latents
        tensor([1])
    """

    k: int

    elementwise = False
    non_negative = False
    by_magnitude = True

    def __post_init__(self) -> None:
        checks.set_at_least(self, "k", 1)

    def check(self, n_latents: int) -> None:
        _check_k(self.k, n_latents)

    def for_subset(self, n_latents: int) -> AbsTopK:
        return replace(self, k=min(self.k, n_latents))

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return pre

    def support(self, pre: Float[Tensor, "n_tokens n_latents"], state: State, *, training: bool) -> Support:
        return self.competition(state, training=training).support(pre.abs())

    def competition(self, state: State, *, training: bool) -> Selection:
        return Largest(self.k, lowest_ties=not training)


@dataclass(frozen=True)
class BatchTopK(Activation):
    """The ``k * n_tokens`` largest of ``max(p, 0)`` in a batch in training, and a threshold in evaluation.

    The threshold is a running mean of the smallest positive latent that each training step selects. In evaluation mode,
    a latent fires if its pre-activation exceeds the threshold, so a token's latents don't depend on its batch.

    Step ``t`` of a run, from 0, has the weight ``max(1 - momentum, min(1, 10 / (t + 1)))`` in the mean. The mean
    therefore covers about the last tenth of the steps, or the last ``1 / (1 - momentum)`` steps if these are fewer. The
    first steps of a short run lose their weight. Since a step measures latents before it updates the weights, the last
    batch is measured again after the last step. Each run of ``fit`` starts a new mean.

    Args:
        k: Average number of active latents per token over a batch. It may be fractional, such as 1.5.
        momentum: Largest weight of earlier steps in the running mean of the threshold.

    Source: Bussmann, Leask and Nanda, "BatchTopK Sparse Autoencoders", 2024; the weights are those of polynomial-decay
    averaging, Shamir and Zhang, "Stochastic Gradient Descent for Non-smooth Optimization", 2013.
    """

    k: float
    momentum: float = 0.99

    elementwise = False

    def __post_init__(self) -> None:
        checks.set_in_range(self, "k", 0.0, open_low=True)
        checks.set_in_range(self, "momentum", 0.0, 1.0)

    def check(self, n_latents: int) -> None:
        _check_k(self.k, n_latents)

    def for_subset(self, n_latents: int) -> BatchTopK:
        # With the threshold, each latent fires as in the whole dictionary. `k` only matters in training.
        return replace(self, k=min(self.k, n_latents))

    def initial_state(self, n_latents: int) -> dict[str, Tensor]:
        return {"threshold": torch.tensor(torch.nan, device="cpu", dtype=torch.float32)}

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return pre.relu()

    def selection(self, state: State, *, training: bool) -> Selection:
        threshold = state["threshold"]
        if training:
            return LargestOfBatch(self.k, guess=threshold)
        if bool(threshold.isnan()):
            raise RuntimeError(
                "The threshold of BatchTopK must be measured in training before evaluation. Train the dictionary with "
                "`fit`, load a trained one, or set `dictionary.activation_state.threshold`."
            )
        return Above(threshold.clamp_min(0.0))

    @torch.no_grad()
    def measure_(self, values: Float[Tensor, "*entries"], state: State, *, step: int) -> None:
        threshold = state["threshold"]
        # If no latent fires, a threshold of 0 has the same effect. NaN and the -1 of other libraries mean "not
        # measured".
        before = threshold.nan_to_num(0.0).clamp_min(0.0)
        if not values.numel():
            threshold.copy_(before)
            return
        smallest = torch.where(values > 0, values, torch.inf).min().to(threshold.dtype)
        weight = max(1 - self.momentum, min(1.0, AVERAGED / (step + 1)))
        blended = torch.where(before > 0, torch.lerp(before, smallest, weight), smallest)
        threshold.copy_(torch.where(smallest.isinf(), before, blended))

    def measured(self, values: Float[Tensor, "*entries"]) -> Float[Tensor, " n_values"]:
        return (
            torch.where(values > 0, values, torch.inf).amin().nan_to_num(posinf=0.0)[None] if values.numel() else values
        )

    @torch.no_grad()
    def end_(self, values: Float[Tensor, "*entries"], state: State, *, n_steps: int) -> None:
        self.measure_(values, state, step=n_steps)


def _check_k(k: float, n_latents: int) -> None:
    if k > n_latents:
        raise ValueError(f"`k` must be at most `n_latents`, got k={k} for {n_latents} latents. Lower k or add latents.")
