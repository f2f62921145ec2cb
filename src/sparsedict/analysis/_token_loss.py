"""`TokenLoss`, the cross entropy and KL divergence of each token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, pad


class NoLossError(TypeError):
    """Raised if the model returns no logits over its tokens, so that there is no loss."""


class TokenLoss:
    """The cross entropy at the counted positions.

    Args:
        targets: Target token of each position.
        counts: Mask of the counted positions.
    """

    def __init__(
        self, targets: Int[Tensor, "n_sequences n_positions"], counts: Bool[Tensor, "n_sequences n_positions"]
    ) -> None:
        self._targets, self._counts = targets, counts.to(targets.device)
        self.sequences: Int[Tensor, " n"] = self._counts.nonzero()[:, 0]

    def __call__(self, output: Float[Tensor, "n_sequences n_positions n_vocabulary"]) -> Float[Tensor, " n"]:
        """Returns the loss at each counted position."""
        # One sequence at a time, because logits in float32 need much memory.
        rows = zip(output, self._targets, self._counts, strict=True)
        return torch.cat([cross_entropy(logits[m].float(), to[m], reduction="none") for logits, to, m in rows])

    def divergence(self, base: Tensor, other: Tensor) -> Float[Tensor, " n"]:
        """Returns KL(base || other) at each counted position. Tokens of probability 0 contribute 0."""
        parts = []
        for p, q, m in zip(base, other, self._counts, strict=True):
            log_p, log_q = log_softmax(p[m].float(), -1), log_softmax(q[m].float(), -1)
            terms = log_p.exp() * (log_p - log_q)
            # Values close to 0 may be negative after rounding.
            parts.append(torch.where(log_p.isneginf(), 0.0, terms).sum(-1).clamp_min(0.0))
        return torch.cat(parts)

    def agreement(self, base: Tensor, other: Tensor) -> Bool[Tensor, " n"]:
        """Returns whether the most likely token is the same in both, at each counted position."""
        rows = zip(base, other, self._counts, strict=True)
        return torch.cat([p[m].argmax(-1) == q[m].argmax(-1) for p, q, m in rows])


def shifted(values: Tensor, filler: int | bool) -> Tensor:
    """Returns the values shifted by one position to the left, with ``filler`` at the last position."""
    return pad(values[:, 1:], (0, 1), value=filler)
