"""Masking tokens, for models that see the tokens they would predict."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from sparsedict.analysis._token_batches import Tokens, with_ids
from sparsedict.analysis._token_loss import NoLossError

MASKED_SHARE = 0.15
"""Share of a sequence's tokens that are masked, that of BERT's training."""
MASK_SEED = 0
PROBE_TOLERANCE = 1e-3


class NotCausalError(NoLossError):
    """The model isn't causal, and it isn't known how to mask its tokens."""


class Masker:
    """Draws which tokens are masked: of each sequence the same whatever the batches.

    Args:
        mask_token: Id of the mask token.
    """

    def __init__(self, mask_token: int) -> None:
        self._mask_token = mask_token
        self._generator = torch.Generator("cpu").manual_seed(MASK_SEED)

    def __call__(
        self,
        batch: Tokens,
        ids: Int[Tensor, "n_sequences n_positions"],
        counts: Bool[Tensor, "n_sequences n_positions"],
    ) -> tuple[Tokens, Bool[Tensor, "n_sequences n_positions"]]:
        """Returns the batch with tokens masked, and where: 15 % of each sequence's positions that count, rounded up."""
        chosen = torch.zeros(counts.shape, dtype=torch.bool, device="cpu")
        for row, own in zip(chosen, counts.cpu(), strict=True):
            positions = own.nonzero().flatten()
            # One number for each position that counts, or padding would move the draws of all later sequences.
            order = torch.rand(len(positions), generator=self._generator, device="cpu").argsort()
            row[positions[order[: math.ceil(MASKED_SHARE * len(positions))]]] = True
        chosen = chosen.to(ids.device)
        return with_ids(batch, ids.masked_fill(chosen, self._mask_token)), chosen


def mask_token_of(model: nn.Module) -> int:
    """Returns the id of the mask token that a model's tokenizer or configuration names.

    Raises:
        NotCausalError: If neither names one.
    """
    config = getattr(model, "config", None)
    for holder, name in (
        (getattr(model, "tokenizer", None), "mask_token_id"),
        (config, "mask_token_id"),
        (config, "mask_index"),
    ):
        value = getattr(holder, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    raise NotCausalError(
        f"`site.model` isn't causal: the logits of a {type(model).__name__} depend on later tokens, so it can't be "
        "scored by next token. Give `mask_token=`, the id of its mask token (`tokenizer.mask_token_id`), to "
        "score masked tokens; `labels` in `tokens` (-100 where nothing is predicted); or `loss=`."
    )


def changed_later(
    ids: Int[Tensor, "n_sequences n_positions"], real: Bool[Tensor, "n_sequences n_positions"], n_vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Returns the tokens with those in the second half of each sequence changed, and which these are."""
    counted = real.cumsum(-1)
    later = real & (counted > counted[:, -1:].div(2, rounding_mode="floor"))
    return torch.where(later, (ids + 1) % n_vocabulary, ids), later


def looks_ahead(base: Tensor, changed: Tensor, real: Tensor, later: Tensor) -> bool:
    """Whether logits before the changed tokens depend on these."""
    difference = (changed.float() - base.float()).nan_to_num(posinf=0, neginf=0).abs().amax(-1)
    before, own = difference[real & ~later], difference[later]
    return bool(before.numel() and own.numel() and before.amax() > PROBE_TOLERANCE * own.amax())


def labels_of(batch: Tokens) -> Tensor | None:
    """Returns the targets that a batch brings, ``[n_sequences, n_positions]``, -100 where nothing is predicted."""
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    return labels if isinstance(labels, Tensor) and labels.ndim == 2 else None
