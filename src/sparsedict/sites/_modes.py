"""Training and evaluation mode of modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Turns dropout off, module by module, so that a mixed state comes back as it was."""
    training = [inner for inner in module.modules() if inner.training]
    for inner in training:
        inner.training = False
    try:
        yield
    finally:
        for inner in training:
            inner.training = True
