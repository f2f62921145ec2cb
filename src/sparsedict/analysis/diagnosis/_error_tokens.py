"""`ErrorTokens`, which tokens carry the reconstruction error of a dictionary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict.analysis.diagnosis._huge_tokens import N_LISTED, TokenShare
from sparsedict.display import Displayed, shown

TOP = 0.01
"""Share of the tokens with the largest errors whose share of the error is stated."""


@dataclass(frozen=True, eq=False, repr=False)
class ErrorTokens(Displayed):
    """Which tokens carry the squared error of a reconstruction.

    Attributes:
        fvu: Fraction of variance unexplained.
        l0: Mean number of active latents.
        top_share: Share of the error in the hundredth of the tokens with the largest errors.
        huge_share: Share of the error in huge tokens (`HugeTokens`).
        first_share: Share of the error at the first positions of sequences; NaN if positions are unknown.
        tokens: The ids with the largest shares of the error; ``None`` if ids are unknown. ``n`` is the number of their
            positions among the hundredth with the largest errors.
    """

    fvu: float
    l0: float
    top_share: float
    huge_share: float
    first_share: float
    tokens: tuple[TokenShare, ...] | None

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the name and value of each number."""
        rows = [
            ("FVU", shown(self.fvu, ".4f")),
            ("L0", f"{self.l0:.1f}"),
            ("error in the worst 1 % of tokens", shown(self.top_share, ".1%")),
            ("error in huge tokens", shown(self.huge_share, ".1%")),
            ("error at first positions", shown(self.first_share, ".1%")),
        ]
        if self.tokens:
            listed = ", ".join(f"{own.token} ({own.share:.1%} in {own.n_seen})" for own in self.tokens[:4])
            rows.append(("ids with most error (share in positions)", listed))
        return rows


def error_tokens(
    errors: Float[Tensor, " n_tokens"],
    targets: Float[Tensor, "n_tokens d_out"],
    l0: float,
    huge: Bool[Tensor, " n_tokens"],
    tokens: Int[Tensor, " n_tokens"] | None,
    positions: Int[Tensor, " n_tokens"] | None,
) -> ErrorTokens:
    """Returns which tokens carry the error.

    Args:
        errors: Squared error of each token.
        targets: The activations that were reconstructed.
        l0: Mean number of active latents.
        huge: Mask of huge tokens.
        tokens: Token ids.
        positions: Positions in the sequences.
    """
    errors, wide = errors.double().cpu(), targets.double().cpu()
    total = errors.sum()
    shares = errors / total if total else torch.full_like(errors, torch.nan)
    worst = torch.zeros(len(errors), dtype=torch.bool, device="cpu")
    worst[errors.topk(max(1, round(TOP * len(errors)))).indices] = True
    variance = (wide - wide.mean(0)).square().sum()
    return ErrorTokens(
        fvu=float(total / variance) if variance else torch.nan,
        l0=l0,
        top_share=float(shares[worst].sum()),
        huge_share=float(shares[huge].sum()),
        first_share=torch.nan if positions is None else float(shares[positions.cpu() == 0].sum()),
        tokens=None if tokens is None or not total else _largest(tokens.cpu(), worst, shares),
    )


def _largest(tokens: Tensor, worst: Tensor, shares: Tensor) -> tuple[TokenShare, ...]:
    ids, index, n_seen = tokens.unique(return_inverse=True, return_counts=True)
    of_id = torch.zeros(len(ids), dtype=torch.float64, device="cpu").index_add_(0, index, shares)
    n = torch.zeros(len(ids), dtype=torch.long, device="cpu").index_add_(0, index, worst.long())
    order = of_id.sort(descending=True, stable=True).indices[:N_LISTED].tolist()
    return tuple(TokenShare(int(ids[i]), int(n[i]), int(n_seen[i]), float(of_id[i])) for i in order)
