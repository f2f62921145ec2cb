"""What a model's predictions are scored against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis._masked_tokens import Masker, changed_later, labels_of, looks_ahead, mask_token_of
from sparsedict.analysis._token_batches import Tokens, with_ids
from sparsedict.analysis._token_loss import NoLossError, TokenLoss, shifted
from sparsedict.sites import Site
from sparsedict.sites.models import IGNORED_LABEL, TokenContext, is_seq2seq, predictions, stack


@dataclass(frozen=True, eq=False)
class Scored:
    """One batch, ready to be scored.

    Attributes:
        batch: What the model runs on; some of its tokens are masked for a model that isn't causal.
        logits: Of the model as it is.
        loss: From logits to losses.
    """

    batch: Tokens
    logits: Tensor
    loss: TokenLoss


class Scorer:
    """Finds what each position of a batch is to predict.

    A causal model predicts the next token. The decoder of an encoder-decoder model predicts the decoder's next token. A
    model that sees later tokens predicts tokens that are masked. ``labels`` in the batch come before these.

    Args:
        sites: The sites where dictionaries take the places of MLPs, all of one model.
        mask_token: Id of the mask token of a model that isn't causal; by default the tokenizer's or configuration's.
    """

    def __init__(self, sites: Sequence[Site], mask_token: int | None = None) -> None:
        site = self._site = sites[0]
        self._excluded = {token for own in sites for token in own.exclusion.tokens}
        self._mask_token = None if mask_token is None else checks.at_least("mask_token", mask_token, 0)
        self._seq2seq = is_seq2seq(site.model)
        self._elsewhere = self._seq2seq and all(stack(own.model, own.writes.module) == "encoder" for own in sites)
        self._causal: bool | None = None
        self._masker: Masker | None = None

    def __call__(self, batch: Tokens, mask: Tensor) -> Scored:
        """Returns what a batch is scored against.

        Args:
            batch: Tokens or keyword arguments.
            mask: The positions that count at the sites.

        Raises:
            NoLossError: If the model gives no logits over its tokens, or isn't causal and has no known mask token.
        """
        logits, context = predictions(self._site.model, batch)
        labels = labels_of(batch)
        ids = _checked(logits, context, labels)
        counts = self._counting(mask, context, ids)
        if labels is not None:
            labels = labels.to(logits.device)
            aligned = self._seq2seq or not self._is_causal(batch, logits, context)
            targets = labels if aligned else shifted(labels, IGNORED_LABEL)
            counts = counts & (targets != IGNORED_LABEL)
            if not aligned:
                counts = counts & shifted(self._counting(mask, context, ids), False)
            return Scored(batch, logits, _loss(logits, targets, counts))
        if self._seq2seq or self._is_causal(batch, logits, context):
            return Scored(batch, logits, _loss(logits, shifted(ids, 0), counts & shifted(counts, False)))
        masked, chosen = self._masked(batch, ids, counts)
        return Scored(masked, self._site.logits(masked), _loss(logits, ids, chosen))

    def _counting(self, mask: Tensor, context: TokenContext, ids: Tensor) -> Tensor:
        """Where something is replaced; every token of a decoder follows from what is replaced in its encoder."""
        if not self._elsewhere:
            if mask.shape != ids.shape:
                raise NoLossError(
                    f"`site` must keep the positions of the logits, {tuple(ids.shape)}, got {tuple(mask.shape)}. Give "
                    "`loss=`, a function of output, tokens and mask."
                )
            return mask.to(ids.device)
        real = context.real(ids.device)
        return torch.ones_like(ids, dtype=torch.bool) if real is None else real

    def _is_causal(self, batch: Tokens, logits: Tensor, context: TokenContext) -> bool:
        """Whether no logit depends on a later token, found by changing tokens in the first sequences."""
        if context.ids is None:
            raise NoLossError("`tokens` must hold token ids to be scored, got embeddings. Give `loss=`.")
        if self._causal is None:
            ids, real = context.ids.to(logits.device), context.real(logits.device)
            real = torch.ones_like(ids, dtype=torch.bool) if real is None else real
            # The longest sequences, for a short one shows nothing.
            rows = real.sum(1).argsort(descending=True)[:2]
            ids, real, few = ids[rows], real[rows], _rows(batch, rows)
            changed, later = changed_later(ids, real, int(ids.max()) + 1)
            other = self._site.logits(with_ids(few, changed))
            self._causal = not looks_ahead(self._site.logits(few), other, real, later)
        return self._causal

    def _masked(self, batch: Tokens, ids: Tensor, counts: Tensor) -> tuple[Tokens, Tensor]:
        if self._masker is None:
            token = mask_token_of(self._site.model) if self._mask_token is None else self._mask_token
            if token in self._excluded:
                raise ValueError(
                    f"`exclude_tokens` must not hold the mask token {token}, or nothing is replaced where tokens are "
                    f"predicted, got {sorted(self._excluded)}."
                )
            self._masker = Masker(token)
        return self._masker(batch, ids, counts)


def _rows(batch: Tokens, rows: Tensor) -> Tokens:
    """Some sequences, without labels."""
    if isinstance(batch, Tensor):
        return batch[rows.to(batch.device)]
    return {
        key: value[rows.to(value.device)] if isinstance(value, Tensor) and value.ndim > 1 else value
        for key, value in batch.items()
        if key != "labels"
    }


def _checked(logits: Tensor, context: TokenContext, labels: Tensor | None) -> Tensor:
    """Returns the ids to which the logits belong."""
    ids = context.ids if context.ids is not None else labels
    if ids is None or ids.ndim != 2 or logits.ndim != 3 or logits.shape[:2] != ids.shape:
        got = "no token ids" if ids is None else f"tokens {tuple(ids.shape)}"
        raise NoLossError(
            "`site.model` must give logits [n_sequences, n_positions, n_vocabulary] for its tokens, got "
            f"{tuple(logits.shape)} for {got}. Give `loss=`, a function of output, tokens and mask."
        )
    return ids.to(logits.device).long()


def _loss(logits: Tensor, targets: Tensor, counts: Tensor) -> TokenLoss:
    highest = int(targets.masked_fill(~counts, 0).max()) if targets.numel() else 0
    if highest >= logits.shape[-1]:
        raise NoLossError(
            f"`site.model` must give logits over its vocabulary, got {logits.shape[-1]} of them for token {highest}. "
            "Load it with its language-model head, or give `loss=`."
        )
    return TokenLoss(targets, counts)
