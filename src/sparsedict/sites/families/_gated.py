"""Gated MLPs: the output of one linear layer is multiplied by the activation of another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from torch import nn

from sparsedict.sites._neurons import Neurons
from sparsedict.sites._points import Point
from sparsedict.sites.families._candidate import Candidate, Matrix, activations, linear_layers, matrix


def gated(module: nn.Module) -> Iterator[Candidate]:
    """Yields the candidates of a module with three linear layers, usually registered as gate, up, down."""
    layers = linear_layers(module)
    if len(layers) != 3:
        return
    for gate, up, down in permutations(layers):
        first, second, third = matrix(gate), matrix(up), matrix(down)
        if first is not None and second is not None and third is not None:
            yield from from_matrices(first, second, third, Point(down, "in", "decoder"), module)


def fused_gate(module: nn.Module) -> Iterator[Candidate]:
    """Yields the candidates of two linear layers, where the first computes gate and up, in either order."""
    layers = linear_layers(module)
    if len(layers) != 2:
        return
    fused, down = matrix(layers[0]), matrix(layers[1])
    if fused is None or down is None or fused[0].shape[0] != 2 * down[0].shape[1]:
        return
    weights = fused[0].chunk(2)
    biases = (None, None) if fused[1] is None else fused[1].chunk(2)
    first, second = zip(weights, biases, strict=True)
    hidden = Point(layers[1], "in", "decoder")
    for gate, up in ((first, second), (second, first)):
        yield from from_matrices(gate, up, down, hidden, module)


def from_matrices(gate: Matrix, up: Matrix, down: Matrix, hidden: Point, *holders: nn.Module) -> Iterator[Candidate]:
    """Yields the candidates of three matrices with an activation from one of the ``holders``."""
    if gate[0].shape != up[0].shape or up[0].shape[0] != down[0].shape[1]:
        return
    for activation, certain in activations(*holders):
        neurons = Neurons(
            encoder=up[0],
            decoder=down[0].T,
            activation=activation,
            encoder_bias=up[1],
            decoder_bias=down[1],
            gate=gate[0],
            gate_bias=gate[1],
        )
        yield Candidate(neurons, hidden, certain)
