"""What circuit-tracer asks of a set of transcoders, and its configuration."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsedict.activations import Activation, TopK
from sparsedict.dictionaries import Dictionary
from sparsedict.formats._lens_names import (
    MLP_OUT,
    check_hook,
    check_model_name,
    hook_names,
    in_block,
    is_hook_name,
    model_name,
)
from sparsedict.formats._place import Place, listed
from sparsedict.formats._tensors import read_safetensors
from sparsedict.formats._written import is_trained_here, noted, warn_of_unknown

LAYER = re.compile(r"layer_(\d{1,5})\.safetensors")

_HOOKS = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
"""An MLP's hooks, by the keys of the configuration."""


@dataclass(frozen=True)
class Shape:
    """What all transcoders of a set must have in common.

    Attributes:
        n_latents: Number of latents.
        d_model: Width of what they read and write.
        has_skip: Whether they have a skip connection.
        k: Latents chosen on a token; ``None`` where the activation doesn't choose.
    """

    n_latents: int
    d_model: int
    has_skip: bool
    k: int | None

    @classmethod
    def of(cls, tensors: Mapping[str, Any], activation: Activation) -> Shape:
        """Returns the shape of what is to be written."""
        n_latents, d_model = tensors["W_enc"].shape
        return cls(n_latents, d_model, "W_skip" in tensors, activation.k if isinstance(activation, TopK) else None)


def by_layer(dictionary: Dictionary | Mapping[int, Dictionary], layer: int | None) -> dict[int, Dictionary]:
    """Returns the distillers by layer.

    Raises:
        ValueError: If there are none, a number is no layer, or a distiller was trained at another layer.
    """
    if isinstance(dictionary, Dictionary):
        found = {(layer_of(dictionary) or 0) if layer is None else layer: dictionary}
    else:
        found = dict(dictionary)
        if layer is not None:
            raise ValueError(f"`layer` must be left out where distillers are given by layer, got {layer}.")
    if not found or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in found):
        raise ValueError(
            f"`dictionary` must be one, or several by layer from 0 on, got layers {sorted(map(str, found))}."
        )
    for number, one in found.items():
        trained_at = layer_of(one) if isinstance(one, Dictionary) else None
        if trained_at not in (None, number):
            raise ValueError(
                f"`dictionary` must have each distiller at its own layer, got for layer {number} one that was trained "
                f"at {one.trained_on.get('site')!r}, layer {trained_at}."
            )
    return found


def check_given(model: object, input_hook: object, output_hook: object) -> None:
    """Raises ``TypeError`` or ``ValueError`` where an argument can't be meant."""
    if model is not None:
        check_model_name("model", model)
    for name, hook in (("input_hook", input_hook), ("output_hook", output_hook)):
        if hook is not None:
            check_hook(name, hook, within_block=True)


def check_whole(folder: Path, there: Collection[int], new: Collection[int]) -> None:
    """Refuses to replace some layers of an earlier set and to leave others among the new ones.

    Raises:
        ValueError: Which layers would be left.
    """
    left = sorted(set(there) - set(new))
    if left and set(there) & set(new):
        raise ValueError(
            f"`dictionary` must have every layer of the set that is in {folder}, or none: layers {_numbers(left)} of "
            "the earlier set would be left among the new ones. Give all layers, write to another folder, or replace "
            "a single layer by `write(distiller, path, layer=...)`."
        )


def check_set(shapes: Mapping[int, Shape]) -> None:
    """Refuses a set that circuit-tracer couldn't use.

    Args:
        shapes: Of each layer, those that lie in the folder already among them.

    Raises:
        ValueError: Which layers are missing, or which layer differs from the first, and in what.
    """
    missing = sorted(set(range(max(shapes) + 1)) - shapes.keys())
    if missing:
        raise ValueError(
            f"`dictionary` must have a distiller for every layer from 0 on, as circuit-tracer asks: got layers "
            f"{_numbers(shapes)}, without {_numbers(missing)}. Give all by layer, or write them from layer 0 on."
        )
    first = shapes[0]
    for layer, shape in shapes.items():
        for what, mine, other in (
            ("n_latents", shape.n_latents, first.n_latents),
            ("the model's width", shape.d_model, first.d_model),
            ("a skip connection", shape.has_skip, first.has_skip),
            ("the k of TopK", shape.k, first.k),
        ):
            if mine != other:
                raise ValueError(
                    f"`dictionary` must agree in {what} in all layers, as circuit-tracer asks: layer 0 has {other}, "
                    f"layer {layer} has {mine}. Layers that lie in the folder already count too."
                )


