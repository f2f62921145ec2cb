"""`Scorer`, which determines the targets that the predictions of a model are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis._masked_tokens import Masker, change_later_tokens, labels_of, looks_ahead, mask_token_of
from sparsedict.analysis._token_batches import Tokens, with_ids
from sparsedict.analysis._token_loss import NoLossError, TokenLoss, shifted
from sparsedict.sites import Site
from sparsedict.sites.models import IGNORED_LABEL, TokenContext, is_seq2seq, predictions, stack


@dataclass(frozen=True, eq=False)
class Scored:
    """A batch with its loss function.

    Attributes:
        batch: Inputs of the model. For a model that isn't causal, some of the tokens are masked.
        logits: Logits of the original model.
        loss: Function of logits that returns the losses.
    """

    batch: Tokens
    logits: Tensor
    loss: TokenLoss


class Scorer:
    """Determines the target of each position of a batch.

    Causal models predict the next token. In encoder-decoder models, the decoder predicts its next token. Models that
    aren't causal predict masked tokens. ``labels`` in the batch override these targets.

    Args:
        sites: The sites that dictionaries replace, all of one model.
        mask_token: Id of the mask token of a model that isn't causal. By default that of tokenizer or configuration.
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
        """Returns the logits and the loss function of a batch.

        Args:
            batch: Tokens or keyword arguments of the model.
            mask: Mask of the counted positions at the sites.

        Raises:
            NoLossError: If the model returns no logits over its tokens, or isn't causal and has no known mask token.
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
        """Returns the mask of replaced positions. A replacement in an encoder affects all tokens of the decoder."""
        if not self._elsewhere:
            if mask.shape != ids.shape:
                raise NoLossError(
                    f"`site` must have the same positions as the logits, {tuple(ids.shape)}, got {tuple(mask.shape)}. "
                    "Pass `loss=`, a function of output, tokens and mask."
                )
            return mask.to(ids.device)
        real = context.real(ids.device)
        return torch.ones_like(ids, dtype=torch.bool) if real is None else real

    def _is_causal(self, batch: Tokens, logits: Tensor, context: TokenContext) -> bool:
        """Returns whether no logit depends on a later token, tested by changing tokens of the longest sequences."""
        if context.ids is None:
            raise NoLossError("`tokens` must contain token ids to measure the loss, got embeddings. Pass `loss=`.")
        if self._causal is None:
            ids, real = context.ids.to(logits.device), context.real(logits.device)
            real = torch.ones_like(ids, dtype=torch.bool) if real is None else real
            # A short sequence may have no later tokens.
            rows = real.sum(1).argsort(descending=True)[:2]
            ids, real, few = ids[rows], real[rows], _rows(batch, rows)
            changed, later = change_later_tokens(ids, real, int(ids.max()) + 1)
            other = self._site.logits(with_ids(few, changed))
            self._causal = not looks_ahead(self._site.logits(few), other, real, later)
        return self._causal

    def _masked(self, batch: Tokens, ids: Tensor, counts: Tensor) -> tuple[Tokens, Tensor]:
        if self._masker is None:
            token = mask_token_of(self._site.model) if self._mask_token is None else self._mask_token
            if token in self._excluded:
                raise ValueError(
                    f"`exclude_tokens` must not contain the mask token {token}, because tokens are predicted and "
                    f"replaced at its positions, got {sorted(self._excluded)}."
                )
            self._masker = Masker(token)
        return self._masker(batch, ids, counts)


def _rows(batch: Tokens, rows: Tensor) -> Tokens:
    """Returns the given sequences of a batch, without labels."""
    if isinstance(batch, Tensor):
        return batch[rows.to(batch.device)]
    return {
        key: value[rows.to(value.device)] if isinstance(value, Tensor) and value.ndim > 1 else value
        for key, value in batch.items()
        if key != "labels"
    }


def _checked(logits: Tensor, context: TokenContext, labels: Tensor | None) -> Tensor:
    """Returns the token ids that correspond to the logits."""
    ids = context.ids if context.ids is not None else labels
    if ids is None or ids.ndim != 2 or logits.ndim != 3 or logits.shape[:2] != ids.shape:
        got = "no token ids" if ids is None else f"tokens {tuple(ids.shape)}"
        raise NoLossError(
            "`site.model` must return logits [n_sequences, n_positions, n_vocabulary] for its tokens, got "
            f"{tuple(logits.shape)} for {got}. Pass `loss=`, a function of output, tokens and mask."
        )
    return ids.to(logits.device).long()


def _loss(logits: Tensor, targets: Tensor, counts: Tensor) -> TokenLoss:
    highest = int(targets.masked_fill(~counts, 0).max()) if targets.numel() else 0
    if highest >= logits.shape[-1]:
        raise NoLossError(
            f"`site.model` must return logits over its vocabulary, got {logits.shape[-1]} logits for token {highest}. "
            "Load the model with its language-model head, or pass `loss=`."
        )
    return TokenLoss(targets, counts)
