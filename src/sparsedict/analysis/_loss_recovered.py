"""How much of what the MLP does for the model's loss a dictionary keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis._coder import Coder, evaluation_mode
from sparsedict.analysis._next_token import NextToken, NoLossError
from sparsedict.analysis._token_batches import Tokens, token_batches
from sparsedict.sites import Constant, Site
from sparsedict.types import Role, SiteActivations

ModelLoss = Callable[[Tensor, Tokens, Tensor], Tensor]
"""From the model's output, the tokens and the mask of positions that count, to the losses that count, ``[n]``."""


@dataclass(frozen=True)
class LossRecovered:
    """Mean losses of a model with its MLP as it is, replaced, and ablated.

    Attributes:
        base: As it is, in nats per token for the default loss.
        replaced: With the dictionary in the MLP's place.
        zero_ablated: With zero there.
        mean_ablated: With the mean over the same tokens there.
        kl: Divergence of the replaced model's predictions from the base's, KL(base || replaced), in nats per token;
            ``None`` for a loss of one's own.
        n_tokens: Losses averaged.
    """

    base: float
    replaced: float
    zero_ablated: float
    mean_ablated: float
    kl: float | None
    n_tokens: int

    @property
    def zero(self) -> float:
        """(zero-ablated - replaced) / (zero-ablated - base). 1 is all, 0 no better than zero; NaN if that's no loss."""
        return _share(self.zero_ablated, self.replaced, self.base)

    @property
    def mean(self) -> float:
        """(mean-ablated - replaced) / (mean-ablated - base), the stricter measure."""
        return _share(self.mean_ablated, self.replaced, self.base)


def loss_recovered(
    site: Site,
    dictionary: Any,
    tokens: Any,
    *,
    batch_size: int = 16,
    n_tokens: int | None = None,
    mean: Float[Tensor, " d_out"] | None = None,
    loss: ModelLoss | None = None,
    reads: Role | None = None,
    writes: Role | None = None,
) -> LossRecovered:
    """Compares the model's loss with its MLP, with a dictionary in its place, and with zero or the mean there.

    The loss is the next token's cross entropy, mean over tokens; tokens at positions that the site leaves out (BOS,
    padding) aren't predicted, and nothing is replaced or ablated there. All four losses are over the same tokens.

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
        reads: Which activations another library's object takes.
        writes: Which it gives; by default the outputs, or the neurons' for one that reads these.

    Raises:
        TypeError: If the model gives no logits over its tokens and no loss is given.
        ValueError: If no token is left to predict.

    Source: the score of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """
    coder = Coder(dictionary, reads, writes)
    role = coder.roles[1]
    batches: list[tuple[Tokens, Tensor]] = []
    running = RunningMean()
    with evaluation_mode(site.model, dictionary):
        for batch, seen in captures(site, coder, tokens, batch_size, n_tokens):
            batches.append((batch, seen.mask))
            running.update_(seen.batch().of(role))
        if mean is None:
            mean = running.value
        return measure_losses(site, coder, batches, checks.latent_vector("mean", mean, running.width), loss)


def captures(
    site: Site, coder: Coder, tokens: Any, batch_size: int, n_tokens: int | None
) -> Iterator[tuple[Tokens, SiteActivations]]:
    """Yields batches of tokens with their activations, until so many kept positions have been seen."""
    n_left = 2**62 if n_tokens is None else checks.at_least("n_tokens", n_tokens, 1)
    for batch in token_batches(tokens, batch_size, site.model):
        seen = site.capture(batch, neurons="neurons" in coder.roles)
        yield batch, seen
        n_left -= int(seen.mask.sum())
        if n_left <= 0:
            return


def measure_losses(
    site: Site,
    coder: Coder,
    batches: Iterable[tuple[Tokens, Tensor]],
    mean: Float[Tensor, " d_out"],
    loss: ModelLoss | None,
) -> LossRecovered:
    """Runs the model four times on each batch.

    Raises:
        NoLossError: If the model gives no logits over its tokens and no loss is given.
        ValueError: If no token is left to predict.
    """
    reads, writes = coder.roles
    zero, middle = (Constant(value, writes) for value in (torch.zeros_like(mean), mean))
    sums = torch.zeros(5, dtype=torch.float64, device="cpu")
    n_losses = 0
    for batch, mask in batches:
        original = _output(site, batch)
        measured = _own(loss) if loss is not None else NextToken(original, batch, mask)
        losses = [measured(original, batch, mask)]
        runs: tuple[tuple[Any, Role], ...] = ((coder.source, reads), (zero, writes), (middle, writes))
        for x, own_reads in runs:
            with site.replaced(x, reads=own_reads, writes=writes):
                output = _output(site, batch)
            losses.append(measured(output, batch, mask))
            if x is coder.source and isinstance(measured, NextToken):
                sums[4] += float(measured.divergence(original, output).double().sum())
        sums[:4] += torch.stack([values.double().sum() for values in losses]).cpu()
        n_losses += losses[0].numel()
    if n_losses == 0:
        raise ValueError("`tokens` must leave at least one token to predict, got none: all are padding or left out.")
    means = (sums / n_losses).tolist()
    base, replaced, zero_ablated, mean_ablated, kl = means
    return LossRecovered(base, replaced, zero_ablated, mean_ablated, None if loss is not None else kl, n_losses)


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


def _own(loss: ModelLoss) -> ModelLoss:
    def checked(output: Tensor, batch: Tokens, mask: Tensor) -> Tensor:
        losses = loss(output, batch, mask)
        if not isinstance(losses, Tensor) or not losses.is_floating_point():
            raise TypeError(f"`loss` must return a tensor of losses, got {type(losses).__name__}.")
        return losses.detach()

    return checked


def _output(site: Site, batch: Tokens) -> Tensor:
    try:
        return site.logits(batch)
    except TypeError as error:
        if "must return logits" not in str(error):
            raise
        raise NoLossError(str(error)) from error


def _share(worst: float, replaced: float, base: float) -> float:
    return (worst - replaced) / (worst - base) if worst != base else float("nan")
