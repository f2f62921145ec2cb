"""`Ends`: the two points of a site in its model, and the positions that it leaves out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn

from sparsedict.sites._calls import n_places
from sparsedict.sites._context import Exclusion
from sparsedict.sites._points import Point


class KnownCalls:
    """The modules that a forward pass of a model was seen to call once."""

    def __init__(self) -> None:
        self._called_once: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    def is_known(self, model: nn.Module, point: Point) -> bool:
        """Returns whether it is known which call a point means: the point says it, or the model makes one call only."""
        if point.call is not None:
            return True
        n = self._called_once.get(point.module)
        return n is not None and n == n_places(model, point.module)

    def record(self, model: nn.Module, points: Iterable[Point]) -> None:
        """Remembers that a forward pass of the model calls the modules of these points once."""
        self._called_once.update({point.module: n_places(model, point.module) for point in points})


@dataclass(frozen=True)
class Ends:
    """The points of a site at one time: a module that is exchanged later has other points.

    Attributes:
        model: The model.
        reads: The point where the MLP takes its input.
        writes: The point where its output is.
        name: The name of the site, for messages.
        exclusion: The positions that are left out.
        calls: What is known of the modules' calls; the ends of one site share it.
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
