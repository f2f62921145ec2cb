"""Activations of one or several sites from one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from sparsedict.batches import Activations
from sparsedict.sites._axes import check_axes, is_ambiguous, record_axes
from sparsedict.sites._calls import check_called_once
from sparsedict.sites._context import TokenContext
from sparsedict.sites._devices import input_device
from sparsedict.sites._ends import Ends
from sparsedict.sites._limits import described
from sparsedict.sites._neurons import Neurons
from sparsedict.sites._passes import uncompiled
from sparsedict.sites._points import Point
from sparsedict.sites._tokens import Call, Tokens, prepare
from sparsedict.sites._watch import watched


class _StopForwardError(Exception):
    """Ends a forward pass after the last requested activation."""


def capture(sites: Mapping[str, Ends], hidden: Mapping[str, Point | Neurons], tokens: Tokens) -> Activations:
    """Returns the activations of several sites, from one forward pass of each model that stops after its last site.

    Args:
        sites: The ends of the sites by name, of one or several models that take the same tokens. Points of a site with
            an empty name have no prefix.
        hidden: Sites whose hidden activations are also captured, with the point where these are, or with the neurons
            that compute them.
        tokens: Token ids ``[n_sequences, n_positions]``, or a mapping of the model's keyword arguments.

    Raises:
        ValueError: If the sites have different positions, or a model has no weights in memory.
    """
    found: dict[str, Activations] = {}
    for owner, model in described({name: ends.model for name, ends in sites.items()}).items():
        own = {name: ends for name, ends in sites.items() if ends.model is model}
        found |= _of_one_model(own, hidden, tokens, owner)
    return Activations.from_sites({name: found[name] for name in sites})


def _of_one_model(
    sites: Mapping[str, Ends], hidden: Mapping[str, Point | Neurons], tokens: Tokens, owner: str
) -> dict[str, Activations]:
    model = next(iter(sites.values())).model
    if getattr(input_device(model), "type", None) == "meta":
        raise ValueError(
            f"`model` must have its weights in memory, got a {type(model).__name__} on the meta device. Load its "
            "weights, or create it on another device."
        )
    call = prepare(model, tokens, cache=False, owner=owner)
    points: dict[Point, None] = {}
    for name, ends in sites.items():
        inside = hidden.get(name)
        points.update(dict.fromkeys(p for p in (ends.reads, inside, ends.writes) if isinstance(p, Point)))
    with uncompiled(model, points):
        unsure = {point for ends in sites.values() for point in ends.points if not ends.calls.is_known(model, point)}
        if unsure and check_called_once(model, call, unsure):
            for ends in sites.values():
                ends.calls.record(model, ends.points)
        with watched(model, (ends.writes.module for ends in sites.values())) as watch:
            values = record(model, call, points)
    contexts = {name: watch.context(ends.writes.module) for name, ends in sites.items()}
    return {name: _activations(ends, values, contexts[name], hidden.get(name)) for name, ends in sites.items()}


@torch.no_grad()
def record(model: nn.Module, call: Call, points: Iterable[Point]) -> dict[Point, Tensor]:
    """Returns the activation at each point from the first call that the point selects.

    Raises:
        RuntimeError: If the forward pass ends without reaching a point.
    """
    points = tuple(points)
    values = _run(model, call.copied(), points, lambda value: value)
    # The model may modify a captured tensor in place later on, which the version counter shows.
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
                    raise _StopForwardError

        return callback

    handles = [point.attach(watch(point)) for point in points]
    try:
        model(*call.args, **call.kwargs)
    except _StopForwardError:
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
        f"The forward pass of the {type(model).__name__} never reached {missing}. The model may not call the module, "
        "or not in its current mode. Choose a module that the model calls."
    )


def _activations(
    ends: Ends, values: Mapping[Point, Tensor], seen: TokenContext, hidden: Point | Neurons | None
) -> Activations:
    outputs = values[ends.writes]
    inputs = values[ends.reads].to(outputs.device)
    shape = outputs.shape[:-1]
    record_axes(ends.writes, seen.shape, shape)
    record_axes(ends.reads, seen.shape, inputs.shape[:-1])
    seen.check_order(shape)
    if is_ambiguous(seen.shape, shape):
        check_axes(ends.model, ends.points, len(outputs))
    # Some models flatten sequences before the MLP. Users expect the shape of the tokens.
    if seen.shape is not None and seen.shape.numel() == shape.numel():
        shape = seen.shape
    if inputs.shape[:-1].numel() != shape.numel():
        raise ValueError(
            f"`reads` and `writes` must have the same positions, got {tuple(inputs.shape)} at `{ends.reads}` and "
            f"{tuple(outputs.shape)} at `{ends.writes}`."
        )
    # The widths are explicit, since they can't be inferred if there are no tokens.
    found = {name: value.reshape(*shape, value.shape[-1]) for name, value in (("inputs", inputs), ("outputs", outputs))}
    if hidden is not None:
        neurons = values[hidden] if isinstance(hidden, Point) else hidden.encode(inputs)
        found["neurons"] = neurons.reshape(*shape, neurons.shape[-1])
    mask = seen.kept(shape, ends.exclusion, outputs.device)
    if mask is None:
        mask = torch.ones(shape, dtype=torch.bool, device=outputs.device)
    if seen.shape != shape:
        return Activations(found, mask=mask)
    real, positions = seen.real(outputs.device), seen.known_positions(outputs.device)
    return Activations(found, tokens=seen.ids, positions=positions, mask=mask, attention_mask=real)
