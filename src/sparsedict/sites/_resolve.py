"""Resolves the names of the points that dictionaries read and write."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sparsedict.adapters import Adapter
from sparsedict.batches import ROLES, Points, names_of, point_name
from sparsedict.interventions import Intervention
from sparsedict.sites._entries import entries
from sparsedict.sites._split import split_sources


@dataclass(frozen=True, eq=False)
class ResolvedDictionary:
    """A dictionary with the full names of its points.

    Attributes:
        key: Its key in the mapping or list of dictionaries.
        adapter: The dictionary.
        reads: Full names of the points that it reads, such as ``"0.inputs"``.
        writes: Full names of the points that it writes.
        intervention: The intervention on its latents.
        first_latent: Index of its first latent in the dictionary of the key; None if it is unknown. It isn't 0 for a
            part of a dictionary of several layers.
    """

    key: str
    adapter: Adapter
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    intervention: Intervention | None
    first_latent: int | None = 0


@dataclass(frozen=True)
class ReplacementArguments:
    """The arguments of `Site.replaced` and `Sites.replaced`."""

    x: Any
    intervention: Any = None
    error_term: bool | Collection[str] = False
    only: Collection[str] | None = None
    reads: Points | None = None
    writes: Points | None = None


def resolve(sites: Collection[str], arguments: ReplacementArguments, argument: str = "x") -> list[ResolvedDictionary]:
    """Returns the dictionaries of a replacement.

    A dictionary with ``split_sources()`` becomes several dictionaries with the same key.

    Args:
        sites: The names of the sites.
        arguments: The dictionaries and their interventions.
        argument: Name of the argument ``x`` in error messages.

    Raises:
        TypeError: If an object can't encode and decode, or an intervention isn't callable.
        ValueError: If the points of a dictionary are unknown or missing.
    """
    found: list[ResolvedDictionary] = []
    for entry in entries(arguments.x, arguments.intervention, sites, argument):
        adapter = Adapter(entry.x, arguments.reads, arguments.writes, argument=entry.argument)
        adapter.require("decode")
        for own in adapter.points:
            _full_names(adapter, own, entry.sites, sites)
        first: int | None = 0
        for source, change in split_sources(adapter, entry.intervention):
            reads, writes = (_full_names(source, own, entry.sites, sites) for own in source.points)
            found.append(ResolvedDictionary(entry.key, source, reads, writes, change, first))
            first = None if first is None or source.n_latents is None else first + source.n_latents
    return found


def named_sites(argument: str, given: Collection[str] | None, sites: Collection[str]) -> frozenset[str]:
    """Checks names of sites, and returns them as a set. The default is all sites."""
    chosen = sites if given is None else [given] if isinstance(given, str) else given
    for name in chosen:
        if name not in sites:
            raise ValueError(f"`{argument}` must name sites, {_any_of(sites)}, got {name!r}.")
    return frozenset(chosen)


def site_of(point: str) -> str:
    """Returns the name of the site in the full name of a point."""
    return point.rpartition(".")[0]


def _any_of(sites: Collection[str]) -> str:
    return f"any of {', '.join(map(repr, sites))}" if any(sites) else "of which there is a single one without a name"


def _full_names(
    adapter: Adapter, points: Points, named: tuple[str, ...] | None, sites: Collection[str]
) -> tuple[str, ...]:
    """Returns the full names of points.

    Args:
        adapter: The dictionary.
        points: Names such as ``"inputs"`` or ``"0.inputs"``.
        named: The sites for names without a site; ``None`` if the key names no site.
        sites: All sites.
    """
    found: list[str] = []
    for name in names_of(points):
        if name not in ROLES:
            found.append(name)
        elif named is not None:
            found += [point_name(site, name) for site in named]
        else:
            raise ValueError(
                f"`{adapter.argument}` names the point {name!r} without a site. Pass a mapping with names of sites as "
                f"keys, {_any_of(sites)}."
            )
    known = [point_name(site, role) for site in sites for role in ROLES]
    for name in found:
        if name not in known:
            raise ValueError(
                f"`{adapter.argument}` needs the point {name!r}, but the available points are "
                f"{', '.join(map(repr, known))}."
            )
    if len(set(found)) < len(found):
        raise ValueError(f"`{adapter.argument}` must name each point once, got {points!r}.")
    return tuple(found)
