"""The sites of a model that studies use: the MLP of each layer, and the residual stream after each layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sparsedict.sites import Site


def mlp(layer: int) -> str:
    """Returns the name of the site of an MLP."""
    return f"mlp {layer}"


def residual(layer: int) -> str:
    """Returns the name of the site of the residual stream after a layer."""
    return f"residual {layer}"


def sites_of(model: nn.Module, path: str, exclude_tokens: Sequence[int] = ()) -> dict[str, Site]:
    """Returns the sites of all layers by name.

    Args:
        model: The model.
        path: Path of the MLP in each layer, with ``{}`` for the number of the layer.
        exclude_tokens: Ids whose positions are excluded.

    Raises:
        ValueError: If the path has no ``{}``, or there is no such module in layer 0.
    """
    if "{}" not in path or "." not in path:
        raise ValueError(
            f"`path` must have {{}} for the number of the layer, such as model.layers.{{}}.mlp, got {path!r}."
        )
    modules = dict(model.named_modules())
    layers = [n for n in range(len(modules)) if path.format(n) in modules]
    if not layers:
        raise ValueError(f"`path` must be the path of a module, but the model has no {path.format(0)!r}.")
    sites = {mlp(n): Site(model, path.format(n), exclude_tokens=exclude_tokens) for n in layers}
    for n in layers:
        point = f"{path.format(n).rpartition('.')[0]}:out"
        sites[residual(n)] = Site(model, reads=point, writes=point, exclude_tokens=exclude_tokens)
    return sites
