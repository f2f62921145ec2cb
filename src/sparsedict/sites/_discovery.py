"""The neurons and widths of a site, which are found in its modules and cached until a module is replaced."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import Generic, TypeVar

from torch import nn

from sparsedict.sites._ends import Ends
from sparsedict.sites._find import find_neurons, holder_paths, probe, reading
from sparsedict.sites._neuron_errors import neurons_error
from sparsedict.sites._points import Point, resolve_module
from sparsedict.sites.families import Candidate

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


class Discovery:
    """Finds the neurons and the widths of a site. The methods receive its current ends."""

    def __init__(self) -> None:
        self._reading: ModuleCache[int] | None = None
        self._widths: ModuleCache[tuple[int, int]] | None = None

    def mlp(self, ends: Ends) -> Candidate:
        """Returns the MLP that reproduces the site's output.

        Raises:
            ValueError: If there is none.
        """
        # Only the index of the reading is cached, since the weights may be moved or trained later.
        modules = list(holder(ends).modules())
        index = None if self._reading is None else self._reading.value_for(modules)
        if index is None:
            index, n_tried = find_neurons(ends)
            if index is None:
                raise ValueError(neurons_error(ends, n_tried))
            self._reading = ModuleCache(index, modules)
        return reading(ends, index)[0]

    def hidden(self, ends: Ends) -> Point | None:
        """Returns the point of the neurons' activations, or ``None`` if the model has no such point."""
        point = self.mlp(ends).hidden
        if point is None:
            return None
        path = next((name for name, module in ends.model.named_modules() if module is point.module), point.path)
        return replace(point, path=path, call=ends.reads.call)

    def widths(self, ends: Ends) -> tuple[int, int] | None:
        """Returns the widths of input and output, from the cache or a forward pass; ``None`` if no pass is possible."""
        found = None if self._widths is None else self._widths.value_for(ends.modules)
        if found is None:
            pair = probe(ends)
            found = None if pair is None else (pair[0].shape[-1], pair[1].shape[-1])
        if found is not None:
            self.record_widths(ends, *found)
        return found

    def record_widths(self, ends: Ends, d_in: int, d_out: int) -> None:
        """Records widths that a forward pass showed."""
        self._widths = ModuleCache((d_in, d_out), ends.modules)


def holder(ends: Ends) -> nn.Module:
    """Returns the innermost module that contains both points."""
    path = holder_paths(ends)[0]
    return resolve_module(ends.model, path) if path else ends.model
