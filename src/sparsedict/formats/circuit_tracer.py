"""circuit-tracer: a folder with ``config.yaml`` and one ``layer_{i}.safetensors`` for each layer of a model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict import hub
from sparsedict.activations import ReLU, TopK
from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _made as made
from sparsedict.formats import _transcoder_set as about
from sparsedict.formats import gemma_scope
from sparsedict.formats._made import Learned, Weights
from sparsedict.formats._place import Place
from sparsedict.formats._tensors import Tensors, read_safetensors
from sparsedict.formats._transcoder_set import LAYER
from sparsedict.formats._written import CALIBRATE, exact_form, refuse, threshold_of, write_tensors, write_text
from sparsedict.formats._yaml import read_yaml
from sparsedict.storage import StorageError

CONFIG = "config.yaml"
THRESHOLD = "activation_function.threshold"

_CROSS_LAYER = re.compile(r"W_(enc|dec)_\d{1,5}\.safetensors")


def recognises(place: Place) -> bool:
    """Whether the files are circuit-tracer's."""
    if place.named is not None and place.named != CONFIG:
        return bool(LAYER.fullmatch(place.named) or _CROSS_LAYER.fullmatch(place.named))
    return _is_set(place) or any(LAYER.fullmatch(name) or _CROSS_LAYER.fullmatch(name) for name in place.entries())


