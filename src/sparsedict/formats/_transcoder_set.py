"""Requirements of circuit-tracer for a set of transcoders."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.activations import Activation, TopK
from sparsedict.dictionaries import Dictionary
from sparsedict.formats._lens_names import (
    check_hook,
    check_model_name,
)
from sparsedict.formats._location import Location
from sparsedict.formats._tensors import read_safetensors
from sparsedict.formats._transcoder_config import layer_of

CONFIG = "config.yaml"
LAYER = re.compile(r"layer_(\d{1,5})\.safetensors")


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


def _numbers(layers: Any) -> str:
    return ", ".join(map(str, sorted(layers)))
