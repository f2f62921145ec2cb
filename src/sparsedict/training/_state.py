"""Saving and restoring the state of parts, callbacks, counters and optimisers in checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Stateful(Protocol):
    """A part or callback with state that changes during training. Checkpoints store its ``state_dict()``.

    A state consists of dictionaries, lists and tuples of tensors, None, booleans, numbers, strings and bytes.
    """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


def stateful(part: Any, path: str) -> Iterator[tuple[str, Stateful]]:
    """Yields the path and the object of each stateful part, searching lists and fields of dataclasses."""
    if isinstance(part, type):
        return
    if isinstance(part, Stateful):
        yield path, part
    elif isinstance(part, list | tuple):
        for index, item in enumerate(part):
            yield from stateful(item, f"{path}[{index}]")
    elif dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            yield from stateful(getattr(part, field.name), f"{path}.{field.name}")


def restore(owner: object, state: Mapping[str, Any], names: Iterable[str]) -> None:
    """Restores the named attributes of an object. Tensors are copied in place and stay on their device."""
    for name in names:
        if name not in state:
            raise ValueError(
                f"The checkpoint must contain `{name}` of {type(owner).__name__}, but an older version wrote it "
                "without this value. Start a new run in another folder."
            )
        value, current = state[name], getattr(owner, name)
        if not isinstance(current, Tensor):
            setattr(owner, name, value)
            continue
        if not isinstance(value, Tensor) or value.shape != current.shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"`{name}` of {type(owner).__name__} must have shape {tuple(current.shape)} in the checkpoint, got "
                f"{found}. Use an older checkpoint, or start a new run in another folder."
            )
        current.copy_(value)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads an optimiser state without conversion; PyTorch would convert it to the type of the parameters."""
    optimizer.load_state_dict(state)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, saved in state["state"].items():
        held = optimizer.state[parameters[index]]
        for name, value in saved.items():
            if isinstance(value, Tensor) and held[name].dtype != value.dtype:
                held[name] = value.to(held[name].device)
