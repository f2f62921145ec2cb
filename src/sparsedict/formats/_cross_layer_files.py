"""circuit-tracer's files of a cross-layer transcoder: ``W_enc_{i}.safetensors`` and ``W_dec_{i}.safetensors``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparsedict.dictionaries import CrossLayerDistiller
from sparsedict.formats import _transcoder_set as about
from sparsedict.formats._export import unsupported, write_tensors, write_text
from sparsedict.formats._layer_weights import LayerWeights, check_targets, cross_layer, layers_of
from sparsedict.formats._location import Location, listed
from sparsedict.formats._tensors import read_safetensors
from sparsedict.formats._transcoder_config import entries_of, layer_of, valid_entries, yaml_of
from sparsedict.formats._yaml import read_yaml
from sparsedict.storage import StorageError, check_finite
from sparsedict.torch_state import in_own_state

KIND = "cross_layer_transcoder"
FILE = re.compile(r"W_(enc|dec)_(\d{1,5})\.safetensors")

_LIBRARY = "a cross-layer transcoder of circuit-tracer"


def read(
    location: Location, config: Mapping[str, Any], *, device: torch.device | str | None, dtype: torch.dtype | None
) -> CrossLayerDistiller:
    """Reads a cross-layer transcoder.

    Args:
        location: The folder.
        config: The configuration; empty without one.
        device: Device of the weights.
        dtype: Type of the weights.

    Raises:
        FileNotFoundError: If a file is missing.
        StorageError: If a file is broken, or files don't fit together.
    """
    n_layers = _n_layers(location)
    layers, files = [], []
    for index in range(n_layers):
        layers.append(_read_layer(location, index, n_layers))
        files.append(location.folder / f"W_enc_{index}.safetensors")
    plain = {key: value for key, value in config.items() if value is None or isinstance(value, str | int | float)}
    ends = [str(config[key]) for key in ("feature_input_hook", "feature_output_hook") if config.get(key)]
    known = {"model": config.get("model_name"), "site": " -> ".join(ends) or None}
    trained_on = {"library": "circuit-tracer", **{k: v for k, v in known.items() if v is not None}, "cfg": plain}
    return cross_layer(layers, files, may_be_negative=False, trained_on=trained_on, device=device, dtype=dtype)


def _n_layers(location: Location) -> int:
    found = {int(match[2]) for name in location.entries() if (match := FILE.fullmatch(name)) and match[1] == "enc"}
    missing = sorted(set(range(max(found, default=0) + 1)) - found)
    if missing:
        raise FileNotFoundError(
            f"{location} must contain a file of each layer from 0, but W_enc_{missing[0]}.safetensors is missing."
        )
    return len(found)


def _read_layer(location: Location, index: int, n_layers: int) -> LayerWeights:
    encoder_file, decoder_file = (f"W_{part}_{index}.safetensors" for part in ("enc", "dec"))
    found = location.find(encoder_file), location.find(decoder_file)
    if found[0] is None or found[1] is None:
        raise FileNotFoundError(f"{location} must contain {encoder_file} and {decoder_file}.")
    own = read_safetensors(found[0])
    encoder = own.take(f"W_enc_{index}", "n_latents", "d_model")
    encoder_bias = own.take(f"b_enc_{index}", "n_latents")
    decoder_bias = own.take(f"b_dec_{index}", "d_model")
    threshold = own.take_optional(f"threshold_{index}", "n_latents")
    own.check_all_used(_LIBRARY)
    named = {f"W_enc_{index}": encoder, f"b_enc_{index}": encoder_bias, f"b_dec_{index}": decoder_bias}
    check_finite(named, str(own.file))
    rows = read_safetensors(found[1])
    check_targets(rows, f"W_dec_{index}", n_layers - index, n_layers)
    rows.sizes |= {**own.sizes, "n_targets": n_layers - index}
    decoder = rows.take(f"W_dec_{index}", "n_latents", "n_targets", "d_model")
    rows.check_all_used(_LIBRARY)
    check_finite({f"W_dec_{index}": decoder}, str(rows.file))
    return LayerWeights(encoder, encoder_bias, decoder, decoder_bias, threshold)


@in_own_state
def write(
    dictionary: CrossLayerDistiller,
    folder: Path,
    *,
    model: str | None,
    hooks: tuple[str | None, str | None],
) -> None:
    """Writes a cross-layer transcoder. All files are checked before the first one is written.

    Args:
        dictionary: The cross-layer distiller.
        folder: The folder.
        model: Name of the model, or ``None`` for the name in ``trained_on``.
        hooks: The hooks of inputs and outputs, or ``None`` to derive them from the training sites.

    Raises:
        ValueError: If circuit-tracer doesn't support a property of the dictionary, its layers aren't those of the
            model from 0, or the folder contains other transcoders.
    """
    layers = _supported_layers(dictionary)
    trained_on = _by_layer(dictionary)
    _check_folder(folder, len(layers))
    config = {**valid_entries(dictionary), "model_kind": KIND, **entries_of(trained_on, model, hooks, {})}
    for index, layer in enumerate(layers):
        named = {"W_enc": layer.encoder, "b_enc": layer.encoder_bias, "b_dec": layer.decoder_bias}
        named |= {} if layer.threshold is None else {"threshold": layer.threshold}
        write_tensors(folder / f"W_enc_{index}.safetensors", {f"{name}_{index}": w for name, w in named.items()})
        write_tensors(folder / f"W_dec_{index}.safetensors", {f"W_dec_{index}": layer.decoder})
    write_text(folder / about.CONFIG, yaml_of(config))


def _supported_layers(dictionary: CrossLayerDistiller) -> list[LayerWeights]:
    """Returns the weights of all layers after checking that circuit-tracer's files can express them."""
    sizes = dictionary.layer_sizes
    if len(set(sizes)) > 1:
        raise unsupported(f"{', '.join(map(str, sizes))} latents in its layers", _LIBRARY, ("equal numbers",))
    if any(bool(skip.any()) for skip in dictionary.skips):
        raise unsupported(
            "linear skips",
            _LIBRARY,
            ("transcoders without them",),
            "Its loader reads no skip from files. Train with `skip=False`, or write distillers of single layers.",
        )
    layers = layers_of(dictionary, _LIBRARY)
    for index, layer in enumerate(layers):
        weights = {name: weight for name, weight in vars(layer).items() if weight is not None}
        check_finite(weights, f"Layer {dictionary.layers[index].name!r} of `dictionary`")
    return layers


