"""Initialisation of a dictionary's weights from a sample of its data."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsedict.dictionaries._encoder_decoder import EncoderDecoder
from sparsedict.dictionaries._start_tokens import keeping_frozen, start_tokens
from sparsedict.torch_state import in_own_state, without_inference_

INITIAL_NORM = 0.1
"""Norm of new encoder rows, as a multiple of the ratio of the targets' scale to the inputs' scale.

Short rows change direction quickly under Adam; see ``benchmarks.initialisation``.
"""


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
    tokens, is_shared = start_tokens(dictionary.start_seed, dictionary.n_latents, inputs)
    # Division by the spread makes the result independent of the scale of activations.
    size = (targets - mean).square().mean().sqrt()
    rows = functional.normalize(_over((targets - mean)[tokens], size), dim=-1)
    # A second latent at the same token gets a random direction in addition, and a latent at the mean only that.
    random = functional.normalize(dictionary.decoder, dim=-1)
    needs_random = is_shared | ~rows.any(dim=-1)
    dictionary.decoder.copy_(functional.normalize(rows + random * needs_random[:, None], dim=-1))
    dictionary.decoder_norm.constrain_(dictionary.decoder)
    centred = (encoded - encoded.mean(0)).float()
    encoded_size = centred.square().mean().sqrt()
    encoder = functional.normalize(_whitened(_over(centred, encoded_size))[tokens], dim=-1)
    encoder *= INITIAL_NORM * _over(size, encoded_size)
    dictionary.encoder.copy_(encoder)
    dictionary.encoder_bias.copy_(-(encoder @ encoded.mean(0).float()))


def _over(values: Tensor, size: Tensor) -> Tensor:
    """Returns values divided by a size, or the values if the size is zero."""
    return values / torch.where(size > 0, size, torch.ones_like(size))


def _whitened(rows: Tensor) -> Tensor:
    """Returns centred rows times the inverse of their covariance, regularised by a tenth of the mean variance."""
    covariance = rows.T @ rows / len(rows)
    covariance.diagonal().add_(0.1 * covariance.diagonal().mean().clamp_min(1e-12))
    return torch.linalg.solve(covariance, rows.T).T
