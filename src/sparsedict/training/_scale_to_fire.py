"""The scale of resampled latents, such that they fire where latents compete or have thresholds."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedict.dictionaries import Dictionary, ForwardPass
from sparsedict.latents import Support, fires

MARGIN = 2.0
"""Pre-activation of a new latent on its token, relative to the smallest active one, where latents compete."""


def evaluate_rows(dictionary: Dictionary, inputs: Tensor, targets: Tensor) -> ForwardPass:
    """Returns the forward pass of rows in evaluation mode."""
    was_training = dictionary.training
    dictionary.eval()
    try:
        return dictionary.forward_pass(inputs, targets)
    finally:
        dictionary.train(was_training)


def scale_to_fire_(dictionary: Dictionary, latents: Tensor, places: Tensor, inputs: Tensor, targets: Tensor) -> None:
    """Scales up the encoder rows of new latents that don't fire on their tokens.

    Args:
        dictionary: The dictionary.
        latents: The new latents of this rank.
        places: The row of ``inputs`` for which each of them was made.
        inputs: One row for each new latent of all ranks.
        targets: The targets of these rows.
    """
    out = evaluate_rows(dictionary, inputs, targets)
    support, fired = out.encoding.stored(), fires(out.values.flatten())
    tokens, active, pre = support.tokens[fired], support.latents[fired], out.pre_activations.flatten()[fired]
    own_row = torch.full((len(inputs),), -1, dtype=latents.dtype, device=latents.device)
    own_row[places] = latents
    fires_already = torch.zeros_like(own_row, dtype=torch.bool)
    fires_already[tokens[active == own_row[tokens]]] = True
    smallest, models = _smallest_active(dictionary, tokens, active, pre.abs(), len(inputs))
    if smallest is None or models is None:
        return
    own = dictionary.pre_activations_at(inputs[places], Support.from_indices(latents[:, None], dictionary.n_latents))
    chosen = ~fires_already[places] & (own > 0)
    factors = torch.where(chosen, MARGIN * smallest[places] / own, torch.ones_like(own))
    for block in dictionary.blocks():
        here, rows = block.rows_of(latents)
        block.encoder[rows] *= factors[here, None]
    dictionary.encoder_bias[latents] *= factors
    for weight in dictionary.activation_state.parameters():
        if weight.requires_grad and weight.shape == dictionary.encoder_bias.shape:
            weight[latents] = torch.where(chosen, _at_latents(dictionary, weight, models)[places], weight[latents])


def _smallest_active(
    dictionary: Dictionary, tokens: Tensor, active: Tensor, sizes: Tensor, n_tokens: int
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Returns the smallest active pre-activation of each token over all ranks, and the latent that has it.

    If nothing fires on a token, they are those of all tokens. If nothing fires at all, the results are ``None``.

    Args:
        dictionary: The dictionary.
        tokens: The token of each active entry of this rank.
        active: Its latent.
        sizes: Magnitude of its pre-activation.
        n_tokens: Number of tokens.
    """
    shard = dictionary.shard
    found = torch.full((n_tokens,), torch.inf, dtype=sizes.dtype, device=sizes.device)
    found.scatter_reduce_(0, tokens, sizes, "amin")
    found = found if shard is None else shard.peers.gather(found).amin(0)
    smallest = found.min()
    if bool(smallest.isinf()):
        return None, None
    # Of equal values, the last latent is taken.
    latents = active if shard is None else shard.latents[active]
    is_smallest = sizes == found[tokens]
    models = torch.full((n_tokens,), -1, dtype=latents.dtype, device=latents.device)
    models.scatter_reduce_(0, tokens[is_smallest], latents[is_smallest], "amax")
    models = models if shard is None else shard.peers.gather(models).amax(0)
    last = models[found == smallest].max()
    return torch.where(found.isinf(), smallest, found), torch.where(models < 0, last, models)


def _at_latents(dictionary: Dictionary, weight: Tensor, latents: Tensor) -> Tensor:
    """Returns the entries of a weight with one entry per latent at latents of all ranks."""
    shard = dictionary.shard
    if shard is None:
        return weight[latents]
    rows = torch.searchsorted(shard.latents, latents).clamp_max(len(shard.latents) - 1)
    own = torch.where(shard.latents[rows] == latents, weight[rows], torch.zeros_like(weight[rows]))
    return shard.peers.sum(own)
