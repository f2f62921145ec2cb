"""What was found out about modules, for as long as they are the same ones."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Generic, TypeVar

from torch import nn

T = TypeVar("T")


class ModuleCache(Generic[T]):
    """A value that was found for some modules, and doesn't hold for others."""

    def __init__(self, value: T, modules: Iterable[nn.Module]) -> None:
        self._value = value
        self._modules = [weakref.ref(module) for module in modules]

    def value_for(self, modules: Iterable[nn.Module]) -> T | None:
        """Returns the value if these are the same modules, else None."""
        modules = list(modules)
        same = len(modules) == len(self._modules) and all(
            ref() is module for ref, module in zip(self._modules, modules, strict=True)
        )
        return self._value if same else None
