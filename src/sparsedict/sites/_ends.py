"""The two points of a site in its model, and the positions that the site excludes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn

from sparsedict.sites._calls import n_occurrences
from sparsedict.sites._context import Exclusion
from sparsedict.sites._points import Point


class KnownCalls:
    """Modules that a forward pass of the model is known to call exactly once."""

    def __init__(self) -> None:
        self._called_once: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    def is_known(self, model: nn.Module, point: Point) -> bool:
        """Returns whether a point selects a unique call: by its ``call``, or because the module is called once."""
        if point.call is not None:
            return True
        n = self._called_once.get(point.module)
        return n is not None and n == n_occurrences(model, point.module)

    def record(self, model: nn.Module, points: Iterable[Point]) -> None:
        """Records that a forward pass of the model calls the modules of these points once."""
        self._called_once.update({point.module: n_occurrences(model, point.module) for point in points})


@dataclass(frozen=True)
class Ends:
    """The resolved points of a site. Replacing a module in the model invalidates them.

    Attributes:
        model: The model.
        reads: The point of the MLP's input.
        writes: The point of the MLP's output.
        name: The name of the site, for messages.
        exclusion: The positions to exclude.
        calls: Modules that are known to be called once; shared by all ends of a site.
    """

    model: nn.Module
    reads: Point
    writes: Point
    name: str
    exclusion: Exclusion = field(default_factory=Exclusion)
    calls: KnownCalls = field(default_factory=KnownCalls, compare=False, repr=False)

    @property
    def points(self) -> tuple[Point, Point]:
        """Both points."""
        return self.reads, self.writes

    @property
    def modules(self) -> list[nn.Module]:
        """The modules of both points."""
        return [point.module for point in self.points]
