"""MLPs whose two linear layers are in separate modules, as in BERT."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from sparsedict.sites.families._candidate import Candidate
from sparsedict.sites.families._two_layer import from_layers


def separate_layers(module: nn.Module) -> Iterator[Candidate]:
    """Yields the candidates of a layer with ``intermediate.dense`` and ``output.dense``."""
    intermediate, output = getattr(module, "intermediate", None), getattr(module, "output", None)
    encoder, decoder = getattr(intermediate, "dense", None), getattr(output, "dense", None)
    if isinstance(intermediate, nn.Module) and isinstance(encoder, nn.Module) and isinstance(decoder, nn.Module):
        yield from from_layers(encoder, decoder, intermediate)
