"""Conversion of activations in memory to `Activations`: tensors, tuples of inputs and outputs, and dicts by site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from sparsedict import checks
from sparsedict.batches import ROLES, UNNAMED, Activations, identity


def as_one_batch(data: Any) -> Activations | None:
    """Returns all data as one batch, or None for an iterable of batches."""
    if not isinstance(data, Mapping | Tensor | np.ndarray | tuple):
        return None
    if isinstance(data, Mapping) and not data:
        raise ValueError("`data` must name at least one site, got an empty mapping.")
    held = as_batch("data", data)
    if not held.n_tokens:
        first = next(iter(held.values()))
        raise ValueError(f"`data` must contain at least one token, got none: shape {tuple(first.shape)}.")
    for name, part in _distinct(held).items():
        label = "data" if name == UNNAMED else f"data[{name!r}]"
        checks.finite(label, part, "Find their origin before training on the other entries.")
    return held


def as_batch(name: str, value: Any) -> Activations:
    """Returns a batch of any form as `Activations`."""
    if isinstance(value, Activations):
        return value.batch().detach()
    if not isinstance(value, Mapping):
        return _of_one_site(name, value)
    by_site: dict[str, Activations] = {}
    points: dict[str, Tensor] = {}
    for key, own in value.items():
        label = f"{name}[{key!r}]"
        if str(key).rpartition(".")[2] in ROLES and isinstance(own, Tensor | np.ndarray):
            points[str(key)] = _activations(label, own)
        else:
            by_site[str(key)] = _of_one_site(label, own)
    lengths = sorted({len(part) for part in points.values()} | {own.n_tokens for own in by_site.values()})
    if len(lengths) > 1:
        raise ValueError(f"`{name}` must have the same number of tokens for all sites, got {lengths}.")
    if not by_site:
        return Activations(points)
    joined = Activations.from_sites(by_site)
    return Activations({**points, **joined}, tokens=joined.tokens, positions=joined.positions)


def _of_one_site(name: str, value: Any) -> Activations:
    if isinstance(value, Activations):
        return value.batch().detach()
    parts = list(value) if isinstance(value, tuple | list) else [value]
    if len(parts) not in (1, 2) or not all(isinstance(part, Tensor | np.ndarray) for part in parts):
        raise TypeError(
            f"`{name}` must be Activations, a tensor [n_tokens, d] or a tuple of two (inputs, outputs), "
            f"got {_kind(value)}.{_remedy(name, value)}"
        )
    tensors = [_activations(name, part) for part in parts]
    if len(tensors) == 1:
        return Activations({UNNAMED: tensors[0]})
    if len(tensors[0]) != len(tensors[1]):
        raise ValueError(f"`{name}` must have as many inputs as outputs, got {len(tensors[0])} and {len(tensors[1])}.")
    return Activations({"inputs": tensors[0], "outputs": tensors[1]})


def _activations(name: str, value: Tensor | np.ndarray) -> Tensor:
    # Detached, since gradients would otherwise flow into the model that computed the activations.
    tensor = checks.from_numpy(value) if isinstance(value, np.ndarray) else value.detach()
    checks.dense(name, tensor)
    if not tensor.is_floating_point():
        raise TypeError(
            f"`{name}` must contain floating-point activations [n_tokens, d], got a tensor of {tensor.dtype}. Pass "
            "tokens to `ActivationStream(site, tokens)`, which turns them into activations."
        )
    if tensor.ndim != 2:
        raise ValueError(f"`{name}` must have the shape [n_tokens, d], got {tuple(tensor.shape)}.")
    return tensor


def _remedy(name: str, value: object) -> str:
    first = value[0] if isinstance(value, list | tuple) and value else value
    if isinstance(first, str | int) or name.endswith(("'input_ids'", "'text'")):
        return " Pass tokens and texts to `ActivationStream(site, ...)`, which turns them into activations."
    return ""


def _kind(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {len(value)} ({', '.join(sorted({type(part).__name__ for part in value}))})"
    return type(value).__name__


def _distinct(batch: Activations) -> dict[str, Tensor]:
    """Returns each distinct tensor once, by its first point."""
    found: dict[object, str] = {}
    for name, value in batch.items():
        found.setdefault(identity(value), name)
    return {name: batch[name] for name in found.values()}


def shared_points(batch: Activations) -> dict[str, str]:
    """Returns the points that share the tensor of an earlier point, with that point."""
    first: dict[object, str] = {}
    owners = {name: first.setdefault(identity(value), name) for name, value in batch.items()}
    return {name: owner for name, owner in owners.items() if name != owner}
