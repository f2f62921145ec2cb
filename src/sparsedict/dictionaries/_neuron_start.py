"""Initialisation of a distiller from the MLP's own neurons."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsedict.dictionaries._encoder_decoder import EncoderDecoder
from sparsedict.dictionaries._start_tokens import keeping_frozen
from sparsedict.torch_state import in_own_state

RIDGE = 1e-3
"""Regularisation of the regression, as a fraction of the mean variance of the encoder's inputs."""


@in_own_state
@torch.no_grad()
def start_from_neurons_(dictionary: Any, neurons: Any, inputs: Tensor, targets: Tensor) -> None:
    """Sets the first latents to the MLP's neurons, in place (see `SparseDistiller.initialise_from_neurons_`).

    Args:
        dictionary: A distiller that was initialised on the same inputs and targets.
        neurons: The MLP's neurons.
        inputs: Activations that the distiller reads.
        targets: Activations that it reproduces.
    """
    keeping_frozen(partial(_start_, neurons))(dictionary, inputs, targets)


def _start_(neurons: Any, dictionary: Any, inputs: Tensor, targets: Tensor) -> None:
    like = dictionary.encoder_bias
    values = neurons.encode(inputs.to(neurons.encoder)).to(like).relu()
    rows = neurons.decoder.to(like)
    sizes = torch.linalg.vector_norm(rows, dim=-1)
    # If there are more neurons than latents, those with the largest contributions are chosen.
    order = (values.mean(0) * sizes).argsort(descending=True)[: dictionary.n_latents]
    encoded = dictionary.encoder_inputs(inputs)
    encoder, bias = _fitted(encoded, values[:, order] * sizes[order])
    if neurons.gate is None and torch.equal(encoded, inputs):
        encoder = neurons.encoder.to(like)[order] * sizes[order, None]
        bias = neurons.encoder_bias.to(like)[order] * sizes[order]
    n = len(order)
    factor = _factor(dictionary, encoded, encoder, bias)
    dictionary.encoder[:n], dictionary.encoder_bias[:n] = encoder * factor, bias * factor
    dictionary.decoder[:n] = functional.normalize(rows[order], dim=-1)
    dictionary.constrain_decoder_()
    was_training = dictionary.training
    dictionary.train()
    out = dictionary.forward_pass(inputs, targets)
    dictionary.train(was_training)
    dictionary.decoder_bias += (targets - out.reconstruction).mean(0)


def _fitted(x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns rows and biases of the ridge regression of values on inputs."""
    centred, mean = x - x.mean(0), values.mean(0)
    covariance = centred.T @ centred / len(x)
    covariance.diagonal().add_(RIDGE * covariance.diagonal().mean().clamp_min(torch.finfo(x.dtype).tiny))
    rows = torch.linalg.solve(covariance, centred.T @ (values - mean) / len(x)).T
    return rows, mean - rows @ x.mean(0)


def _factor(dictionary: EncoderDecoder, x: Tensor, encoder: Tensor, bias: Tensor) -> Tensor | float:
    """Returns the factor by which pre-activations of neurons have the size of those of the other latents.

    Latents that start from tokens have short encoder rows. Without the factor, neurons would win every competition, and
    the other latents would die.
    """
    others = dictionary.encoder[len(bias) :]
    if not len(others):
        return 1.0
    spread = (x @ others.T + dictionary.encoder_bias[len(bias) :]).std()
    own = (x @ encoder.T + bias).std()
    return torch.where(own > 0, spread / own, torch.ones_like(own))
