"""How much of what the MLP does for the model's loss a dictionary keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter, as_role
from sparsedict.analysis._blocks import evaluation_mode
from sparsedict.analysis._measure_losses import Conditions, ModelLoss, RunningMean, measure_losses
from sparsedict.analysis._recovered import LossRecovered
from sparsedict.analysis._token_batches import Tokens, token_batches
from sparsedict.batches import Activations
from sparsedict.sites import Constant, Site
from sparsedict.types import Role


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
            running.update_(seen.batch().at(role))
        if mean is None:
            mean = running.value
        mean = checks.latent_vector("mean", mean, running.width)
        return measure_losses([site], {"": conditions(site, adapter, mean)}, batches, loss, mask_token)[""]


def conditions(site: Site, adapter: Adapter, mean: Float[Tensor, " d_out"]) -> Conditions:
    """Returns the contexts of a site with a dictionary, zero and the mean in the place of its activations."""
    writes = as_role(adapter.points[1])
    return Conditions(
        lambda: site.replaced(adapter),
        lambda: site.replaced(Constant(torch.zeros_like(mean), writes)),
        lambda: site.replaced(Constant(mean, writes)),
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
