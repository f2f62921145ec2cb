"""Requirements of circuit-tracer for a set of transcoders, and the configuration of a set."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.activations import Activation, TopK
from sparsedict.dictionaries import Dictionary
from sparsedict.formats._export import is_trained_here, original_cfg, warn_of_unknown
from sparsedict.formats._lens_names import (
    FIRST_LAYER_IN,
    MLP_IN,
    MLP_OUT,
    NORM_OUT,
    check_hook,
    check_model_name,
    hook_names,
    in_block,
    is_hook_name,
    model_name,
)
from sparsedict.formats._location import Location, listed
from sparsedict.formats._tensors import read_safetensors

CONFIG = "config.yaml"
LAYER = re.compile(r"layer_(\d{1,5})\.safetensors")

_HOOKS = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
"""The hooks of an MLP, by their keys in the configuration."""


@dataclass(frozen=True)
class Shape:
    """The properties that all transcoders of a set must have in common.

    Attributes:
        n_latents: Number of latents.
        d_model: Width of inputs and outputs.
        has_skip: Whether the transcoders have a skip connection.
        k: The ``k`` of TopK, or ``None`` for other activations.
    """

    n_latents: int
    d_model: int
    has_skip: bool
    k: int | None

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any], activation: Activation) -> Shape:
        """Returns the shape of a transcoder from its tensors and its activation."""
        n_latents, d_model = tensors["W_enc"].shape
        return cls(n_latents, d_model, "W_skip" in tensors, activation.k if isinstance(activation, TopK) else None)


def by_layer(
    dictionary: Dictionary | Mapping[int, Dictionary], layer: int | None, existing: Collection[int]
) -> dict[int, Dictionary]:
    """Returns the distillers by layer.

    Args:
        dictionary: A distiller, or distillers by layer.
        layer: The layer of a single distiller, or ``None`` to derive it.
        existing: The layers that are in the folder.

    Raises:
        ValueError: If there are no distillers, a layer number is invalid, or a distiller was trained at another layer.
            Also if the layer of a single distiller is unknown and the folder already has layers.
    """
    if isinstance(dictionary, Dictionary):
        found = {_layer_of_single(dictionary, existing) if layer is None else layer: dictionary}
    elif not isinstance(dictionary, Mapping):
        raise TypeError(
            "`dictionary` must be a distiller or a dict of distillers by layer number, got "
            f"{type(dictionary).__name__}.{checks.unwrapped(dictionary)}"
        )
    else:
        found = dict(dictionary)
        if layer is not None:
            raise ValueError(f"`layer` must be left out if distillers are given by layer, got {layer}.")
    found = _numbered(found)
    for number, one in found.items():
        trained_at = layer_of(one.trained_on) if isinstance(one, Dictionary) else None
        if trained_at not in (None, number):
            raise ValueError(
                f"`dictionary` must have each distiller at the layer of its training, but the distiller of layer "
                f"{number} was trained at {one.trained_on.get('site')!r}, layer {trained_at}."
            )
    return found


def _layer_of_single(dictionary: Dictionary, existing: Collection[int]) -> int:
    """Returns the layer of a single distiller. If it is unknown, the distiller may only start a set."""
    known = layer_of(dictionary.trained_on)
    if known is None and existing:
        raise ValueError(
            "`layer` must be given for a distiller whose layer isn't known from its training site, because the folder "
            f"already contains layers {_numbers(existing)}. Pass `layer={max(existing) + 1}` to add it, or "
            f"`layer={max(existing)}` to replace that layer; or pass a dict of all distillers by layer."
        )
    return known or 0


def _numbered(given: Mapping[Any, Dictionary]) -> dict[int, Dictionary]:
    """Returns distillers by layer number, with numbers of any integer type as ``int``."""
    try:
        found = {checks.at_least("dictionary", layer, 0): one for layer, one in given.items()}
    except (TypeError, ValueError):
        found = {}
    if not found or len(found) < len(given):
        raise ValueError(
            "`dictionary` must be a distiller or a dict of distillers by layer number, from 0, each once, got layers "
            f"{', '.join(map(repr, given)) or 'none'}."
        )
    return found


def check_arguments(model: object, input_hook: object, output_hook: object) -> None:
    """Raises ``TypeError`` or ``ValueError`` for an invalid argument."""
    if model is not None:
        check_model_name("model", model)
    for name, hook in (("input_hook", input_hook), ("output_hook", output_hook)):
        if hook is not None:
            check_hook(name, hook, within_block=True)


def check_replaces_all(folder: Path, existing: Collection[int], new: Collection[int]) -> None:
    """Checks that a new set replaces either all layers or no layer of the set in the folder.

    Raises:
        ValueError: If layers of the earlier set would remain among the new ones. The message lists them.
    """
    left = sorted(set(existing) - set(new))
    if left and set(existing) & set(new):
        raise ValueError(
            f"`dictionary` must have every layer of the set in {folder}, or none of them. Layers {_numbers(left)} of "
            "the earlier set would remain among the new layers. Pass all layers, write to another folder, or replace "
            "a single layer with `write(distiller, path, layer=...)`."
        )


def check_set(shapes: Mapping[int, Shape]) -> None:
    """Checks that circuit-tracer supports a set of transcoders.

    Args:
        shapes: Shape of each layer, including the layers that are in the folder already.

    Raises:
        ValueError: If layers are missing, or a layer differs from layer 0.
    """
    missing = sorted(set(range(max(shapes) + 1)) - shapes.keys())
    if missing:
        raise ValueError(
            "`dictionary` must have a distiller for every layer from 0, as circuit-tracer requires, got layers "
            f"{_numbers(shapes)} without {_numbers(missing)}. Pass all layers, or write them in order from layer 0."
        )
    first = shapes[0]
    for layer, shape in shapes.items():
        for what, mine, other in (
            ("n_latents", shape.n_latents, first.n_latents),
            ("width", shape.d_model, first.d_model),
            ("skip connection", shape.has_skip, first.has_skip),
            ("k of TopK", shape.k, first.k),
        ):
            if mine != other:
                raise ValueError(
                    f"`dictionary` must have the same {what} in all layers, as circuit-tracer requires, but layer 0 "
                    f"has {other} and layer {layer} has {mine}. Layers that are already in the folder count too."
                )


def shapes_in(location: Location, config: Mapping[str, Any]) -> dict[int, Shape]:
    """Returns the shapes of the layers in a folder."""
    k = config.get("k") if config.get("activation") == "topk" else None
    found = {}
    for name in location.entries():
        layer, file = LAYER.fullmatch(name), location.find(name)
        if layer is None or file is None:
            continue
        shapes = read_safetensors(file).shapes
        if len(shapes.get("W_enc", ())) == 2:
            n_latents, d_model = shapes["W_enc"]
            found[int(layer[1])] = Shape(n_latents, d_model, "W_skip" in shapes, k if isinstance(k, int) else None)
    return found


def layer_of(trained_on: Mapping[str, Any]) -> int | None:
    """Returns the layer that a dictionary was trained at, or ``None`` if its site doesn't determine the layer."""
    layers = {found[0] for hook in _hooks(trained_on) if hook and (found := in_block(hook))}
    return layers.pop() if len(layers) == 1 else None


