"""Devices on which the modules of a model run, including modules that Accelerate offloads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sparsedict.sites._embedding import token_embedding
from sparsedict.sites._points import find_module


def input_device(model: nn.Module) -> torch.device | None:
    """Returns the device of a model's input tokens, or None if the model has no weights."""
    moved = _execution_device(model)
    embedding = token_embedding(model)
    if moved is None and embedding is not None:
        moved = module_device(embedding)
    return module_device(model) if moved is None else moved


def module_device(module: nn.Module) -> torch.device | None:
    """Returns the device on which a module runs, or None if the module has no weights."""
    for inner in module.modules():
        device = _execution_device(inner)
        if device is not None:
            return device
    return next((value.device for value in chain(module.parameters(), module.buffers())), None)


def nearest_device(model: nn.Module, path: str) -> torch.device | None:
    """Returns the device of a module; of the innermost module around it that has weights, if it has none."""
    parts = path.split(".")
    modules = (find_module(model, ".".join(parts[:n])) for n in range(len(parts), 0, -1))
    found = (None if module is None else module_device(module) for module in modules)
    return next((device for device in found if device is not None), input_device(model))


def loaded(module: object, name: str) -> Any:
    """Returns a parameter, moved to its module's execution device if it is offloaded."""
    value = getattr(module, name, None)
    if not isinstance(value, Tensor) or not value.is_meta:
        return value
    for hook in _hooks(module):
        try:
            return hook.weights_map[name].to(hook.execution_device)
        except (AttributeError, KeyError, TypeError):  # No weights are offloaded, or this weight isn't.
            continue
    return value


def _execution_device(module: nn.Module) -> torch.device | None:
    devices = (getattr(hook, "execution_device", None) for hook in _hooks(module))
    device = next((device for device in devices if device is not None), None)
    return None if device is None else torch.device(device)


def _hooks(module: object) -> Iterator[Any]:
    """Yields Accelerate's hooks on a module. They are identified by name, to avoid importing Accelerate."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        yield from getattr(hook, "hooks", (hook,))
