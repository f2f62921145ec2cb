"""Dictionaries in a running model: the points where each reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from sparsedict.adapters import Adapter
from sparsedict.interventions import Intervention
from sparsedict.sites._context import Exclusion
from sparsedict.sites._points import Point
from sparsedict.sites._resolve import ReplacementArguments, ResolvedDictionary, named_sites, resolve, site_of


@dataclass(frozen=True)
class SitePoint:
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


SitePoints = Mapping[str, Callable[[str], SitePoint]]
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


def arrange(site_points: SitePoints, arguments: ReplacementArguments) -> tuple[list[Part], list[Target]]:
    """Returns the dictionaries of a replacement with their points, and the points that are replaced.

    Raises:
        TypeError: If an object can't encode and decode, or an intervention isn't callable.
        ValueError: If the points of a dictionary aren't known, aren't there, or belong to several models.
    """
    only = named_sites("only", arguments.only, site_points)
    with_error = arguments.error_term
    if isinstance(with_error, bool):
        with_error = tuple(site_points) if with_error else ()
    keeps = named_sites("error_term", with_error, site_points)
    parts: list[Part] = []
    targets: dict[Point, Target] = {}
    for placed in resolve(site_points, arguments):
        replaced = [point for point in placed.writes if site_of(point) in only]
        if not replaced:
            continue
        part, ends = _part(site_points, placed)
        parts.append(part)
        for name in replaced:
            _add(targets, ends[name], site_of(name) in keeps)
    if not parts:
        raise ValueError("`x` must hold at least one dictionary that writes at one of the sites, got none.")
    return parts, list(targets.values())


def _add(targets: dict[Point, Target], end: SitePoint, error_term: bool) -> None:
    """Adds a point that is replaced; several sites may have it."""
    other = targets.get(end.point)
    if other is not None and other.exclusion != end.exclusion:
        raise ValueError(
            f"Sites that replace `{end.point}` must leave out the same positions, got {other.exclusion} and "
            f"{end.exclusion}."
        )
    error_term = error_term or (other is not None and other.error_term)
    targets[end.point] = Target(end.model, end.point, end.exclusion, error_term)


def _part(site_points: SitePoints, placed: ResolvedDictionary) -> tuple[Part, dict[str, SitePoint]]:
    """Returns a dictionary at its points in the model, and the points that it writes, by name."""
    sources, ends = ({name: _site_point(site_points, name) for name in own} for own in (placed.reads, placed.writes))
    models = {id(own.model): own.model for own in (*sources.values(), *ends.values())}
    argument, adapter = placed.adapter.argument, placed.adapter
    if len(models) > 1:
        raise ValueError(
            f"`{argument}` must read and write in one model to be put in its place, got points of {len(models)} "
            f"models: {', '.join(map(repr, (*placed.reads, *placed.writes)))}."
        )
    widths = tuple(end.width() for end in ends.values()) if len(ends) > 1 else None
    if widths is not None and adapter.d_out is not None and adapter.d_out != sum(widths):
        raise ValueError(
            f"`{argument}.d_out` must be {sum(widths)}, the sum of the widths {list(widths)} of "
            f"{', '.join(map(repr, placed.writes))}, got {adapter.d_out}."
        )
    reads, writes = (tuple(own.point for own in found.values()) for found in (sources, ends))
    return Part(next(iter(models.values())), adapter, reads, writes, widths, placed.intervention), ends


def _site_point(site_points: SitePoints, name: str) -> SitePoint:
    site, _, role = name.rpartition(".")
    return site_points[site](role)
