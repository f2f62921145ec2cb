"""How much of what the MLP does for the model's loss a dictionary keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter, as_role
from sparsedict.analysis._blocks import evaluation_mode
from sparsedict.analysis._gaps import LossSums
from sparsedict.analysis._recovered import LossRecovered
from sparsedict.analysis._scorer import Scorer
from sparsedict.analysis._token_batches import Tokens, token_batches
from sparsedict.analysis._token_loss import NoLossError
from sparsedict.batches import Activations
from sparsedict.sites import Constant, Site
from sparsedict.types import Role

ModelLoss = Callable[[Tensor, Tokens, Tensor], Tensor]
"""From the model's output, the tokens and the mask of positions that count, to the losses that count, ``[n]``."""


def loss_recovered(
    site: Site,
    dictionary: Any,
    tokens: Any,
    *,
    batch_size: int = 16,
    n_tokens: int | None = None,
    mean: Float[Tensor, " d_out"] | None = None,
    loss: ModelLoss | None = None,
    mask_token: int | None = None,
    reads: Role | None = None,
    writes: Role | None = None,
) -> LossRecovered:
    """Compares the model's loss with its MLP, with a dictionary in its place, and with zero or the mean there.

    The loss is cross entropy, mean over tokens. A causal model predicts the next token, the decoder of an
    encoder-decoder model the decoder's next token. A model that isn't causal (BERT), which is found by changing later
    tokens, predicts tokens that are masked: 15 % of each sequence's positions that count, drawn with seed 0. ``labels``
    in ``tokens`` come before all of these, -100 where nothing is predicted.

    A prediction counts where the site replaces something at its position, and its target isn't left out either: not at
    BOS or padding. (For a site in an encoder, all of the decoder's predictions do.) Nothing is replaced or ablated at
    positions that are left out. All four losses are over the same tokens.

    Args:
        site: Where the MLP is.
        dictionary: A `Dictionary`, `Neurons`, or any object with ``encode`` and ``decode``.
        tokens: Ids ``[n_sequences, n_positions]``, a mapping of the model's keyword arguments, or any other form that
            an `ActivationStream` takes.
        batch_size: Sequences in one forward pass.
        n_tokens: Stop after the batch in which so many positions that count have been seen; by default use all.
        mean: The MLP's mean output, ``[d_out]``; by default measured over the same tokens in a pass of its own.
        loss: A loss of one's own: from the model's output, the tokens and the mask ``[n_sequences, n_positions]`` of
            positions that count to the losses, in any shape; they are averaged over all batches.
        mask_token: Id of the mask token of a model that isn't causal; by default that of the model's tokenizer or
            configuration. Causal models don't need it.
        reads: Which activations another library's object takes.
        writes: Which it gives; by default the outputs, or the neurons' for one that reads these.

    Raises:
        TypeError: If the model gives no logits over its tokens, or isn't causal and its mask token isn't known, and no
            loss is given.
        ValueError: If no token is left to predict.

    Source: the score of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """
    adapter = Adapter(dictionary, reads, writes)
    role = adapter.points[1]
    batches: list[tuple[Tokens, Tensor]] = []
    running = RunningMean()
    with evaluation_mode(site.model, dictionary):
        for batch, seen in captures(site, adapter, tokens, batch_size, n_tokens):
            batches.append((batch, seen.kept))
            running.update_(seen.batch().of(role))
        if mean is None:
            mean = running.value
        return measure_losses(
            site, adapter, batches, checks.latent_vector("mean", mean, running.width), loss, mask_token
        )


def captures(
    site: Site, adapter: Adapter, tokens: Any, batch_size: int, n_tokens: int | None
) -> Iterator[tuple[Tokens, Activations]]:
    """Yields batches of tokens with their activations, until so many kept positions have been seen."""
    n_left = 2**62 if n_tokens is None else checks.at_least("n_tokens", n_tokens, 1)
    for batch in token_batches(tokens, batch_size, site.model):
        seen = site.capture(batch, neurons=adapter.uses("neurons"))
        yield batch, seen
        n_left -= int(seen.kept.sum())
        if n_left <= 0:
            return


def measure_losses(
    site: Site,
    adapter: Adapter,
    batches: Iterable[tuple[Tokens, Tensor]],
    mean: Float[Tensor, " d_out"],
    loss: ModelLoss | None,
    mask_token: int | None,
) -> LossRecovered:
    """Runs the model four times on each batch.

    Raises:
        NoLossError: If the model gives no logits over its tokens and no loss is given.
        ValueError: If no token is left to predict.
    """
    writes = as_role(adapter.points[1])
    conditions: tuple[tuple[Any, Role], ...] = (
        (adapter.source, as_role(adapter.points[0])),
        (Constant(torch.zeros_like(mean), writes), writes),
        (Constant(mean, writes), writes),
    )
    scorer = Scorer(site, mask_token) if loss is None else None
    sums, divergence = LossSums(), 0.0
    for batch, mask in batches:
        if scorer is None:
            sums.update_(_own_losses(site, batch, mask, conditions, writes, loss), None)
            continue
        try:
            scored = scorer(batch, mask)
        except TypeError as error:
            raise error if "must return logits" not in str(error) else NoLossError(str(error)) from error
        losses = [scored.loss(scored.logits)]
        for x, reads in conditions:
            output = _output(site, scored.batch, x, reads, writes)
            losses.append(scored.loss(output))
            if x is adapter.source:
                divergence += float(scored.loss.divergence(scored.logits, output).cpu().double().sum())
        sums.update_(losses, scored.loss.sequences)
    if sums.n == 0:
        raise ValueError("`tokens` must leave at least one token to predict, got none: all are padding or left out.")
    kl = None if scorer is None else divergence / sums.n
    base, replaced, zero_ablated, mean_ablated = sums.means
    _, _, zero_error, mean_error = sums.gap_errors
    return LossRecovered(base, replaced, zero_ablated, mean_ablated, kl, sums.n, zero_error, mean_error)


def _own_losses(
    site: Site,
    batch: Tokens,
    mask: Tensor,
    conditions: tuple[tuple[Any, Role], ...],
    writes: Role,
    loss: ModelLoss | None,
) -> list[Tensor]:
    """Losses by a function of the caller's, of the model as it is and under each condition."""
    assert loss is not None
    outputs = [site.logits(batch)]
    outputs += [_output(site, batch, x, reads, writes) for x, reads in conditions]
    losses = [loss(output, batch, mask) for output in outputs]
    for own in losses:
        if not isinstance(own, Tensor) or not own.is_floating_point():
            raise TypeError(f"`loss` must return a tensor of losses, got {type(own).__name__}.")
    return losses


def _output(site: Site, batch: Tokens, x: Any, reads: Role, writes: Role) -> Tensor:
    with site.replaced(x, reads=reads, writes=writes):
        return site.logits(batch)


class RunningMean:
    """The mean of rows, over batches."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._n = 0

    def update_(self, rows: Float[Tensor, "n_tokens d"]) -> None:
        """Takes in a batch."""
        new = rows.float().sum(0).double() if rows.device.type != "mps" else rows.float().sum(0).cpu().double()
        self._sum = new if self._sum is None else self._sum + new
        self._n += len(rows)

    @property
    def width(self) -> int:
        assert self._sum is not None
        return len(self._sum)

    @property
    def value(self) -> Float[Tensor, " d"]:
        assert self._sum is not None
        return (self._sum / max(self._n, 1)).float()
