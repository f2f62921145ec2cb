"""Activations of one or several sites from one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparsedict.batches import Activations
from sparsedict.sites._calls import check_called_once
from sparsedict.sites._context import TokenContext
from sparsedict.sites._devices import input_device
from sparsedict.sites._passes import uncompiled
from sparsedict.sites._points import Point
from sparsedict.sites._tokens import Call, Tokens, prepare
from sparsedict.sites._watch import watched

if TYPE_CHECKING:
    from sparsedict.sites._site import Site


class _EnoughError(Exception):
    """Leaves the forward pass once everything asked for has been seen."""


def capture_sites(sites: Mapping[str, Site], tokens: Tokens, *, neurons: bool | Iterable[str] = False) -> Activations:
    """Returns the activations of several sites, from one forward pass of each model that stops after its last site.

    Args:
        sites: Sites by name, of one model or of several that take the same tokens. An empty name adds nothing to the
            names of the points.
        tokens: Token ids ``[n_sequences, n_positions]``, or a mapping of the model's keyword arguments.
        neurons: Whether to capture the hidden activations too, or the names of the sites where to.

    Returns:
        Activations in the shape of the tokens. Positions that any site leaves out are masked.

    Raises:
        ValueError: If there are no sites, they have different positions, or a model has no weights in memory.
    """
    if not sites:
        raise ValueError("`sites` must name at least one site, got an empty mapping.")
    wanted = frozenset(sites) if neurons is True else frozenset(neurons or ())
    by_model: dict[int, dict[str, Site]] = {}
    for name, site in sites.items():
        by_model.setdefault(id(site.model), {})[name] = site
    found: dict[str, Activations] = {}
    for own in by_model.values():
        found |= _of_one_model(own, tokens, wanted)
    return Activations.of_sites({name: found[name] for name in sites})


def _of_one_model(sites: Mapping[str, Site], tokens: Tokens, wanted: frozenset[str]) -> dict[str, Activations]:
    model = next(iter(sites.values())).model
    if getattr(input_device(model), "type", None) == "meta":
        raise ValueError(
            f"`model` must have its weights in memory, got a {type(model).__name__} on the meta device. Load them, "
            "or make it on another device."
        )
    call = prepare(model, tokens, cache=False)
    points: dict[Point, None] = {}
    for name, site in sites.items():
        hidden = site.hidden if name in wanted else None
        points.update(dict.fromkeys(p for p in (site.reads, hidden, site.writes) if p is not None))
    with uncompiled(model, points):
        unsure = {point for site in sites.values() for point in (site.reads, site.writes) if not site.is_sure(point)}
        if unsure and check_called_once(model, call, unsure):
            for site in sites.values():
                site.note_sure()
        with watched(model, (site.writes.module for site in sites.values())) as watch:
            values = record(model, call, points)
    contexts = {name: watch.context(site.writes.module) for name, site in sites.items()}
    return {name: _activations(site, values, contexts[name], name in wanted) for name, site in sites.items()}


@torch.no_grad()
def record(model: nn.Module, call: Call, points: Iterable[Point]) -> dict[Point, Tensor]:
    """Returns the activation at each point, the first time that it is reached.

    Raises:
        RuntimeError: If the forward pass ends without reaching a point.
    """
    points = tuple(points)
    values = _run(model, call.copied(), points, lambda value: value)
    # A model may go on to work in place on what was captured, which the version counter shows.
    if any(value.is_inference() or value._version != version for value, version in values.values()):
        values = _run(model, call, points, torch.clone)
    return {point: value for point, (value, _) in values.items()}


def _run(
    model: nn.Module, call: Call, points: tuple[Point, ...], keep: Callable[[Tensor], Tensor]
) -> dict[Point, tuple[Tensor, int]]:
    values: dict[Point, tuple[Tensor, int]] = {}
    n_calls: Counter[Point] = Counter()

    def watch(point: Point) -> Callable[[Tensor], None]:
        def callback(value: Tensor) -> None:
            n_calls[point] += 1
            if point.is_call(n_calls[point] - 1, model):
                value = keep(value)
                values[point] = (value, 0 if value.is_inference() else value._version)
                if len(values) == len(points):
                    raise _EnoughError

        return callback

    handles = [point.attach(watch(point)) for point in points]
    try:
        model(*call.args, **call.kwargs)
    except _EnoughError:
        return values
    finally:
        for handle in handles:
            handle.remove()
    missing = ", ".join(
        f"`{point}`" + (f" (call {point.call}, counted from 0, of {n_calls[point]})" if n_calls[point] else "")
        for point in points
        if point not in values
    )
    raise RuntimeError(
        f"The forward pass of the {type(model).__name__} never reached {missing}. The module may not be called at "
        "all, or not in this mode of the model: name a point that is."
    )


def _activations(site: Site, values: Mapping[Point, Tensor], seen: TokenContext, neurons: bool) -> Activations:
    outputs = values[site.writes]
    inputs = values[site.reads].to(outputs.device)
    site.note_widths(inputs.shape[-1], outputs.shape[-1])
    shape = outputs.shape[:-1]
    # Some models flatten sequences before the MLP; the tokens' own shape is what users count in.
    if seen.shape is not None and seen.shape.numel() == shape.numel():
        shape = seen.shape
    if inputs.shape[:-1].numel() != shape.numel():
        raise ValueError(
            f"`reads` and `writes` must see the same positions, got {tuple(inputs.shape)} at `{site.reads}` and "
            f"{tuple(outputs.shape)} at `{site.writes}`."
        )
    # The widths are named, for without a token they can't be inferred.
    found = {name: value.reshape(*shape, value.shape[-1]) for name, value in (("inputs", inputs), ("outputs", outputs))}
    if neurons:
        point = site.hidden
        hidden = site.neurons.encode(inputs) if point is None else values[point]
        found["neurons"] = hidden.reshape(*shape, hidden.shape[-1])
    mask = seen.kept(shape, site.exclusion, outputs.device)
    if mask is None:
        mask = torch.ones(shape, dtype=torch.bool, device=outputs.device)
    if seen.shape != shape:
        return Activations(found, mask=mask)
    real, positions = seen.real(outputs.device), seen.known_positions(outputs.device)
    return Activations(found, tokens=seen.ids, positions=positions, mask=mask, attention_mask=real)
