"""The loss of a language model on the tokens that count."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from sparsedict.analysis._token_batches import Tokens, token_ids


class NoLossError(TypeError):
    """The model gives no next-token logits, so there is no loss to recover."""


class NextToken:
    """Cross entropy of the next token at the positions of one batch that count."""

    def __init__(self, output: Tensor, batch: Tokens, mask: Tensor) -> None:
        ids = token_ids(batch)
        if ids is None or output.ndim != 3 or output.shape[:2] != ids.shape or mask.shape != ids.shape:
            got = "no token ids" if ids is None else f"tokens {tuple(ids.shape)}"
            raise NoLossError(
                "`site.model` must give logits [n_sequences, n_positions, n_vocabulary] for its tokens, got "
                f"{tuple(output.shape)} for {got}. Give `loss=`, a function of output, tokens and mask."
            )
        if int(ids.max()) >= output.shape[-1]:
            raise NoLossError(
                f"`site.model` must give logits over its vocabulary, got {output.shape[-1]} of them for token "
                f"{int(ids.max())}. Load it with its language-model head, or give `loss=`."
            )
        counts = mask.clone()
        attention = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        if isinstance(attention, Tensor) and attention.shape == counts.shape:
            # What follows padding on the left is predicted from padding.
            counts[:, 1:] &= attention.to(counts.device)[:, :-1] != 0
        self._counts = counts[:, 1:].to(output.device)
        self._next = ids.to(output.device)[:, 1:]

    def __call__(self, output: Tensor, batch: Tokens, mask: Tensor) -> Tensor:
        # Sequence by sequence, for a vocabulary in float32 is large.
        rows = zip(output[:, :-1], self._next, self._counts, strict=True)
        return torch.cat([cross_entropy(logits[m].float(), ids[m], reduction="none") for logits, ids, m in rows])

    def divergence(self, base: Tensor, other: Tensor) -> Tensor:
        """Returns KL(base || other) at each position that counts."""
        parts = []
        for p, q, m in zip(base[:, :-1], other[:, :-1], self._counts, strict=True):
            log_p, log_q = log_softmax(p[m].float(), -1), log_softmax(q[m].float(), -1)
            parts.append((log_p.exp() * (log_p - log_q)).sum(-1))
        return torch.cat(parts)
