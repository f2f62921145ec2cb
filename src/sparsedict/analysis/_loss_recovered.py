"""`loss_recovered`, the loss of a model with its MLP replaced by a dictionary, compared with ablations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter, as_role
from sparsedict.analysis._blocks import evaluation_mode
from sparsedict.analysis._measure_losses import LOSS, Conditions, ModelLoss, RunningMean, measure_losses
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
    """Measures the loss of a model with its MLP unchanged, replaced by a dictionary, zero-ablated and mean-ablated.

    The loss is the cross entropy, mean over tokens. Causal models predict the next token. In encoder-decoder models,
    the decoder predicts its next token. Models that aren't causal, such as BERT, predict masked tokens: 15 % of the
    counted positions of each sequence, drawn with seed 0. Whether a model is causal is detected by changing later
    tokens. ``labels`` in ``tokens`` override these targets; -100 marks positions without a target.

    A prediction counts if the site excludes neither its position nor its target, such as BOS or padding. For a site in
    an encoder, all predictions of the decoder count. Excluded positions are neither replaced nor ablated. All four
    losses use the same tokens.

    Args:
        site: The site of the MLP.
        dictionary: A `Dictionary`, `Neurons`, or any object with ``encode`` and ``decode``.
        tokens: Ids ``[n_sequences, n_positions]``, a mapping of the model's keyword arguments, or any other form that
            an `ActivationStream` accepts.
        batch_size: Number of sequences in a forward pass.
        n_tokens: Number of counted positions after which to stop, rounded up to whole batches. All by default.
        mean: Mean output of the MLP, ``[d_out]``. By default it is measured over the same tokens in an additional pass.
        loss: A user-defined loss. It is called with the output of the model, the tokens and the mask
            ``[n_sequences, n_positions]`` of counted positions, and returns losses of any shape, which are averaged
            over all batches.
        mask_token: Id of the mask token of a model that isn't causal. By default that of the tokenizer or configuration
            of the model. Causal models don't need it.
        reads: The activations that an object of another library reads.
        writes: The activations that it writes. By default the outputs, or the neurons if it reads neurons.

    Raises:
        TypeError: If no loss is passed and the model returns no logits over its tokens, or isn't causal and has no
            known mask token.
        ValueError: If there is no token to predict.

    Source: the score of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """
    checks.instance("site", site, Site, "a site, such as `sd.Site(model, path)`")
    if loss is not None:
        checks.function("loss", loss, LOSS)
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
    """Returns the contexts in which the activations of a site are replaced by a dictionary, zero and the mean."""
    writes = as_role(adapter.points[1])
    return Conditions(
        lambda: site.replaced(adapter),
        lambda: site.replaced(Constant(torch.zeros_like(mean), writes)),
        lambda: site.replaced(Constant(mean, writes)),
    )


def captures(
    site: Site, adapter: Adapter, tokens: Any, batch_size: int, n_tokens: int | None
) -> Iterator[tuple[Tokens, Activations]]:
    """Yields batches of tokens with their activations, up to ``n_tokens`` counted positions."""
    n_left = 2**62 if n_tokens is None else checks.at_least("n_tokens", n_tokens, 1)
    for batch in token_batches(tokens, batch_size, site):
        seen = site.capture(batch, neurons=adapter.uses("neurons"))
        yield batch, seen
        n_left -= int(seen.kept.sum())
        if n_left <= 0:
            return
