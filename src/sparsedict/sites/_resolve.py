"""Dictionaries with the names of the points that they read and write."""

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
    """A dictionary among several sites.

    Attributes:
        key: Its key in the mapping or list of dictionaries.
        adapter: The dictionary.
        reads: Full names of the points that it reads, such as ``"0.inputs"``.
        writes: Full names of the points that it writes.
        intervention: The change of its latents.
    """

    key: str
    adapter: Adapter
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    intervention: Intervention | None


@dataclass(frozen=True)
class ReplacementArguments:
    """The arguments of `Site.replaced` and `Sites.replaced`."""

    x: Any
    intervention: Any = None
    error_term: bool | Collection[str] = False
    only: Collection[str] | None = None
    reads: Points | None = None
    writes: Points | None = None


def resolve(sites: Collection[str], arguments: ReplacementArguments) -> list[ResolvedDictionary]:
    """Returns the dictionaries of the arguments. One that can be split by what it reads is several, with one key.

    Args:
        sites: The names of the sites.
        arguments: The dictionaries and their interventions.

    Raises:
        TypeError: If an object can't encode and decode, or an intervention isn't callable.
        ValueError: If the points of a dictionary aren't known, or aren't there.
    """
    placed: list[ResolvedDictionary] = []
    for entry in entries(arguments.x, arguments.intervention, sites):
        adapter = Adapter(entry.x, arguments.reads, arguments.writes, argument=entry.argument)
        adapter.require("decode")
        for source, change in split_sources(adapter, entry.intervention):
            reads, writes = (_full_names(source, own, entry.sites, sites) for own in source.points)
            placed.append(ResolvedDictionary(entry.key, source, reads, writes, change))
    return placed


def named_sites(argument: str, given: Collection[str] | None, sites: Collection[str]) -> frozenset[str]:
    """Returns names of sites after checking them; by default all."""
    chosen = sites if given is None else [given] if isinstance(given, str) else given
    for name in chosen:
        if name not in sites:
            raise ValueError(f"`{argument}` must name sites, {_any_of(sites)}, got {name!r}.")
    return frozenset(chosen)


def site_of(point: str) -> str:
    """Returns the site's name in the full name of a point."""
    return point.rpartition(".")[0]


def _any_of(sites: Collection[str]) -> str:
    return f"any of {', '.join(map(repr, sites))}" if any(sites) else "and there is a single one"


def _full_names(
    adapter: Adapter, points: Points, named: tuple[str, ...] | None, sites: Collection[str]
) -> tuple[str, ...]:
    """Returns the full names of points.

    Args:
        adapter: The dictionary that names them.
        points: Names such as ``"inputs"`` or ``"0.inputs"``.
        named: The sites that a name without a site stands for; ``None`` if no site was named.
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
                f"`{adapter.argument}` names {name!r} without a site. Give a mapping whose keys are names of sites, "
                f"{_any_of(sites)}."
            )
    known = [point_name(site, role) for site in sites for role in ROLES]
    for name in found:
        if name not in known:
            raise ValueError(
                f"`{adapter.argument}` needs the point {name!r}, but the points here are {', '.join(map(repr, known))}."
            )
    if len(set(found)) < len(found):
        raise ValueError(f"`{adapter.argument}` must name each point once, got {points!r}.")
    return tuple(found)
