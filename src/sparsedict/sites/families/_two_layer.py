"""MLPs of two linear layers with an activation between them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from sparsedict.sites._neurons import Neurons
from sparsedict.sites._points import Point
from sparsedict.sites.families._candidate import Candidate, activations, linear_layers, matrix


def two_layer(module: nn.Module) -> Iterator[Candidate]:
    """Yields the candidates of a module with two linear layers. The first is more likely to be the encoder."""
    layers = linear_layers(module)
    if len(layers) != 2:
        return
    for first, second in (layers, layers[::-1]):
        yield from from_layers(first, second, module)


def from_layers(encoder: nn.Module, decoder: nn.Module, *holders: nn.Module) -> Iterator[Candidate]:
    """Yields the candidates of two linear layers with an activation from one of the ``holders``."""
    first, second = matrix(encoder), matrix(decoder)
    if first is None or second is None or first[0].shape[0] != second[0].shape[1]:
        return
    for activation, certain in activations(*holders):
        neurons = Neurons(
            encoder=first[0],
            decoder=second[0].T,
            activation=activation,
            encoder_bias=first[1],
            decoder_bias=second[1],
        )
        yield Candidate(neurons, Point(decoder, "in", "decoder"), certain)
