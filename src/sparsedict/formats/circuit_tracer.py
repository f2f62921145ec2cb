"""circuit-tracer: a folder with ``config.yaml`` and the files of one transcoder per layer, or of a cross-layer one.

Transcoders of single layers are in ``layer_{i}.safetensors``. A cross-layer transcoder has ``W_enc_{i}.safetensors``
and ``W_dec_{i}.safetensors`` for each layer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from sparsedict import checks, hub
from sparsedict.dictionaries import CrossLayerDistiller, Dictionary
from sparsedict.formats import _cross_layer_files as cross_layer
from sparsedict.formats import _gemma_scope_layers
from sparsedict.formats import _transcoder_set as about
from sparsedict.formats._export import write_tensors, write_text
from sparsedict.formats._location import Location
from sparsedict.formats._transcoder_config import config_of, yaml_of
from sparsedict.formats._transcoder_layer import address_of, file_of, read_layer, tensors_of
from sparsedict.formats._transcoder_set import CONFIG, LAYER
from sparsedict.formats._yaml import read_yaml
from sparsedict.storage import StorageError


def recognises(location: Location) -> bool:
    """Returns whether the files are in the format of circuit-tracer."""
    if location.file_name is not None and location.file_name != CONFIG:
        return _is_weights_file(location.file_name)
    return _is_set(location) or any(map(_is_weights_file, location.entries()))


def read(
    path: str | os.PathLike[str],
    *,
    layer: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads the transcoder of one layer, or a cross-layer transcoder, with the same forward pass as in circuit-tracer.

    A cross-layer transcoder becomes a `CrossLayerDistiller` with layers ``"0"``, ``"1"`` and so on.

    Args:
        path: The folder, or the file of one layer. From a folder on the hub, only the file of this layer is downloaded.
        layer: The layer to read from a folder of several layers. A cross-layer transcoder is read as a whole.
        device: Device of the weights. The CPU by default.
        dtype: Type of the weights. By default the type in the file, or float32 if there are thresholds.

    Raises:
        FileNotFoundError: If a file is missing, or if the folder contains several layers and ``layer`` is left out.
        ImportError: If PyYAML isn't installed and the folder contains ``config.yaml``.
        StorageError: If a file is broken, or is only a part of a cross-layer transcoder.
        ValueError: If ``layer`` is given for a cross-layer transcoder.
    """
    location = Location.from_path(path)
    config = _config(location)
    if _is_cross_layer(location, config):
        if layer is not None:
            raise ValueError(
                f"`layer` must be left out for the cross-layer transcoder in {location}, whose latents write to "
                f"several layers, got {layer}."
            )
        return _read_cross_layer(location, config, device, dtype)
    files = _layers(location, config)
    if layer is None and len(files) > 1:
        raise FileNotFoundError(
            f"`path` must be one layer, but {location} contains {len(files)} layers. Choose one of them, for example "
            f"with `sd.formats.circuit_tracer.read(path, layer={min(files)})` or "
            f"`sd.load({location.path_of(files[min(files)])!r})`, or read all of them with `read_set`."
        )
    chosen = next(iter(files)) if layer is None else layer
    if chosen not in files:
        raise FileNotFoundError(
            f"`layer` must be one of the layers {', '.join(map(str, files))} in {location}, got {layer}."
        )
    return read_layer(location, files[chosen], config, chosen, device, dtype)


