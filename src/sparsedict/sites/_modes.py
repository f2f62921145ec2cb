"""Contexts in which modules are in evaluation mode, or their parameters require no gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Context in evaluation mode. It restores the mode of each module separately."""
    training = [inner for inner in module.modules() if inner.training]
    for inner in training:
        inner.training = False
    try:
        yield
    finally:
        for inner in training:
            inner.training = True


@contextmanager
def without_parameter_gradients(module: nn.Module) -> Iterator[None]:
    """Context in which no parameter requires a gradient, so that graphs don't keep the inputs of linear layers."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