def _by_layer(dictionary: CrossLayerDistiller) -> dict[int, dict[str, Any]]:
    """Returns the metadata of each layer.

    Raises:
        ValueError: If the layers aren't those of the model from 0.
    """
    names = [layer.name for layer in dictionary.layers]
    shared = dictionary.trained_on
    several = {key: value for key, value in shared.items() if isinstance(value, list) and len(value) == len(names)}
    found = {
        index: {"layer": index, **shared, **{key: value[index] for key, value in several.items()}}
        for index in range(len(names))
    }
    trained_at = [layer_of(metadata) for metadata in found.values()]
    if None in trained_at and all(name.isdecimal() for name in names):
        trained_at = [int(name) for name in names]
    if any(own not in (None, index) for index, own in enumerate(trained_at)):
        raise ValueError(
            "`dictionary` must have the layers of the model from 0 in their order, as circuit-tracer requires, got "
            f"layers {', '.join(map(str, trained_at))}. Train it on all MLPs of the model."
        )
    return found


def _check_folder(folder: Path, n_layers: int) -> None:
    """Checks that the folder contains no transcoders that circuit-tracer would mix with the new one."""
    if not folder.is_dir():
        return
    location = Location.from_path(folder)
    names, file = location.entries(), location.find(about.CONFIG)
    if file is not None and read_yaml(file).get("model_kind") != KIND:
        raise ValueError(
            f"`path` must be a folder without the configuration of something else, but {file} isn't of a "
            f"{KIND}. Write to another folder."
        )
    layers = [int(found[2]) for name in names if (found := FILE.fullmatch(name))]
    others = [name for name in names if about.LAYER.fullmatch(name)]
    others += [name for name in names if (found := FILE.fullmatch(name)) and int(found[2]) >= n_layers]
    if others:
        kept = f"; the transcoder there has {max(layers) + 1} layers" if layers else ""
        raise ValueError(
            f"`path` must be a folder without files of other transcoders, because circuit-tracer would read them too, "
            f"but {folder} contains {listed(sorted(others))}{kept}. Write to another folder."
        )


def part_of(location: Location) -> StorageError:
    """Returns the error for a file that is only a part of a cross-layer transcoder."""
    return StorageError(
        f"{location} is one file of a cross-layer transcoder, whose layers are in several files. Read the folder: "
        f"`sd.load({location.path_of(None)!r})`."
    )
