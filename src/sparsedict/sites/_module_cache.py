"""A cached value that is valid as long as the modules it was computed for are unchanged."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Generic, TypeVar

from torch import nn

T = TypeVar("T")


class ModuleCache(Generic[T]):
    """A value that was computed for certain modules and is invalid for others."""

    def __init__(self, value: T, modules: Iterable[nn.Module]) -> None:
        self._value = value
        self._modules = [weakref.ref(module) for module in modules]

    def value_for(self, modules: Iterable[nn.Module]) -> T | None:
        """Returns the value if the modules are the same, else None."""
        modules = list(modules)
        same = len(modules) == len(self._modules) and all(
            ref() is module for ref, module in zip(self._modules, modules, strict=True)
        )
        return self._value if same else None
