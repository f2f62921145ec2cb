"""Assigns dictionaries to the points of a model that they read and replace."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import nn

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.interventions import Intervention
from sparsedict.sites._context import Exclusion
from sparsedict.sites._points import Point
from sparsedict.sites._resolve import ReplacementArguments, ResolvedDictionary, named_sites, resolve, site_of


@dataclass(frozen=True)
class SitePoint:
    """The point of one role at one site.

    Attributes:
        model: The model.
        point: The point in the model.
        exclusion: The positions that are never replaced.
        width: Function that returns the width of the activations.
    """

    model: nn.Module
    point: Point
    exclusion: Exclusion
    width: Callable[[], int]


SitePoints = Mapping[str, Callable[[str], SitePoint]]
"""A function from a role to its point, by name of the site. The only site of `Site.replaced` has an empty name."""


@dataclass(frozen=True, eq=False)
class Part:
    """A dictionary in a running model.

    Attributes:
        model: The model.
        adapter: The dictionary.
        reads: The points whose concatenated activations it takes.
        writes: The points that it contributes to, in the order of its output's columns.
        widths: Width of each point in ``writes``; ``None`` for a single point, whose width is that of the model.
        intervention: The intervention on its latents.
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
        error_term: Whether to add the reconstruction error, the original minus the reconstruction.
    """

    model: nn.Module
    point: Point
    exclusion: Exclusion
    error_term: bool


def arrange(site_points: SitePoints, arguments: ReplacementArguments) -> tuple[list[Part], list[Target]]:
    """Returns the dictionaries of a replacement with their points, and the points that are replaced.

    Raises:
        TypeError: If an object can't encode and decode, or an intervention isn't callable.
        ValueError: If the points of a dictionary are unknown, missing, or in several models.
    """
    only = named_sites("only", arguments.only, site_points)
    error_sites = arguments.error_term
    if not isinstance(error_sites, Collection):
        error_sites = tuple(site_points) if checks.boolean("error_term", error_sites) else ()
    with_error = named_sites("error_term", error_sites, site_points)
    parts: list[Part] = []
    targets: dict[Point, Target] = {}
    for dictionary in resolve(site_points, arguments):
        replaced = [point for point in dictionary.writes if site_of(point) in only]
        if not replaced:
            continue
        part, ends = _part(site_points, dictionary)
        parts.append(part)
        for name in replaced:
            _add(targets, ends[name], site_of(name) in with_error)
    if not parts:
        raise ValueError("`x` must contain at least one dictionary that writes to a replaced site, got none.")
    return parts, list(targets.values())


def _add(targets: dict[Point, Target], end: SitePoint, error_term: bool) -> None:
    """Adds a target. Several sites may share a point."""
    other = targets.get(end.point)
    if other is not None and other.exclusion != end.exclusion:
        raise ValueError(
            f"Sites that share the point `{end.point}` must exclude the same positions, got {other.exclusion} and "
            f"{end.exclusion}."
        )
    error_term = error_term or (other is not None and other.error_term)
    targets[end.point] = Target(end.model, end.point, end.exclusion, error_term)


def _part(site_points: SitePoints, dictionary: ResolvedDictionary) -> tuple[Part, dict[str, SitePoint]]:
    """Returns a dictionary with its points in the model, and the points that it writes by name."""
    sources, ends = (
        {name: _site_point(site_points, name) for name in own} for own in (dictionary.reads, dictionary.writes)
    )
    models = {id(own.model): own.model for own in (*sources.values(), *ends.values())}
    argument, adapter = dictionary.adapter.argument, dictionary.adapter
    if len(models) > 1:
        raise ValueError(
            f"`{argument}` must read and write points of one model, got points of {len(models)} "
            f"models: {', '.join(map(repr, dict.fromkeys((*dictionary.reads, *dictionary.writes))))}."
        )
    widths = tuple(end.width() for end in ends.values()) if len(ends) > 1 else None
    if widths is not None and adapter.d_out is not None and adapter.d_out != sum(widths):
        raise ValueError(
            f"`{argument}.d_out` must be {sum(widths)}, the sum of the widths {list(widths)} of "
            f"{', '.join(map(repr, dictionary.writes))}, got {adapter.d_out}."
        )
    reads, writes = (tuple(own.point for own in found.values()) for found in (sources, ends))
    return Part(next(iter(models.values())), adapter, reads, writes, widths, dictionary.intervention), ends


def _site_point(site_points: SitePoints, name: str) -> SitePoint:
    site, _, role = name.rpartition(".")
    return site_points[site](role)