def shapes_in(place: Place, config: Mapping[str, Any]) -> dict[int, Shape]:
    """Returns the shapes of the layers that lie in a folder."""
    k = config.get("k") if config.get("activation") == "topk" else None
    found = {}
    for name in place.entries():
        layer, file = LAYER.fullmatch(name), place.find(name)
        if layer is None or file is None:
            continue
        shapes = read_safetensors(file).shapes
        if len(shapes.get("W_enc", ())) == 2:
            n_latents, d_model = shapes["W_enc"]
            found[int(layer[1])] = Shape(n_latents, d_model, "W_skip" in shapes, k if isinstance(k, int) else None)
    return found


def layer_of(dictionary: Dictionary) -> int | None:
    """Returns the layer at which a dictionary was trained, where its site tells."""
    layers = {found[0] for hook in _hooks(dictionary) if hook and (found := in_block(hook))}
    return layers.pop() if len(layers) == 1 else None


def config_of(
    by_layer: Mapping[int, Dictionary],
    model: str | None,
    given: tuple[str | None, str | None],
    there: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the configuration of a set.

    Args:
        by_layer: The distillers.
        model: Name of the model, where the caller gave it.
        given: The hooks of input and output, where the caller gave them.
        there: The configuration that lies in the folder already, where layers of it stay.

    Raises:
        ValueError: If layers read or write different places, or others than the layers that are there.
    """
    first = by_layer[min(by_layer)]
    name = model or model_name(first.trained_on) or there.get("model_name")
    hooks = {key: hook or _agreed(by_layer, end) for end, (key, hook) in enumerate(zip(_HOOKS, given, strict=True))}
    arguments = dict(zip(_HOOKS, ("input_hook", "output_hook"), strict=True))
    missing = {"model": "gpt2"} if not name else {}
    missing |= {arguments[key]: _HOOKS[key] for key, hook in hooks.items() if not hook}
    warn_of_unknown(missing, f"where no hook is known, those of an MLP are written, {' and '.join(_HOOKS.values())}")
    hooks = {key: hook or _HOOKS[key] for key, hook in hooks.items()}
    for key, hook in hooks.items():
        if there.get(key, hook) != hook:
            raise ValueError(
                f"`{arguments[key]}` must be that of the layers in the folder, {there[key]!r}, got {hook!r}. Write the "
                "set to a folder of its own."
            )
    known = {"model_name": name} if name else {}
    return {**_still_true(first), **known, "model_kind": "transcoder_set", **hooks, **_chosen(first.activation)}


def _still_true(dictionary: Dictionary) -> dict[str, str]:
    """Returns the entries of the configuration that was read which hold for the dictionary as it is."""
    stale = {"model_name", "activation", "k"} | ({"scan", "scan_name"} if is_trained_here(dictionary) else set())
    kept = noted(dictionary, "circuit-tracer")
    return {name: value for name, value in kept.items() if isinstance(value, str) and name not in stale}


def _chosen(activation: Activation) -> dict[str, Any]:
    if not isinstance(activation, TopK):
        return {}
    warnings.warn(
        "circuit-tracer's TopK keeps negative values among the k largest, where sparsedict's are zero, and its release "
        "0.5.0 reads no TopK: it applies ReLU instead. `sd.calibrate_threshold` gives what every version reads.",
        stacklevel=4,
    )
    return {"activation": "topk", "k": activation.k}


def _agreed(by_layer: Mapping[int, Dictionary], end: int) -> str | None:
    """Returns the hook within a block that all layers have."""
    found = {hook for dictionary in by_layer.values() if (hook := _within(dictionary, end))}
    if len(found) > 1:
        raise ValueError(
            f"`dictionary` must hold distillers that {('read', 'write')[end]} one hook in all layers, as "
            f"circuit-tracer asks, got {listed(sorted(found))}."
        )
    return found.pop() if found else None


def _within(dictionary: Dictionary, end: int) -> str | None:
    hook = _hooks(dictionary)[end]
    found = in_block(hook) if hook else None
    if found is None:
        return None
    site = str(dictionary.trained_on.get("site"))
    is_module = not is_hook_name(site.rpartition(" -> ")[2]) and "post_feedforward" not in site
    # An MLP that has no norm behind it writes the same at both, and circuit-tracer knows this one for more models.
    return "mlp.hook_out" if found[1] == MLP_OUT and is_module else found[1]


def _hooks(dictionary: Dictionary) -> tuple[str | None, str | None]:
    return hook_names(dictionary.trained_on, "inputs", "outputs")


def _numbers(layers: Any) -> str:
    return ", ".join(map(str, sorted(layers)))
