"""Initialisation of a dictionary's weights from a sample of its data."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsedict.dictionaries._blocks import Block
from sparsedict.dictionaries._encoder_decoder import EncoderDecoder
from sparsedict.dictionaries._start_tokens import keeping_frozen, start_tokens
from sparsedict.torch_state import in_own_state, without_inference_

INITIAL_NORM = 0.1
"""Norm of new encoder rows, as a multiple of the ratio of the targets' scale to the inputs' scale.

Short rows change direction quickly under Adam; see ``benchmarks.initialisation``.
"""

SCALE_TOKENS = 1024
"""Number of tokens on which the scale of latents is measured."""


@in_own_state
@keeping_frozen
@torch.no_grad()
def start_from(dictionary: EncoderDecoder, inputs: Tensor, targets: Tensor) -> None:
    """Initialises each latent at one token, in place (see `Dictionary.initialise_`)."""
    assert isinstance(dictionary, nn.Module)
    without_inference_(dictionary)
    mean = targets.mean(0)
    dictionary.decoder_bias.copy_(mean)
    if not dictionary.has_affine_encoder:
        return
    encoded = dictionary.encoder_inputs(inputs)
    for index, block in enumerate(dictionary.blocks()):
        if block.n_latents:
            tokens = start_tokens(dictionary.start_seed + index, block.n_latents, inputs[:, block.reads])
            _start_block_(dictionary, block, encoded[:, block.reads], (targets - mean)[:, block.writes], *tokens)


@in_own_state
@torch.no_grad()
def match_scale_(dictionary: EncoderDecoder, inputs: Tensor, targets: Tensor) -> None:
    """Multiplies encoder rows and biases in place by the factor for which latents fit the targets best.

    Nothing changes if an encoder is frozen, or if the reconstruction doesn't improve.

    Args:
        dictionary: A dictionary after `start_from`.
        inputs: Activations that it reads, one row per token. The first `SCALE_TOKENS` are used.
        targets: Their targets.
    """
    weights = [*(block.encoder for block in dictionary.blocks()), dictionary.encoder_bias]
    if not all(weight.requires_grad for weight in weights):
        return
    inputs, targets = inputs[:SCALE_TOKENS], targets[:SCALE_TOKENS]
    module = cast(Any, dictionary)  # a Dictionary, which imports this module
    centred = (module.in_decoder_scale(targets) - dictionary.decoder_bias).double()

    def contribution() -> Tensor:
        latents = module.encode(inputs)
        return (module.in_decoder_scale(module.reconstruct(latents, inputs)) - dictionary.decoder_bias).double()

    was_training = module.training
    module.train()
    try:
        before = contribution()
        factor = float((before * centred).sum() / before.square().sum())
        if not (math.isfinite(factor) and factor > 0):
            return
        first = [weight.detach().clone() for weight in weights]
        for weight in weights:
            weight.mul_(factor)
        if not (contribution() - centred).square().sum() < (before - centred).square().sum():
            for weight, value in zip(weights, first, strict=True):
                weight.copy_(value)
    finally:
        module.train(was_training)


def _start_block_(
    dictionary: EncoderDecoder, block: Block, encoded: Tensor, centred: Tensor, tokens: Tensor, is_shared: Tensor
) -> None:
    """Initialises the latents of a block in place, each from one token.

    Args:
        dictionary: The dictionary, with the mean target as its decoder bias.
        block: A block of the dictionary.
        encoded: The inputs of the block's encoder rows, for all tokens.
        centred: The targets of the block minus their mean.
        tokens: A token for each latent.
        is_shared: Whether an earlier latent has the same token.
    """
    # Division by the spread makes the result independent of the scale of activations.
    size = centred.square().mean().sqrt()
    rows = functional.normalize(block.stored_rows(_over(centred[tokens], size)), dim=-1)
    # A second latent at the same token gets a random direction in addition, and a latent at the mean only that.
    random = functional.normalize(block.decoder, dim=-1)
    needs_random = is_shared | ~rows.any(dim=-1)
    block.decoder.copy_(functional.normalize(rows + random * needs_random[:, None], dim=-1))
    block.constrain_(dictionary.decoder_norm)
    wide = torch.promote_types(encoded.dtype, torch.float32)
    encoded_centred = (encoded - encoded.mean(0)).to(wide)
    encoded_size = encoded_centred.square().mean().sqrt()
    # Activations in float64 may have squares that overflow in float32.
    encoder = functional.normalize(_whitened(_over(encoded_centred, encoded_size).float())[tokens], dim=-1)
    encoder *= INITIAL_NORM * _over(size, encoded_size)
    block.encoder.copy_(encoder)
    bias = -(encoder.to(wide) @ encoded.mean(0).to(wide))
    dictionary.encoder_bias[block.latents] = bias.to(dictionary.encoder_bias)


def _over(values: Tensor, size: Tensor) -> Tensor:
    """Returns values divided by a size, or the values if the size is zero."""
    return values / torch.where(size > 0, size, torch.ones_like(size))


def _whitened(rows: Tensor) -> Tensor:
    """Returns centred rows times the inverse of their covariance, regularised by a tenth of the mean variance."""
    covariance = rows.T @ rows / len(rows)
    covariance.diagonal().add_(0.1 * covariance.diagonal().mean().clamp_min(1e-12))
    return torch.linalg.solve(covariance, rows.T).T
