"""`DeadCauses`, the reasons why latents of a dictionary never fire."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict.analysis._cosines import unit
from sparsedict.dictionaries import Dictionary
from sparsedict.display import Displayed
from sparsedict.latents import SparseLatents, fires

DUPLICATE = 0.9
"""Cosine of the decoder row with that of a live latent from which on a dead latent is a duplicate."""
NEAR = 1.0
"""Distance to the threshold, in standard deviations of the latent's pre-activations, up to which it nearly fires."""
N_PRE_ACTIVATIONS = 2**23
"""Number of pre-activations that are computed at once."""


@dataclass(frozen=True, eq=False, repr=False)
class DeadCauses(Displayed):
    """Why latents never fired on some tokens. Each dead latent has one cause, the first that applies.

    The threshold of a token is the smallest pre-activation that is active on it, or 0 if there is none. The margin of a
    latent is its largest pre-activation minus the threshold of the same token, over all tokens.

    Attributes:
        duplicate: The decoder row has a cosine of at least 0.9 with that of a live latent, which fires instead,
            ``[n_latents]``.
        overshot: The margin is more negative than the standard deviation of the latent's pre-activations over tokens:
            an update moved the latent so far that no token comes near the threshold, ``[n_latents]``.
        below: The latent comes near the threshold but never exceeds it, because others are larger, ``[n_latents]``.
        margin: The margin of dead latents, and NaN for others, ``[n_latents]``.
        n_tokens: Number of tokens.
    """

    duplicate: Bool[Tensor, " n_latents"]
    overshot: Bool[Tensor, " n_latents"]
    below: Bool[Tensor, " n_latents"]
    margin: Float[Tensor, " n_latents"]
    n_tokens: int

    @property
    def dead(self) -> Bool[Tensor, " n_latents"]:
        """True for latents that never fired."""
        return self.duplicate | self.overshot | self.below

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the number of dead latents by cause."""
        n, of = int(self.dead.sum()), len(self.dead)
        rows = [("latents that never fired", f"{n:,} of {of:,} ({n / of:.1%}), on {self.n_tokens:,} tokens")]
        causes = {
            "duplicates of live latents": self.duplicate,
            "overshot, far below the threshold": self.overshot,
            "near the threshold, never above": self.below,
        }
        return rows + [(name, f"{int(mask.sum()):,}") for name, mask in causes.items() if n]


def dead_causes(dictionary: Dictionary, inputs: Float[Tensor, "n_tokens d_in"]) -> DeadCauses:
    """Returns why latents never fire on some tokens.

    Args:
        dictionary: A dictionary in evaluation mode.
        inputs: Activations that it reads.
    """
    n, largest = dictionary.n_latents, torch.full((dictionary.n_latents,), -torch.inf, device=inputs.device)
    fired = torch.zeros(n, dtype=torch.bool, device=inputs.device)
    moments = torch.zeros(2, n, dtype=torch.float64, device=inputs.device)
    for block in inputs.split(max(1, N_PRE_ACTIVATIONS // n)):
        pre, latents = dictionary.pre_activations(block), dictionary.encode_sparse(block)
        dense = latents.to_dense() if isinstance(latents, SparseLatents) else latents
        active = fires(dense)
        # AbsTopK selects by magnitude.
        pre = pre.abs() if bool((dense < 0).any()) else pre
        threshold = torch.where(active, pre, torch.inf).amin(1)
        threshold = torch.where(threshold.isinf(), 0.0, threshold)
        largest = torch.maximum(largest, (pre - threshold[:, None]).amax(0))
        fired |= active.any(0)
        moments += torch.stack([pre.sum(0, dtype=torch.float64), pre.double().square().sum(0)])
    mean, square = moments / len(inputs)
    spread = (square - mean.square()).clamp_min(0).sqrt()
    dead = ~fired
    duplicate = dead & _has_twin(dictionary, fired)
    overshot = dead & ~duplicate & (largest < -NEAR * spread)
    margin = torch.where(dead, largest, torch.nan)
    found = (duplicate, overshot, dead & ~duplicate & ~overshot, margin)
    return DeadCauses(*(part.cpu() for part in found), n_tokens=len(inputs))


def _has_twin(dictionary: Dictionary, fired: Bool[Tensor, " n_latents"]) -> Bool[Tensor, " n_latents"]:
    """Returns the latents whose decoder row is nearly that of a live latent, of the same layer if there are several."""
    found = torch.zeros_like(fired)
    for block in dictionary.blocks():
        rows, live = unit(block.decoder), fired[block.latents]
        if live.any():
            for part in (~live).nonzero().flatten().split(4096):
                cosine = (rows[part] @ rows[live].T).amax(1)
                found[torch.arange(len(fired), device=fired.device)[block.latents][part]] = cosine >= DUPLICATE
    return found
