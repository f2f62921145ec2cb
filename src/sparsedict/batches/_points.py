"""Names of points: the places in a model whose activations a batch contains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ROLES = ("inputs", "outputs", "neurons")
"""The points of one site, which are the MLP's input, its output and its hidden activations."""

UNNAMED = "activations"
"""Point of a tensor without a name. It matches any point that a dictionary names."""

Points = str | tuple[str, ...]
"""The name of a point, or several names, whose activations are concatenated."""


class MissingPointError(KeyError, ValueError):
    """A batch or a data source lacks a point. The message lists the points it has."""

    def __str__(self) -> str:
        return str(self.args[0])


def names_of(points: Points) -> tuple[str, ...]:
    """Returns names of points as a tuple."""
    return (points,) if isinstance(points, str) else tuple(points)


def point_name(site: str | None, point: str) -> str:
    """Returns the full name of a site's point, such as ``"0.inputs"``."""
    return f"{site}.{point}" if site else point


def sites_of(points: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of the sites in the full names of points, in order of appearance."""
    return tuple(dict.fromkeys(point.rpartition(".")[0] for point in points if "." in point))


def aliases(points: Iterable[str], site: str | tuple[str, ...] | None) -> dict[str, tuple[str, ...]]:
    """Returns a mapping from each valid name to the points that it stands for.

    Args:
        points: Names of all points.
        site: Site whose points can also be named without the site's name. The points of several sites are
            concatenated. ``None`` stands for the only site, if there is a single one.

    Raises:
        ValueError: If there is no such site.
    """
    known: dict[str, tuple[str, ...]] = {point: (point,) for point in points}
    there = sites_of(known)
    if site is None:
        if len(there) != 1:
            return known
        site = there
    names = names_of(site)
    for name in names:
        if name not in there:
            raise ValueError(f"`site` must be one of the data's sites {list(there)}, got {name!r}.")
    own = [point.rpartition(".")[2] for point in known if point.rpartition(".")[0] == names[0]]
    for point in own:
        parts = tuple(point_name(name, point) for name in names)
        if all(part in known for part in parts):
            known.setdefault(point, parts)
    return known


def lookup(point: str, known: Mapping[str, Any]) -> str:
    """Returns the key of a point in a mapping: its own name, or the key of a tensor without a name.

    Raises:
        MissingPointError: If the mapping has neither.
    """
    if point in known:
        return point
    if UNNAMED in known and point in ROLES:
        return UNNAMED
    raise missing_point(point, known)


def missing_point(point: str, known: Iterable[str]) -> MissingPointError:
    """Returns the error for a missing point."""
    remedy = " Capture them with `neurons=True`." if point.rpartition(".")[2] == "neurons" else ""
    names = ", ".join(map(repr, known))
    return MissingPointError(f"The activations must have a point {point!r}, but their points are {names}.{remedy}")
