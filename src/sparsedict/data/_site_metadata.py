"""Metadata of sites for files: names of the model, its architecture and the site."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsedict.sites import Site


def site_metadata(site: Site) -> dict[str, str]:
    """Returns the name, class and architecture of a site's model, and the name of the site."""
    model = site.model
    metadata = {"model": model_name(model), "model_class": type(model).__name__, "site": site.name}
    family = getattr(getattr(model, "config", None), "model_type", None)
    return metadata | ({"architecture": family} if isinstance(family, str) and family else {})


def model_name(model: nn.Module) -> str:
    """Returns the name that a model was loaded by, or else its class."""
    for holder, attribute in (("config", "name_or_path"), ("cfg", "model_name")):
        name: Any = getattr(getattr(model, holder, None), attribute, None)
        if isinstance(name, str) and name:
            return name
    return type(model).__name__
