"""Flattens the arguments ``x`` and ``intervention`` of a replacement into single dictionaries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from sparsedict.interventions import Intervention


@dataclass(frozen=True)
class Entry:
    """One dictionary of the argument ``x``, with its intervention and the sites in its key."""

    key: str
    argument: str
    x: Any
    sites: tuple[str, ...] | None
    intervention: Intervention | None


def entries(x: Any, intervention: Any, sites: Collection[str], root: str = "x") -> list[Entry]:
    """Returns the dictionaries of ``x``, each with its intervention.

    Args:
        x: A dictionary, or a mapping or list of dictionaries, as for `Sites.replaced`.
        intervention: The interventions, in the same form.
        sites: The names of the sites.
        root: Name of the argument ``x`` in error messages.

    Raises:
        TypeError: If the forms differ.
        ValueError: If ``intervention`` has a key that ``x`` lacks.
    """
    x = _plain(x)
    only = tuple(sites) if len(sites) == 1 else None
    if not isinstance(x, Mapping | list):
        return [Entry("", root, x, only, _callable("intervention", intervention))]
    keys: list[Any] = list(x) if isinstance(x, Mapping) else list(range(len(x)))
    found: list[Entry] = []
    for key, change in zip(keys, _by_key(intervention, keys, x), strict=True):
        value, name, argument = _plain(x[key]), _shown(key), f"{root}[{key!r}]"
        own = key if isinstance(key, tuple) else (key,)
        named = only if isinstance(x, list) else own if all(name in sites for name in own) else None
        if isinstance(value, list):
            changes = _by_key(change, list(range(len(value))), value)
            found += [
                Entry(
                    f"{name}[{index}]",
                    f"{argument}[{index}]",
                    one,
                    named,
                    _callable(f"intervention[{key!r}][{index}]", other),
                )
                for index, (one, other) in enumerate(zip(value, changes, strict=True))
            ]
        else:
            found.append(Entry(name, argument, value, named, _callable(f"intervention[{key!r}]", change)))
    return found


def _shown(key: Any) -> str:
    return ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _plain(x: Any) -> Any:
    """Converts tuples and ``ModuleList`` to lists, and ``ModuleDict`` to a dict."""
    if isinstance(x, nn.ModuleDict):
        return dict(x.items())
    return list(x) if isinstance(x, tuple | nn.ModuleList) and not hasattr(x, "encode") else x


def _by_key(intervention: Any, keys: Sequence[Any], x: Any) -> list[Any]:
    """Returns one intervention for each key of a mapping or index of a list."""
    intervention = _plain(intervention)
    if intervention is None:
        return [None] * len(keys)
    if isinstance(x, Mapping) and isinstance(intervention, Mapping):
        unknown = [key for key in intervention if key not in keys]
        if unknown:
            raise ValueError(f"The keys of `intervention` must be keys of `x`, {keys}, got {unknown[0]!r}.")
        return [intervention.get(key) for key in keys]
    if not isinstance(x, Mapping) and isinstance(intervention, list) and len(intervention) == len(keys):
        return intervention
    if len(keys) == 1 and callable(intervention):
        return [intervention]
    form = "a mapping with the keys of `x`" if isinstance(x, Mapping) else f"a list of {len(keys)} like `x`"
    raise TypeError(
        f"`intervention` must be {form}, with a function or None for each dictionary, got "
        f"{type(intervention).__name__}."
    )


def _callable(name: str, intervention: Any) -> Intervention | None:
    if intervention is not None and not callable(intervention):
        raise TypeError(f"`{name}` must be a function of dense latents, got {type(intervention).__name__}.")
    return cast("Intervention | None", intervention)
