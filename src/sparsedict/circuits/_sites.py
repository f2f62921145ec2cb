"""The sites of a circuit: the MLPs of one model."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

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
        return Sites(model, paths)
    points = dict(re.findall(r"(reads|writes)='([^']*)'", forms[0]))
    reads, writes = (
        {name: f"{path}:{side}" for name, path in _layers(model, points[role].rpartition(":")[0]).items()}
        for role, side in (("reads", "in"), ("writes", "out"))
    )
    return Sites({name: Site(model, reads=reads[name], writes=writes[name]) for name in reads if name in writes})


def _layers(model: nn.Module, path: str) -> dict[str, str]:
    """Returns the paths that differ from a path only in the number of the layer, by this number."""
    number = re.search(r"(?:^|(?<=\.))\d+(?=\.|$)", path)
    if number is None:
        return {"0": path}
    before, after = path[: number.start()], path[number.end() :]
    form = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    found = {match.group(1): name for name in names if (match := form.fullmatch(name)) is not None}
    return dict(sorted(found.items(), key=lambda item: int(item[0])))
