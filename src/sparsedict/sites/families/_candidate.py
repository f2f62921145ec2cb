"""Candidates for an MLP's neurons, and the linear layers and activations of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsedict.sites._devices import loaded
from sparsedict.sites._neurons import Neurons
from sparsedict.sites._points import Point

Matrix = tuple[Tensor, Tensor | None]
"""A weight ``[out, in]`` and its bias ``[out]``."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One interpretation of a module as an MLP.

    Attributes:
        neurons: The neurons.
        hidden: The point of the neurons' activations, if the model has one.
        certain: Whether all parts were found in the module, rather than guessed.
    """

    neurons: Neurons
    hidden: Point | None
    certain: bool


@runtime_checkable
class Family(Protocol):
    """A function that yields every interpretation of a module as an MLP of a family."""

    def __call__(self, module: nn.Module, /) -> Iterator[Candidate]: ...


def matrix(module: object) -> Matrix | None:
    """Returns the weight ``[out, in]`` and the bias of a linear layer, or None for other modules."""
    while isinstance(inner := getattr(module, "original_component", None), nn.Module):
        module = inner
    weight, bias = loaded(module, "weight"), loaded(module, "bias")
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        return None
    # transformers' Conv1D has weights [in, out]. It is identified by name, to avoid importing transformers.
    transposed = type(module).__name__ == "Conv1D"
    sizes = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if not transposed and not isinstance(module, nn.Linear) and tuple(weight.shape) != sizes:
        return None
    weight = weight.detach()
    return weight.T if transposed else weight, bias.detach() if isinstance(bias, Tensor) else None


def linear_layers(module: nn.Module) -> list[nn.Module]:
    """Returns the linear layers among a module's children, or among all its descendants if there are fewer than two."""
    direct = [child for child in module.children() if matrix(child) is not None]
    return direct if len(direct) >= 2 else [inner for inner in module.modules() if matrix(inner) is not None]


_ATTRIBUTES = ("act", "act_fn", "activation", "activation_fn", "activation_function", "nonlinearity")
_NO_ACTIVATION = (nn.Dropout, nn.Identity, nn.Flatten, nn.ModuleList, nn.ModuleDict, nn.Sequential)


def _squared_relu(x: Tensor) -> Tensor:
    return functional.relu(x).square()


def _tanh_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


_COMMON = (
    functional.relu,
    functional.gelu,
    _tanh_gelu,
    functional.silu,
    torch.tanh,
    torch.sigmoid,
    _squared_relu,
    _quick_gelu,
)


def activations(*modules: nn.Module) -> Iterator[tuple[Callable[[Any], Any], bool]]:
    """Yields the activations found in modules, then common activation functions, which ``forward`` may call directly.

    The flag is true for activations found in the modules.
    """
    seen: set[int] = set()
    for module in modules:
        held = [inner for inner in module.modules() if inner is not module and _is_activation(inner)]
        for name in _ATTRIBUTES:
            value = getattr(module, name, None)
            if callable(value) and (not isinstance(value, nn.Module) or _is_activation(value)):
                held.insert(0, value)  # pyright: ignore[reportArgumentType]
        for activation in held:
            if id(activation) not in seen:
                seen.add(id(activation))
                yield activation, True
    for activation in _COMMON:
        yield activation, False


def _is_activation(module: nn.Module) -> bool:
    if type(module).__module__ == "torch.nn.modules.activation":
        return not isinstance(module, nn.MultiheadAttention)
    leaf = next(module.children(), None) is None and next(module.parameters(), None) is None
    return leaf and not isinstance(module, _NO_ACTIVATION) and type(module).__name__ != "HookPoint"
