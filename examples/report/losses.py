"""Next-token losses of a model with a replaced MLP, for each sequence, with bootstrap errors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from sparsedict.sites import Constant, Site

SEQUENCES_AT_ONCE = 16
N_ERRORS = 3.0
N_DRAWS = 1_000
"""Number of bootstrap samples of the sequences."""


@dataclass(frozen=True, eq=False)
class SequenceLosses:
    """The next-token losses of each sequence.

    Attributes:
        sums: Sum of the losses in nats, ``[n_sequences]``.
        counts: Number of predicted tokens, ``[n_sequences]``.
    """

    sums: Float[Tensor, " n_sequences"]
    counts: Int[Tensor, " n_sequences"]

    @property
    def mean(self) -> float:
        """Mean loss in nats per token."""
        return float(self.sums.sum() / self.counts.sum())


@torch.no_grad()
def predicted_positions(
    site: Site, tokens: Int[Tensor, "n_sequences n_positions"]
) -> Bool[Tensor, "n_sequences n_positions"]:
    """Returns the mask of predicted tokens. The site must include both the token and the position before it."""
    used = torch.cat([site.capture(ids).kept.cpu() for ids in tokens.split(SEQUENCES_AT_ONCE)])
    return torch.cat([torch.zeros_like(used[:, :1]), used[:, 1:] & used[:, :-1]], dim=1)


def sequence_losses(
    site: Site,
    tokens: Int[Tensor, "n_sequences n_positions"],
    predicted: Bool[Tensor, "n_sequences n_positions"],
    x: Any = None,
) -> SequenceLosses:
    """Measures the loss with the MLP replaced by ``x``, on the same tokens as `sparsedict.analysis.loss_recovered`.

    Args:
        site: The site of the MLP.
        tokens: Held-out token ids.
        predicted: Mask of predicted tokens, see `predicted_positions`.
        x: A dictionary or a `Constant`. ``None`` measures the original model.
    """
    return losses_within(site, tokens, predicted, lambda: nullcontext() if x is None else site.replaced(x))


@torch.no_grad()
def losses_within(
    site: Site,
    tokens: Int[Tensor, "n_sequences n_positions"],
    predicted: Bool[Tensor, "n_sequences n_positions"],
    context: Callable[[], AbstractContextManager[object]],
) -> SequenceLosses:
    """Measures the loss within a context, such as ``lambda: sites.replaced(dictionary)``.

    Args:
        site: A site of the model.
        tokens: Held-out token ids.
        predicted: Mask of predicted tokens, see `predicted_positions`.
        context: Function that returns the context of a forward pass.
    """
    device = next(site.model.parameters()).device
    sums = []
    for ids, counted in zip(tokens.split(SEQUENCES_AT_ONCE), predicted.split(SEQUENCES_AT_ONCE), strict=True):
        ids, counted = ids.to(device), counted.to(device)
        with context():
            logits = site.logits(ids)
        # One sequence at a time, because logits in float32 over a large vocabulary take much memory.
        for row, targets, chosen in zip(logits[:, :-1], ids[:, 1:], counted[:, 1:], strict=True):
            losses = cross_entropy(row[chosen].float(), targets[chosen], reduction="none")
            sums.append(losses.double().sum().cpu())
    return SequenceLosses(torch.stack(sums), predicted.sum(1))


@dataclass(frozen=True)
class Ablations:
    """The losses that a replacement is compared with.

    Attributes:
        base: The model as it is.
        zero: With zero in the MLP's place.
        average: With the mean output there.
    """

    base: SequenceLosses
    zero: SequenceLosses
    average: SequenceLosses

    @classmethod
    def measure(
        cls,
        site: Site,
        tokens: Int[Tensor, "n_sequences n_positions"],
        predicted: Bool[Tensor, "n_sequences n_positions"],
        mean: Float[Tensor, " d_out"],
    ) -> Ablations:
        """Runs the model three times on the tokens."""
        replacements = (None, Constant(torch.zeros_like(mean)), Constant(mean))
        return cls(*(sequence_losses(site, tokens, predicted, x) for x in replacements))


def recovered(replaced: SequenceLosses, base: SequenceLosses, ablated: SequenceLosses) -> float:
    """Returns ``(ablated - replaced) / (ablated - base)``; NaN if ablation doesn't raise the loss beyond noise.

    Noise is `N_ERRORS` standard errors of the difference, over sequences.
    """
    worst, own, best = (float(part.sums.sum()) for part in (ablated, replaced, base))
    gaps = ablated.sums - base.sums
    deviations = gaps - base.counts * gaps.sum() / base.counts.sum()
    noise = float(deviations.square().sum().sqrt())
    return (worst - own) / (worst - best) if worst - best > N_ERRORS * noise else float("nan")


def sampling_error(
    replaced: list[SequenceLosses], base: SequenceLosses, ablated: SequenceLosses, n_draws: int = N_DRAWS
) -> float:
    """Returns the standard error of `recovered`, averaged over seeds, by a bootstrap over sequences.

    All seeds and all losses of a draw have the same sequences. The draws come from a fixed generator.
    """
    n = len(base.sums)
    chosen = torch.randint(n, (n_draws, n), generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(n_draws, n, dtype=torch.float64).scatter_add_(1, chosen, torch.ones_like(chosen).double())
    worst, best = weights @ ablated.sums, weights @ base.sums
    own = torch.stack([weights @ part.sums for part in replaced]).mean(0)
    shares = (worst - own) / (worst - best)
    return float(shares[shares.isfinite()].std()) if bool((worst > best).all()) else float("nan")