def read(
    path: str | os.PathLike[str],
    *,
    layer: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads the transcoder of one layer; its forward pass is circuit-tracer's own.

    Args:
        path: The folder, or the file of one layer. Of a folder on the hub, only this layer's file is downloaded.
        layer: Which layer, where the path is a folder of several.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; as in the file where left out (single precision if there are thresholds).

    Raises:
        FileNotFoundError: If a file is missing, or the folder holds several layers and none was chosen.
        ImportError: If PyYAML isn't installed and there is a ``config.yaml``.
        StorageError: If a file is broken, or a cross-layer transcoder.
    """
    place = Place.of(path)
    config = _config(place)
    files = _layers(place, config)
    if layer is None and len(files) > 1:
        raise FileNotFoundError(
            f"{place} holds {len(files)} layers: choose one, such as `sd.formats.circuit_tracer.read(path, "
            f"layer={min(files)})` or `sd.load({place.inside(files[min(files)])!r})`; `read_set` reads all."
        )
    chosen = next(iter(files)) if layer is None else layer
    if chosen not in files:
        raise FileNotFoundError(f"{place} holds no layer {layer}, only {', '.join(map(str, files))}.")
    return _read_layer(place, files[chosen], config, chosen, device, dtype)


def read_set(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[int, Dictionary]:
    """Reads the transcoders of all layers, by layer; otherwise as :func:`read`."""
    place = Place.of(path)
    config = _config(place)
    files = _layers(place, config)
    return {layer: _read_layer(place, name, config, layer, device, dtype) for layer, name in files.items()}


def write(
    dictionary: Dictionary | Mapping[int, Dictionary],
    path: str | os.PathLike[str],
    *,
    layer: int | None = None,
    model: str | None = None,
    input_hook: str | None = None,
    output_hook: str | None = None,
) -> None:
    """Writes distillers so that circuit-tracer loads them, and computes the same.

    circuit-tracer asks for one in every layer from 0 on, of equal widths, with a skip in all or none. An input bias and
    a constant scale go into the weights; a BatchTopK becomes a JumpReLU of one threshold. Of TopK, circuit-tracer keeps
    negative values among the ``k`` largest, which a warning says.

    Args:
        dictionary: A distiller that gives as many numbers as it reads, with ReLU, JumpReLU, BatchTopK or TopK; or such
            distillers by layer.
        path: The folder. Other layers in it stay, and must fit to these; a set that replaces some layers of an earlier
            one must replace all.
        layer: The layer, where there is one distiller; where left out, that of its site, or 0.
        model: Name of the model, such as ``"gpt2"``; where left out, as the distiller noted it.
        input_hook: What they read, as a TransformerLens hook within a block, such as ``"mlp.hook_in"``; where left out,
            by the site that they were trained at.
        output_hook: What they write, such as ``"mlp.hook_out"``.

    Raises:
        TypeError: If one isn't a distiller.
        ValueError: If circuit-tracer has nothing like an activation, a normalisation or the widths, or can't use the
            set: a layer is missing, or layers differ in width, skip, ``k`` or hooks; if layers of an earlier set would
            be left among the new ones; or if a hook isn't one within a block.
    """
    about.check_given(model, input_hook, output_hook)
    by_layer = about.by_layer(dictionary, layer)
    tensors = {number: _tensors(one) for number, one in by_layer.items()}
    folder, there = Path(path), {}
    config: dict[str, Any] = {}
    if folder.is_dir():
        place = Place.of(folder)
        config = _config(place)
        there = about.shapes_in(place, config)
    new = {number: about.Shape.of(tensors[number], by_layer[number].activation) for number in by_layer}
    if not isinstance(dictionary, Dictionary):
        about.check_whole(folder, there.keys(), new.keys())
    about.check_set({**there, **new})
    is_replaced = there.keys() <= new.keys()
    config = about.config_of(by_layer, model, (input_hook, output_hook), {} if is_replaced else config)
    for number, weights in tensors.items():
        write_tensors(folder / f"layer_{number}.safetensors", weights)
    # A JSON string is a YAML string too.
    write_text(folder / CONFIG, "".join(f"{name}: {json.dumps(value)}\n" for name, value in config.items()))


def _tensors(dictionary: Dictionary) -> dict[str, Tensor]:
    form = exact_form(dictionary, "circuit-tracer")
    if not form.is_distiller:
        raise TypeError(
            "`dictionary` must be a distiller, such as SparseDistiller: circuit-tracer puts them in the place of MLPs, "
            f"got {type(dictionary).__name__}."
        )
    d_in, d_out = form.encoder.shape[1], form.decoder.shape[1]
    if d_in != d_out:
        raise refuse(f"widths d_in={d_in} and d_out={d_out}", "circuit-tracer", ("one width for both",))
    if form.input_norm is not None:
        raise refuse(f"the normalisation {form.input_norm}", "circuit-tracer", ("inputs as they are",))
    threshold = threshold_of(form)
    if threshold is None and not isinstance(form.activation, ReLU | TopK):
        remedy = CALIBRATE if form.activation.non_negative else ""
        raise refuse(f"the activation {form.activation}", "circuit-tracer", ("ReLU, JumpReLU and TopK",), remedy)
    named = {"W_enc": form.encoder, "W_dec": form.decoder, "b_enc": form.encoder_bias, "b_dec": form.decoder_bias}
    optional = {"W_skip": form.skip, THRESHOLD: threshold}
    return named | {name: tensor for name, tensor in optional.items() if tensor is not None}


def _config(place: Place) -> dict[str, Any]:
    file = place.find(CONFIG)
    config = {} if file is None else read_yaml(file)
    kind = config.get("model_kind", "transcoder_set")
    is_crossing = any(map(_CROSS_LAYER.fullmatch, place.entries()))
    if kind == "cross_layer_transcoder" or (is_crossing and file is None):
        raise StorageError(
            f"{place} holds a cross-layer transcoder, whose latents write to several layers: there is no kind of "
            "dictionary for it here yet."
        )
    if kind != "transcoder_set":
        raise StorageError(f"{file}: `model_kind` must be transcoder_set, got {str(kind)[:80]!r}.")
    return config


def _is_set(place: Place) -> bool:
    """Whether there is a configuration that describes a set: other tools keep theirs under the same name."""
    try:
        file = place.find(CONFIG)
    except StorageError:
        return False
    if file is None:
        return False
    with file.open("rb") as stream:
        return b"model_kind" in stream.read(2**16)


def _layers(place: Place, config: dict[str, Any]) -> dict[int, str]:
    """Finds the files of the layers by name."""
    if place.named is not None and place.named != CONFIG:
        found = LAYER.fullmatch(place.named)
        return {int(found[1]) if found else 0: place.named}
    named = config.get("transcoders")
    if isinstance(named, list) and all(isinstance(name, str) for name in named):
        return {number: _local(place, name) for number, name in enumerate(named)}
    files = {int(found[1]): name for name in place.entries() if (found := LAYER.fullmatch(name))}
    if not files:
        raise FileNotFoundError(f"{place} lacks the files of layers, layer_0.safetensors and so on.")
    return dict(sorted(files.items()))


def _local(place: Place, name: str) -> str:
    """Returns the name of a file that a configuration lists; one on the hub is taken where the configuration is too."""
    if hub.is_address(name) and place.snapshot is None:
        raise FileNotFoundError(
            f"{place.inside(CONFIG)} lists {name[:200]}, which isn't in the folder. Load each layer by its own "
            f"address: `sd.load({_address(name)[:200]!r})`."
        )
    return name


def _address(name: str) -> str:
    """Returns an address as it is written here: circuit-tracer has the revision behind the path, as in a URL."""
    path, _, revision = name.partition("?revision=")
    return f"{path}@{revision}" if revision else path


def _file(place: Place, name: str) -> Path:
    if hub.is_address(name):
        place = Place.of(_address(name))
        if place.named is None:
            raise StorageError(f"{CONFIG} must list files of weights, but {place} is a folder.")
        name = place.named
    file = place.find(name)
    if file is None:
        raise FileNotFoundError(f"{place} lacks {name[:200]}.")
    return file


def _read_layer(
    place: Place,
    name: str,
    config: dict[str, Any],
    layer: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Dictionary:
    file = _file(place, name)
    if file.suffix == ".npz":
        return gemma_scope.read_file(file, {}, kind="distiller", device=device, dtype=dtype)
    tensors = read_safetensors(file)
    if "w_enc" in tensors:
        return gemma_scope.read_file(file, {}, kind="distiller", device=device, dtype=dtype)
    if any(_CROSS_LAYER.fullmatch(f"{tensor}.safetensors") for tensor in tensors.shapes):
        raise StorageError(
            f"{file} is part of a cross-layer transcoder: there is no kind of dictionary for it here yet."
        )
    weights = _weights(tensors)
    learned = _learned(tensors, config, place.folder / CONFIG)
    tensors.finish("circuit-tracer", ignored=("k",))
    ends = [str(config[key]) for key in ("feature_input_hook", "feature_output_hook") if config.get(key)]
    known = {"model": config.get("model_name"), "site": " -> ".join(ends) or None, "layer": layer}
    trained_on = {"library": "circuit-tracer", **{k: v for k, v in known.items() if v is not None}}
    plain = {key: value for key, value in config.items() if value is None or isinstance(value, str | int | float)}
    return made.distiller(weights, learned, file, trained_on=trained_on | {"cfg": plain}, device=device, dtype=dtype)


def _weights(tensors: Tensors) -> Weights:
    bias = tensors.take("b_enc", "n_latents")
    decoder_bias = tensors.take("b_dec", "d_model")
    sizes = (tensors.sizes["n_latents"], tensors.sizes["d_model"])
    # Files of mid-2025 hold the decoder the other way round, and files made from other libraries the encoder too.
    turned = {name for name in ("W_enc", "W_dec") if tensors.shapes.get(name) == sizes[::-1] != sizes}
    encoder, decoder = (
        tensors.take_turned(name, "d_model", "n_latents")
        if name in turned
        else tensors.take(name, "n_latents", "d_model")
        for name in ("W_enc", "W_dec")
    )
    return Weights(encoder, bias, decoder, decoder_bias, skip=tensors.maybe("W_skip", "d_model", "d_model"))


def _learned(tensors: Tensors, config: dict[str, Any], config_file: Path) -> Learned:
    if THRESHOLD in tensors:
        number = tensors.shapes[THRESHOLD] in ((), (1,))
        threshold = tensors.take(THRESHOLD, *(("one",) * len(tensors.shapes[THRESHOLD]) if number else ("n_latents",)))
        each = threshold.reshape(-1).expand(tensors.sizes["n_latents"]).clone() if number else threshold
        return made.jump_relu(each, tensors.file, may_be_negative=False)
    name = str(config.get("activation") or "relu").lower().replace("_", "")
    if name == "topk":
        return Learned(TopK(made.integer(config, "k", config_file)))
    if name == "relu":
        return Learned(ReLU())
    raise StorageError(f"{config_file}: `activation` {name[:80]!r} has no {THRESHOLD!r} in {tensors.file.name}.")