def config_of(
    by_layer: Mapping[int, Dictionary],
    model: str | None,
    given: tuple[str | None, str | None],
    existing: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the configuration of a set.

    Args:
        by_layer: The distillers by layer.
        model: Name of the model, or ``None`` to derive it from the distillers.
        given: The hooks of input and output, or ``None`` to derive them.
        existing: The configuration in the folder, if some of its layers remain.

    Raises:
        ValueError: If layers read or write different places, or others than the layers that are existing.
    """
    first = by_layer[min(by_layer)]
    entries = entries_of({number: one.trained_on for number, one in by_layer.items()}, model, given, existing)
    kind = {"model_kind": "transcoder_set"}
    return {**valid_entries(first), **kind, **entries, **_top_k_entries(first.activation)}


def entries_of(
    trained_on: Mapping[int, Mapping[str, Any]],
    model: str | None,
    given: tuple[str | None, str | None],
    existing: Mapping[str, Any],
) -> dict[str, str]:
    """Returns the name of the model and the hooks, by their keys in the configuration.

    Args:
        trained_on: Metadata of each layer.
        model: See :func:`config_of`.
        given: See :func:`config_of`.
        existing: See :func:`config_of`.

    Raises:
        ValueError: See :func:`config_of`.
    """
    name = model or model_name(trained_on[min(trained_on)]) or existing.get("model_name")
    hooks = {
        key: hook or _common_hook(trained_on, end) for end, (key, hook) in enumerate(zip(_HOOKS, given, strict=True))
    }
    arguments = dict(zip(_HOOKS, ("input_hook", "output_hook"), strict=True))
    missing = {"model": "gpt2"} if not name else {}
    missing |= {arguments[key]: _HOOKS[key] for key, hook in hooks.items() if not hook}
    warn_of_unknown(missing, f"the hooks of an MLP are written by default, {' and '.join(_HOOKS.values())}")
    hooks = {key: hook or _HOOKS[key] for key, hook in hooks.items()}
    for key, hook in hooks.items():
        if existing.get(key, hook) != hook:
            raise ValueError(
                f"`{arguments[key]}` must be {existing[key]!r}, as in the layers that are in the folder, got {hook!r}. "
                "Write the set to another folder."
            )
    return ({"model_name": name} if name else {}) | hooks


def yaml_of(config: Mapping[str, Any]) -> str:
    """Returns a configuration as YAML. JSON values are valid YAML values."""
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in config.items())


def valid_entries(dictionary: Dictionary) -> dict[str, str]:
    """Returns the entries of the original configuration that are still valid for the dictionary."""
    stale = {"model_name", "activation", "k"} | ({"scan", "scan_name"} if is_trained_here(dictionary) else set())
    kept = original_cfg(dictionary, "circuit-tracer")
    return {name: value for name, value in kept.items() if isinstance(value, str) and name not in stale}


def _top_k_entries(activation: Activation) -> dict[str, Any]:
    if not isinstance(activation, TopK):
        return {}
    checks.warn(
        "The TopK of circuit-tracer keeps negative values among the k largest, which are zero in sparsedict. Release "
        "0.5.0 of circuit-tracer applies ReLU instead of TopK. All versions read the result of "
        "`sd.calibrate_threshold`."
    )
    return {"activation": "topk", "k": activation.k}


def _common_hook(trained_on: Mapping[int, Mapping[str, Any]], end: int) -> str | None:
    """Returns the hook within a block that all layers have in common, or ``None`` if no hook is known."""
    found = {hook for metadata in trained_on.values() if (hook := _within(metadata, end))}
    if len(found) > 1:
        raise ValueError(
            f"`dictionary` must have distillers that {('read', 'write')[end]} the same hook in all layers, as "
            f"circuit-tracer requires, got {listed(sorted(found))}."
        )
    return found.pop() if found else None


def _within(trained_on: Mapping[str, Any], end: int) -> str | None:
    hook = _hooks(trained_on)[end]
    found = in_block(hook) if hook else None
    if found is None:
        return None
    site = str(trained_on.get("site"))
    # circuit-tracer wraps the MLP of `HookedTransformer`, which has a module for it in all models, OPT included.
    if found[1] in (FIRST_LAYER_IN, NORM_OUT) and not is_hook_name(site.partition(" -> ")[0]):
        return MLP_IN
    is_module = not is_hook_name(site.rpartition(" -> ")[2]) and "post_feedforward" not in site
    # Without a norm after the MLP both hooks are equal, and circuit-tracer supports this one for more models.
    return "mlp.hook_out" if found[1] == MLP_OUT and is_module else found[1]


def _hooks(trained_on: Mapping[str, Any]) -> tuple[str | None, str | None]:
    return hook_names(trained_on, "inputs", "outputs")


def _numbers(layers: Any) -> str:
    return ", ".join(map(str, sorted(layers)))
