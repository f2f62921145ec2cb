"""Dictionaries in a running model: the points where each reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsedict.adapters import Adapter, names_of
from sparsedict.batches import ROLES, Points, point_name
from sparsedict.interventions import Intervention
from sparsedict.sites._context import Exclusion
from sparsedict.sites._entries import entries
from sparsedict.sites._points import Point
from sparsedict.sites._split import split_sources


@dataclass(frozen=True)
class Place:
    """Activations of one role at one site.

    Attributes:
        model: The model.
        point: Where the activations are in the model.
        exclusion: The positions that are never replaced.
        width: Returns the width of the activations.
    """

    model: nn.Module
    point: Point
    exclusion: Exclusion
    width: Callable[[], int]


Places = Mapping[str, Callable[[str], Place]]
"""By the name of a site, a function from a role to its place. The only site of `Site.replaced` has an empty name."""


@dataclass(frozen=True, eq=False)
class Part:
    """A dictionary in a running model.

    Attributes:
        model: The model.
        adapter: The dictionary.
        reads: The points whose activations it takes, side by side.
        writes: The points that it contributes to, in the order of its output's columns.
        widths: Width of each of ``writes``; ``None`` for a single one, whose width the model shows.
        intervention: The change of its latents.
    """

    model: nn.Module
    adapter: Adapter
    reads: tuple[Point, ...]
    writes: tuple[Point, ...]
    widths: tuple[int, ...] | None
    intervention: Intervention | None


@dataclass(frozen=True)
class Target:
    """A point where activations are replaced.

    Attributes:
        model: The model.
        point: The point.
        exclusion: The positions that pass through unchanged.
        error_term: Whether to add the part of the original that the reconstruction misses.
    """

    model: nn.Module
    point: Point
    exclusion: Exclusion
    error_term: bool


@dataclass(frozen=True)
class Request:
    """The arguments of `Site.replaced` and `Sites.replaced`."""

    x: Any
    intervention: Any = None
    error_term: bool | Collection[str] = False
    only: Collection[str] | None = None
    reads: Points | None = None
    writes: Points | None = None


def arrange(places: Places, request: Request) -> tuple[list[Part], list[Target]]:
    """Returns the dictionaries of a replacement with their points, and the points that are replaced.

    Raises:
        TypeError: If an object can't encode and decode, or an intervention isn't callable.
        ValueError: If the points of a dictionary aren't known, aren't there, or belong to several models.
    """
    names = _Names(places)
    only = names.sites("only", tuple(places) if request.only is None else request.only)
    with_error = request.error_term
    keeps = names.sites(
        "error_term", (tuple(places) if with_error else ()) if isinstance(with_error, bool) else with_error
    )
    parts: list[Part] = []
    targets: dict[Point, Target] = {}
    for entry in entries(request.x, request.intervention, places):
        adapter = Adapter(entry.x, request.reads, request.writes, argument=entry.label)
        adapter.require("decode")
        for source, intervention in split_sources(adapter, entry.intervention):
            reads, writes = (names.resolve(source, points, entry.sites) for points in source.points)
            found = [target for site, role in writes if site in only for target in [_target(names, site, role, keeps)]]
            if found:
                parts.append(_part(names, source, reads, writes, intervention))
            for target in found:
                other = targets.setdefault(target.point, target)
                if other.exclusion != target.exclusion:
                    raise ValueError(
                        f"Sites that replace `{target.point}` must leave out the same positions, got {other.exclusion} "
                        f"and {target.exclusion}."
                    )
                if target.error_term:
                    targets[target.point] = target
    if not parts:
        raise ValueError("`x` must hold at least one dictionary that writes at one of the sites, got none.")
    return parts, list(targets.values())


def _part(
    names: _Names,
    adapter: Adapter,
    reads: Sequence[tuple[str, str]],
    writes: Sequence[tuple[str, str]],
    intervention: Intervention | None,
) -> Part:
    sources, ends = ([names.place(site, role) for site, role in points] for points in (reads, writes))
    models = {id(place.model): place.model for place in (*sources, *ends)}
    if len(models) > 1:
        raise ValueError(
            f"`{adapter.argument}` must read and write in one model to be put in its place, got points of "
            f"{len(models)} models: {', '.join(names.shown((*reads, *writes)))}."
        )
    widths = tuple(place.width() for place in ends) if len(ends) > 1 else None
    if widths is not None and adapter.d_out is not None and adapter.d_out != sum(widths):
        raise ValueError(
            f"`{adapter.argument}.d_out` must be {sum(widths)}, the sum of the widths {list(widths)} of "
            f"{', '.join(names.shown(writes))}, got {adapter.d_out}."
        )
    reads_at, writes_at = (tuple(place.point for place in own) for own in (sources, ends))
    return Part(next(iter(models.values())), adapter, reads_at, writes_at, widths, intervention)


def _target(names: _Names, site: str, role: str, keeps: frozenset[str]) -> Target:
    place = names.place(site, role)
    return Target(place.model, place.point, place.exclusion, site in keeps)


class _Names:
    """The points of some sites, by their names."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._found: dict[tuple[str, str], Place] = {}

    def place(self, site: str, role: str) -> Place:
        """Returns the place of a role."""
        if (site, role) not in self._found:
            self._found[site, role] = self._places[site](role)
        return self._found[site, role]

    def sites(self, argument: str, given: Collection[str]) -> frozenset[str]:
        """Returns names of sites after checking them."""
        chosen = [given] if isinstance(given, str) else list(given)
        for name in chosen:
            if name not in self._places:
                raise ValueError(f"`{argument}` must name sites, {self._all_sites()}, got {name!r}.")
        return frozenset(chosen)

    def _all_sites(self) -> str:
        return f"any of {', '.join(map(repr, self._places))}" if any(self._places) else "and there is a single one"

    def shown(self, points: Sequence[tuple[str, str]]) -> list[str]:
        """Returns the full names of points, in quotes."""
        return [repr(point_name(site, role)) for site, role in points]

    def resolve(self, adapter: Adapter, points: Points, sites: tuple[str, ...] | None) -> list[tuple[str, str]]:
        """Returns site and role of each point.

        Args:
            adapter: The dictionary that names them.
            points: Names such as ``"inputs"`` or ``"0.inputs"``.
            sites: The sites that a name without a site stands for; ``None`` if no site was named.
        """
        found: list[tuple[str, str]] = []
        for name in names_of(points):
            site, _, role = name.rpartition(".")
            if role == name:
                if sites is None:
                    raise ValueError(
                        f"`{adapter.argument}` names {name!r} without a site. Give a mapping whose keys are names of "
                        f"sites, {self._all_sites()}."
                    )
                found += [(own, role) for own in sites]
            else:
                found.append((site, role))
        for site, role in found:
            if site not in self._places or role not in ROLES:
                known = [repr(point_name(own, other)) for own in self._places for other in ROLES]
                raise ValueError(
                    f"`{adapter.argument}` needs the point {point_name(site, role)!r}, but the points here are "
                    f"{', '.join(known)}."
                )
        if len(set(found)) < len(found):
            raise ValueError(f"`{adapter.argument}` must name each point once, got {points!r}.")
        return found