def read_set(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[int, Dictionary]:
    """Reads the transcoders of all layers. Arguments and errors are those of :func:`read`.

    A cross-layer transcoder isn't a set, so it raises `StorageError`. Use :func:`read`.
    """
    location = Location.from_path(path)
    config = _config(location)
    if _is_cross_layer(location, config):
        raise StorageError(
            f"{location} contains a cross-layer transcoder, which isn't a set of transcoders. Read it with "
            f"`sd.formats.circuit_tracer.read({location.path_of(None)!r})`."
        )
    files = _layers(location, config)
    return {layer: read_layer(location, name, config, layer, device, dtype) for layer, name in files.items()}


def write(
    dictionary: Dictionary | Mapping[int, Dictionary],
    path: str | os.PathLike[str],
    *,
    layer: int | None = None,
    model: str | None = None,
    input_hook: str | None = None,
    output_hook: str | None = None,
) -> None:
    """Writes distillers in the format of circuit-tracer, with the same forward pass.

    A `CrossLayerDistiller` is written as a cross-layer transcoder. Its layers must have equal widths and equally many
    latents, no skip, and ReLU, JumpReLU or a trained BatchTopK. The scales of inputs and outputs are folded into the
    weights, tied decoder rows are repeated, and rows for layers that the layout leaves out are zero.

    Distillers of single layers are required in every layer from 0. All must have the same width, and either all or none
    a skip connection. An input bias and a constant scale of the input are folded into the weights. BatchTopK becomes
    JumpReLU with a common threshold. The TopK of circuit-tracer keeps negative values among the ``k`` largest, which a
    warning reports.

    Args:
        dictionary: A distiller with equal input and output widths and with ReLU, JumpReLU, BatchTopK or TopK; or a
            dict of such distillers by layer; or a `CrossLayerDistiller`.
        path: The folder. Other layers in it are kept and must be compatible. A set that replaces some layers of an
            earlier set must replace all of them.
        layer: The layer of a single distiller. By default the layer of its site. If the site doesn't determine a layer,
            it is 0 in an empty folder, and required in a folder with layers.
        model: Name of the model, such as ``"gpt2"``. By default the name in ``trained_on``.
        input_hook: The hook that the distillers read, as a TransformerLens hook within a block, such as
            ``"mlp.hook_in"``. By default it is derived from their training site.
        output_hook: The hook that the distillers write, such as ``"mlp.hook_out"``.

    Raises:
        TypeError: If a dictionary isn't a distiller.
        ValueError: If circuit-tracer doesn't support an activation, a normalisation or a width; if a layer is missing
            or unknown; if layers differ in width, skip connection, ``k`` or hooks; if layers of an earlier set would
            remain among the new layers; or if a hook isn't a hook within a block.
    """
    folder = checks.path("path", path, "a folder")
    about.check_arguments(model, input_hook, output_hook)
    if isinstance(dictionary, CrossLayerDistiller):
        if layer is not None:
            raise ValueError(f"`layer` must be left out for a CrossLayerDistiller, got {layer}.")
        cross_layer.write(dictionary, folder, model=model, hooks=(input_hook, output_hook))
        return
    existing: dict[int, about.Shape] = {}
    config: dict[str, Any] = {}
    if folder.is_dir():
        location = Location.from_path(folder)
        config = _config(location)
        if _is_cross_layer(location, config):
            raise ValueError(
                f"`path` must be a folder without files of other transcoders, but {folder} contains a cross-layer "
                "transcoder. Write to another folder."
            )
        existing = about.shapes_in(location, config)
    by_layer = about.by_layer(dictionary, layer, existing.keys())
    tensors = {number: tensors_of(one) for number, one in by_layer.items()}
    new = {number: about.Shape.from_tensors(tensors[number], by_layer[number].activation) for number in by_layer}
    if not isinstance(dictionary, Dictionary):
        about.check_replaces_all(folder, existing.keys(), new.keys())
    about.check_set({**existing, **new})
    is_replaced = existing.keys() <= new.keys()
    config = config_of(by_layer, model, (input_hook, output_hook), {} if is_replaced else config)
    for number, weights in tensors.items():
        write_tensors(folder / f"layer_{number}.safetensors", weights)
    write_text(folder / CONFIG, yaml_of(config))


def _config(location: Location) -> dict[str, Any]:
    file = location.find(CONFIG)
    config = {} if file is None else read_yaml(file)
    kind = config.get("model_kind", "transcoder_set")
    if kind not in ("transcoder_set", cross_layer.KIND):
        raise StorageError(
            f"{file}: `model_kind` must be transcoder_set or {cross_layer.KIND}, got {str(kind)[:80]!r}."
        )
    return config


def _is_weights_file(name: str) -> bool:
    return bool(LAYER.fullmatch(name) or cross_layer.FILE.fullmatch(name))


def _is_cross_layer(location: Location, config: Mapping[str, Any]) -> bool:
    """Returns whether a folder contains a cross-layer transcoder, or a path names one of its files."""
    if location.file_name is not None and location.file_name != CONFIG:
        return bool(cross_layer.FILE.fullmatch(location.file_name))
    if "model_kind" in config:
        return config["model_kind"] == cross_layer.KIND
    return any(map(cross_layer.FILE.fullmatch, location.entries()))


def _read_cross_layer(
    location: Location, config: dict[str, Any], device: torch.device | str | None, dtype: torch.dtype | None
) -> Dictionary:
    if location.file_name not in (None, CONFIG):
        raise cross_layer.part_of(location)
    if "transcoders" in config:
        files = [file_of(location, name) for name in _layers(location, config).values()]
        about_model = {"model_name": config["model_name"]} if config.get("model_name") else {}
        return _gemma_scope_layers.read(files, about_model, device=device, dtype=dtype)
    return cross_layer.read(location, config, device=device, dtype=dtype)


def _is_set(location: Location) -> bool:
    """Returns whether the folder contains the configuration of a set. Other tools use the same file name."""
    try:
        file = location.find(CONFIG)
    except StorageError:
        return False
    if file is None:
        return False
    with file.open("rb") as stream:
        return b"model_kind" in stream.read(2**16)


def _layers(location: Location, config: dict[str, Any]) -> dict[int, str]:
    """Returns the file name of each layer."""
    if location.file_name is not None and location.file_name != CONFIG:
        found = LAYER.fullmatch(location.file_name)
        return {int(found[1]) if found else 0: location.file_name}
    named = config.get("transcoders")
    if isinstance(named, list) and all(isinstance(name, str) for name in named):
        return {number: _local(location, name) for number, name in enumerate(named)}
    files = {int(found[1]): name for name in location.entries() if (found := LAYER.fullmatch(name))}
    if not files:
        raise FileNotFoundError(f"{location} must contain the files of layers, such as layer_0.safetensors.")
    return dict(sorted(files.items()))


def _local(location: Location, name: str) -> str:
    """Returns the name of a file in a configuration. An address on the hub is valid only in a configuration there."""
    if hub.is_address(name) and location.snapshot is None:
        raise FileNotFoundError(
            f"{location.path_of(CONFIG)} lists {name[:200]}, which isn't in the folder. Load each layer by its "
            f"address, for example `sd.load({address_of(name)[:200]!r})`."
        )
    return name
