"""Names, widths and numbers of latents of the layers of a dictionary over several layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from sparsedict import checks

Layers = Mapping[str, Any] | Sequence[tuple[str, int, int]]
"""`Sites`; a mapping of layer names to a width or ``(d_in, d_out)``; or a sequence of ``(name, d_in, d_out)``."""


class Layer(NamedTuple):
    """One layer.

    Attributes:
        name: Name of the layer's site. The points of the layer are ``name.inputs`` and ``name.outputs``.
        d_in: Input width of the MLP.
        d_out: Output width of the MLP.
    """

    name: str
    d_in: int
    d_out: int


def layers_of(given: Any) -> tuple[Layer, ...]:
    """Checks and returns the layers.

    Raises:
        TypeError: If the argument has another form.
        ValueError: If there is no layer, a layer is named twice, sites are of several models, or they aren't in the
            order of the model.
    """
    if isinstance(given, Mapping):
        pairs = [(name, *_widths(name, value)) for name, value in given.items()]
    elif isinstance(given, Sequence) and not isinstance(given, str):
        pairs = [_triple(item) for item in given]
    else:
        raise TypeError(
            "`layers` must be `Sites`, a mapping of names to widths such as {'0': 64, '1': 64}, or tuples "
            f"(name, d_in, d_out), got {type(given).__name__}."
        )
    if not pairs:
        raise ValueError("`layers` must name at least one layer, got none.")
    found: list[Layer] = []
    for name, d_in, d_out in pairs:
        if not isinstance(name, str) or not name:
            raise ValueError(f"`layers` must have names that are non-empty strings, got {name!r}.")
        if name in [other.name for other in found]:
            raise ValueError(f"`layers` must name each layer once, got {name!r} twice.")
        d_in, d_out = (checks.at_least(f"layers[{name!r}]", width, 1) for width in (d_in, d_out))
        found.append(Layer(name, d_in, d_out))
    if isinstance(given, Mapping):
        _check_order(given)
    return tuple(found)


def _triple(item: Any) -> tuple[Any, Any, Any]:
    if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 3:
        raise TypeError(
            "`layers` must be `Sites`, a mapping of names to widths such as {'0': 64, '1': 64}, or tuples "
            f"(name, d_in, d_out), got an entry {item!r}."
        )
    return item[0], item[1], item[2]


def _widths(name: str, value: Any) -> tuple[Any, Any]:
    if hasattr(value, "d_in") and hasattr(value, "d_out"):
        return value.d_in, value.d_out
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise ValueError(f"`layers[{name!r}]` must be a width or (d_in, d_out), got {value!r}.")
        return value[0], value[1]
    return value, value


def _check_order(sites: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` if sites aren't different modules of one model, in the order of its modules."""
    found: list[tuple[str, int]] = []
    model = None
    for name, site in sites.items():
        module = getattr(getattr(site, "writes", None), "module", None)
        own = getattr(site, "model", None)
        if module is None or own is None:
            return
        if model is not None and own is not model:
            raise ValueError(
                f"`layers` must be sites of one model, because latents write to later layers, but {name!r} is a site "
                "of another model. Use `sd.Crosscoder` for several models."
            )
        model = own
        found.append((name, next((i for i, other in enumerate(own.modules()) if other is module), -1)))
    for (first, place), (second, later) in pairwise(found):
        if 0 <= later == place:
            raise ValueError(f"`layers` must contain each MLP once, but {first!r} and {second!r} are the same module.")
        if 0 <= later < place:
            raise ValueError(
                f"`layers` must be in the order of the model, because latents write to later layers, but {second!r} "
                f"comes before {first!r} in the model. If the model doesn't run its modules in the order of their "
                "definition, pass widths by name instead of sites."
            )


def latents_of(given: Any, layers: Sequence[Layer]) -> tuple[int, ...]:
    """Returns the number of latents of each layer.

    Args:
        given: One number for all layers, a mapping of layer names to numbers, or one number for each layer.
        layers: The layers.

    Raises:
        TypeError: If a number isn't an integer.
        ValueError: If a layer is missing or unknown, or no layer has a latent.
    """
    names = [layer.name for layer in layers]
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise ValueError(f"`n_latents` must have an entry for each layer {names}, got {list(given)}.")
        numbers = [given[name] for name in names]
    elif isinstance(given, Sequence) and not isinstance(given, str):
        numbers = list(given)
        if len(numbers) != len(names):
            raise ValueError(f"`n_latents` must have an entry for each of {len(names)} layers, got {len(numbers)}.")
    else:
        return (checks.at_least("n_latents", given, 1),) * len(names)
    found = tuple(checks.at_least("n_latents", number, 0) for number in numbers)
    if not any(found):
        raise ValueError("`n_latents` must be at least 1 in one of the layers, got none.")
    return found


def sizes_of_subset(sizes: Sequence[int], latents: Sequence[int]) -> tuple[int, ...]:
    """Returns how many of some latents belong to each layer.

    Args:
        sizes: Number of latents of each layer.
        latents: Indices among the latents of all layers.

    Raises:
        ValueError: If the latents aren't in the order of their layers.
    """
    starts = list(accumulate(sizes, initial=0))
    owners = [sum(latent >= start for start in starts[1:]) for latent in latents]
    if owners != sorted(owners):
        raise ValueError("`latents` must be in the order of their layers, because the rows of a layer are contiguous.")
    return tuple(owners.count(index) for index in range(len(sizes)))
