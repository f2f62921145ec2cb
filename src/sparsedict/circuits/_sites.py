"""The sites of a circuit: the MLPs of one model."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from sparsedict import checks
from sparsedict.sites import Site, Sites
from sparsedict.sites.models import mlps

AnySites = nn.Module | Site | Sites | Mapping[str, Site]
"""A model, whose MLPs are searched; or the sites of its MLPs."""


def as_sites(sites: AnySites) -> Sites:
    """Returns sites of one model by name. A single site has the name ``"0"``.

    Raises:
        ValueError: If there are sites of several models, a site reads and writes the same point, or a model has no
            known MLPs.
    """
    if isinstance(sites, nn.Module):
        return find_sites(sites)
    if isinstance(sites, Site):
        sites = Sites({"0": sites})
    if not isinstance(sites, Mapping):
        raise TypeError(
            f"`sites` must be a model, a Site, or Sites such as `sd.Sites(model, {{name: path}})`, got {sites!r:.80}."
        )
    found = sites if isinstance(sites, Sites) else Sites(sites)
    if len(found.models) > 1:
        raise ValueError(f"`sites` must be sites of one model, got sites of {len(found.models)} models.")
    points = {}
    for name, site in found.items():
        if site.reads == site.writes:
            raise ValueError(
                f"The site {name!r} must read and write different points, which are an MLP's input and output, got "
                f"{site.reads} for both."
            )
        other = points.setdefault(site.writes, name)
        if other != name:
            raise ValueError(f"Each site must write its own point, but {other!r} and {name!r} write {site.writes}.")
    return found


def find_sites(model: nn.Module) -> Sites:
    """Returns the MLPs of all layers of a model. Names are the numbers of the layers.

    The first MLP is identified by its weights. The other MLPs have the same path except for the number of the layer.

    Raises:
        ValueError: If there are no such MLPs.
    """
    checks.instance("model", model, nn.Module, "a torch.nn.Module")
    forms = mlps(model, "", max_items=1)
    if not forms:
        raise ValueError(
            f"The MLPs of the {type(model).__name__} weren't found. Pass `sd.Sites(model, {{name: path}})` instead of "
            "the model."
        )
    if "=" not in forms[0]:
        paths = _layers(model, ast.literal_eval(forms[0]))
        return Sites(model, {name: path for name, (path,) in paths.items()})
    points = dict(re.findall(r"(reads|writes)='([^']*)'", forms[0]))
    (reads, first), (writes, second) = (points[role].rpartition(":")[::2] for role in ("reads", "writes"))
    return Sites(
        {
            name: Site(model, reads=f"{one}:{first}", writes=f"{other}:{second}")
            for name, (one, other) in _layers(model, reads, writes).items()
        }
    )


def _layers(model: nn.Module, *given: str) -> dict[str, tuple[str, ...]]:
    """Returns the tuples of paths that differ from given paths in the number of the layer only, by this number.

    If the paths contain several numbers, that of the layer is the one with the most modules of the same kind. Of
    several such numbers, it is the first one.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    kinds = [_kind(modules[path]) for path in given]
    best, found = 0, {"0": given}
    for match in re.finditer(r"(?:^|(?<=\.))\d+(?=\.|$)", given[0]):
        begin, end = match.span()
        before = given[0][:begin]
        if not all(path[:end] == given[0][:end] for path in given):
            continue
        numbers = {own[1] for path in modules if (own := re.match(re.escape(before) + r"(\d+)(?:\.|$)", path))}
        paths = {number: tuple(f"{before}{number}{path[end:]}" for path in given) for number in numbers}
        present = {number: own for number, own in paths.items() if all(path in modules for path in own)}
        alike = {number: own for number, own in present.items() if [_kind(modules[path]) for path in own] == kinds}
        if len(alike) > best:
            # A name after the number tells an MLP of another kind, such as one with experts, from other modules.
            best, found = len(alike), alike if end == len(given[0]) else present
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def _kind(module: nn.Module) -> Any:
    return type(module), [name for name, _ in module.named_parameters()]
