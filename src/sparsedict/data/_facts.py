"""Where activations come from, in words that fit into a file."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsedict.sites import Site


def site_facts(site: Site) -> dict[str, str]:
    """Returns the names of a site's model and of its place in it."""
    return {"model": model_name(site.model), "site": site.name}


def model_name(model: nn.Module) -> str:
    """Returns the name under which a model is known: where it was loaded from, else its class."""
    for holder, attribute in (("config", "name_or_path"), ("cfg", "model_name")):
        name: Any = getattr(getattr(model, holder, None), attribute, None)
        if isinstance(name, str) and name:
            return name
    return type(model).__name__
