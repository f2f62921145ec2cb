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
"""A running mean covers one part in so many of the steps so far."""


@dataclass(frozen=True)
class TopK(Activation):
    """The ``k`` largest of ``max(p, 0)`` for each token; of equal ones, those of lowest index.

    Args:
        k: Latents that may be active on a token. Fewer are where fewer pre-activations are positive.

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

    def among(self, n_latents: int) -> TopK:
        # A latent that fires among all fires among some, for at most as many are larger.
        return replace(self, k=min(self.k, n_latents))

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return pre.relu()

    def selection(self, state: State, *, training: bool) -> Selection:
        return Largest(self.k, lowest_ties=not training)


@dataclass(frozen=True)
class AbsTopK(Activation):
    """The ``k`` pre-activations of largest magnitude for each token, with their signs; of equal ones, the first.

    Latents may be negative: one direction serves a concept and its opposite. A negative latent fires like a
    positive one.

    Args:
        k: Latents that are active on a token.

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

    def among(self, n_latents: int) -> AbsTopK:
        return replace(self, k=min(self.k, n_latents))

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return pre

    def support(self, pre: Float[Tensor, "n_tokens n_latents"], state: State, *, training: bool) -> Support:
        return Largest(self.k, lowest_ties=not training).support(pre.abs())


@dataclass(frozen=True)
class BatchTopK(Activation):
    """The ``k * n_tokens`` largest of ``max(p, 0)`` in the whole batch while training; a threshold afterwards.

    The threshold is a running mean of the smallest positive latent kept in a training step. Afterwards a latent
    fires where its pre-activation exceeds the threshold, so a token's latents don't depend on its batch.

    Step ``t`` of a run, from 0, enters the mean with weight ``max(1 - momentum, min(1, 10 / (t + 1)))``. The mean
    therefore covers about the last tenth of the run so far, or the last ``1 / (1 - momentum)`` steps where these are
    fewer, and the first steps of a short run have no lasting weight. A step measures latents before it moves the
    weights, so the last batch is measured once more after the last step. Each run of ``fit`` measures anew.

    Args:
        k: Latents active on a token, on average over the batch.
        momentum: Largest weight of the past in the running mean of the threshold.

    Source: Bussmann, Leask and Nanda, "BatchTopK Sparse Autoencoders", 2024; the weights are those of polynomial-decay
    averaging, Shamir and Zhang, "Stochastic Gradient Descent for Non-smooth Optimization", 2013.
    """

    k: int
    momentum: float = 0.99

    elementwise = False

    def __post_init__(self) -> None:
        checks.set_at_least(self, "k", 1)
        checks.set_in_range(self, "momentum", 0.0, 1.0)

    def check(self, n_latents: int) -> None:
        _check_k(self.k, n_latents)

    def among(self, n_latents: int) -> BatchTopK:
        # By the threshold each latent fires as it does among all; k counts while training only.
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
                "BatchTopK has no threshold yet: it is measured while training. Train the dictionary with `fit`, load "
                "a trained one, or set `dictionary.activation_state.threshold` yourself."
            )
        return Above(threshold.clamp_min(0.0))

    @torch.no_grad()
    def measure_(self, values: Float[Tensor, "*entries"], state: State, *, step: int) -> None:
        threshold = state["threshold"]
        # Where nothing fires, a threshold of 0 keeps it so. Neither NaN nor the -1 of other libraries was measured.
        before = threshold.nan_to_num(0.0).clamp_min(0.0)
        if not values.numel():
            threshold.copy_(before)
            return
        smallest = torch.where(values > 0, values, torch.inf).min().to(threshold.dtype)
        weight = max(1 - self.momentum, min(1.0, AVERAGED / (step + 1)))
        blended = torch.where(before > 0, torch.lerp(before, smallest, weight), smallest)
        threshold.copy_(torch.where(smallest.isinf(), before, blended))

    @torch.no_grad()
    def end_(self, values: Float[Tensor, "*entries"], state: State, *, n_steps: int) -> None:
        self.measure_(values, state, step=n_steps)


def _check_k(k: int, n_latents: int) -> None:
    if k > n_latents:
        raise ValueError(f"`k` must be at most `n_latents`, got k={k} for {n_latents} latents. Lower k or add latents.")
