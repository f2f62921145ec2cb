"""State of parts, callbacks and counters in checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Stateful(Protocol):
    """A part or callback that keeps something from step to step: what it gives here goes into checkpoints.

    A state is made of dictionaries, lists and tuples of tensors, None, booleans, numbers, strings and bytes.
    """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


def stateful(part: Any, path: str) -> Iterator[tuple[str, Stateful]]:
    """Yields the objects that keep something, with where they are: a part itself, or what a part is made of."""
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


def attributes(owner: object, names: Iterable[str]) -> dict[str, Any]:
    """Returns attributes by name."""
    return {name: getattr(owner, name) for name in names}


def restore(owner: object, state: Mapping[str, Any], names: Iterable[str]) -> None:
    """Gives attributes the values that they had: tensors in place, on the device where they are."""
    for name in names:
        if name not in state:
            raise ValueError(f"The checkpoint lacks `{name}` of {type(owner).__name__}: an older version wrote it.")
        value, current = state[name], getattr(owner, name)
        if not isinstance(current, Tensor):
            setattr(owner, name, value)
            continue
        if not isinstance(value, Tensor) or value.shape != current.shape:
            raise ValueError(f"The checkpoint's `{name}` of {type(owner).__name__} must be of {tuple(current.shape)}.")
        current.copy_(value)
