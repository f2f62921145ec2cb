"""Masking of tokens for masked language models, and detection of models that aren't causal."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from sparsedict.analysis._token_batches import Tokens, with_ids
from sparsedict.analysis._token_loss import NoLossError

MASKED_SHARE = 0.15
"""Share of the tokens of a sequence that are masked, as in the training of BERT."""
MASK_SEED = 0
PROBE_TOLERANCE = 1e-3


class NotCausalError(NoLossError):
    """Raised if a model isn't causal and its mask token is unknown."""


class Masker:
    """Masks random tokens. The masked tokens of a sequence don't depend on the batch size.

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
        """Returns the masked batch and its mask, which covers 15 % of the counted positions, rounded up."""
        chosen = torch.zeros(counts.shape, dtype=torch.bool, device="cpu")
        for row, own in zip(chosen, counts.cpu(), strict=True):
            positions = own.nonzero().flatten()
            # One random number for each counted position, so that padding doesn't affect later sequences.
            order = torch.rand(len(positions), generator=self._generator, device="cpu", dtype=torch.float32).argsort()
            row[positions[order[: math.ceil(MASKED_SHARE * len(positions))]]] = True
        chosen = chosen.to(ids.device)
        return with_ids(batch, ids.masked_fill(chosen, self._mask_token)), chosen


def mask_token_of(model: nn.Module) -> int:
    """Returns the id of the mask token in the tokenizer or configuration of a model.

    Raises:
        NotCausalError: If there is no mask token.
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
        f"`site.model` isn't causal: the logits of a {type(model).__name__} depend on later tokens, so the next-token "
        "loss is undefined. To predict masked tokens, set `mask_token_id` in its configuration, or pass `mask_token=` "
        "(`tokenizer.mask_token_id`). Or pass `labels` in `tokens` (-100 for positions without a target), or `loss=`."
    )


def change_later_tokens(
    ids: Int[Tensor, "n_sequences n_positions"], real: Bool[Tensor, "n_sequences n_positions"], n_vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Returns the tokens with the second half of each sequence changed, and the mask of the changed tokens."""
    counted = real.cumsum(-1)
    later = real & (counted > counted[:, -1:].div(2, rounding_mode="floor"))
    return torch.where(later, (ids + 1) % n_vocabulary, ids), later


def looks_ahead(base: Tensor, changed: Tensor, real: Tensor, later: Tensor) -> bool:
    """Returns whether logits before the changed tokens depend on the changed tokens."""
    difference = (changed.float() - base.float()).nan_to_num(posinf=0, neginf=0).abs().amax(-1)
    before, own = difference[real & ~later], difference[later]
    return bool(before.numel() and own.numel() and before.amax() > PROBE_TOLERANCE * own.amax())


def labels_of(batch: Tokens) -> Tensor | None:
    """Returns the ``labels`` of a batch, ``[n_sequences, n_positions]``, or None. -100 marks missing targets."""
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    return labels if isinstance(labels, Tensor) and labels.ndim == 2 else None
