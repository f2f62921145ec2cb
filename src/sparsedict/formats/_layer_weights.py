"""Weights of a cross-layer dictionary layer by layer, as other libraries store them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsedict.activations import Activation, BatchTopK, JumpReLU, PerLayer, ReLU
from sparsedict.dictionaries import CrossLayerDistiller
from sparsedict.formats import _build as build
from sparsedict.formats._build import LoadedActivation
from sparsedict.formats._export import CALIBRATE, threshold_of_batch, unsupported
from sparsedict.formats._tensors import Tensors
from sparsedict.norms import Free
from sparsedict.storage import StorageError, check_finite


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Weights of the latents of one layer, and the decoder bias and skip of the same layer.

    Attributes:
        encoder: ``[n_latents, d_model]``.
        encoder_bias: ``[n_latents]``.
        decoder: Decoder rows for this layer and all later layers, ``[n_latents, n_targets, d_model]``.
        decoder_bias: ``[d_model]``.
        threshold: Thresholds of JumpReLU, ``[n_latents]``; ``None`` for ReLU.
        skip: Linear map from the input to the output of this layer, ``[d_model, d_model]``; ``None`` without one.
    """

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    threshold: Tensor | None = None
    skip: Tensor | None = None

    def to_cpu(self) -> LayerWeights:
        """Returns the same weights on the CPU, without history."""
        named: dict[str, Any] = {
            name: weight.detach().cpu() for name, weight in vars(self).items() if weight is not None
        }
        return replace(self, **named)


def cross_layer(
    layers: Sequence[LayerWeights],
    files: Sequence[Path],
    *,
    may_be_negative: bool,
    trained_on: Mapping[str, Any],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    activation: Activation | None = None,
) -> CrossLayerDistiller:
    """Constructs a cross-layer distiller with layers ``"0"``, ``"1"`` and so on.

    Args:
        layers: Weights of each layer.
        files: File of each layer, for error messages.
        may_be_negative: See :func:`sparsedict.formats._build.jump_relu`.
        trained_on: Value of ``dictionary.trained_on``.
        device: Device of the weights.
        dtype: Type of the weights. By default the widest type in the checkpoint, and float32 if there are thresholds.
        activation: An activation without state. By default JumpReLU if there are thresholds, otherwise ReLU.

    Raises:
        StorageError: If the activation selects more latents than there are, layers differ in width, skip or
            thresholds, or weights aren't finite.
    """
    for name in ("threshold", "skip"):
        _check_all_or_none(name, [getattr(layer, name) is not None for layer in layers], files)
    n_latents, widths = [len(layer.encoder) for layer in layers], [layer.encoder.shape[1] for layer in layers]
    for index, width in enumerate(widths):
        if width != widths[0]:
            raise StorageError(
                f"{files[index]} must have the width {widths[0]} of the first layer, {files[0].name}, got {width}."
            )
    named = _by_name(layers)
    loaded = _activation(layers, files, may_be_negative) if activation is None else LoadedActivation(activation)
    dtype = dtype or build.widest_type(named.values(), loaded)
    named = {name: value.to(device=device, dtype=dtype) for name, value in named.items()}
    state = {f"activation_state.{name}": value.to(device=device, dtype=dtype) for name, value in loaded.state.items()}
    check_finite(named | state, f"{files[0].parent}")
    # The meta device avoids drawing and allocating weights that are replaced at once.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            made = CrossLayerDistiller(
                [(str(index), width, width) for index, width in enumerate(widths)],
                n_latents,
                activation=loaded.activation,
                decoder_norm=Free(),
                skip="skip_0" in named,
                dtype=dtype,
            )
        except ValueError as error:
            raise StorageError(f"{files[0].parent} doesn't contain a valid dictionary: {error}") from None
    scales = {name: torch.ones(len(layers), device=device, dtype=dtype) for name in ("input_scale", "output_scale")}
    made.load_state_dict(named | state | scales, assign=True)
    made.trained_on = dict(trained_on)
    return made.eval()


def check_targets(tensors: Tensors, name: str, n_targets: int, n_layers: int) -> None:
    """Checks that decoder rows ``[n_latents, n_targets, d_model]`` write to as many layers as the files leave.

    Args:
        tensors: The file of the decoder.
        name: Name of the decoder.
        n_targets: Number of layers that it must write to.
        n_layers: Number of layers that have files.

    Raises:
        StorageError: If it writes to another number of layers.
    """
    shape = tensors.shapes.get(name, ())
    if len(shape) == 3 and shape[1] != n_targets:
        raise StorageError(
            f"{tensors.file}: `{name}` must write to {n_targets} layers, because there are files of {n_layers} layers, "
            f"got {shape[1]}. The files of some layers are missing, or they belong to different transcoders."
        )


def _by_name(layers: Sequence[LayerWeights]) -> dict[str, Tensor]:
    named = {
        "encoder_bias": torch.cat([layer.encoder_bias for layer in layers]),
        "decoder_bias": torch.cat([layer.decoder_bias for layer in layers]),
    }
    for index, layer in enumerate(layers):
        named |= {f"encoder_{index}": layer.encoder, f"decoder_{index}": layer.decoder.flatten(1)}
        named |= {} if layer.skip is None else {f"skip_{index}": layer.skip}
    return named


def _activation(layers: Sequence[LayerWeights], files: Sequence[Path], may_be_negative: bool) -> LoadedActivation:
    parts = [
        build.jump_relu(layer.threshold, file, may_be_negative=may_be_negative).state["log_threshold"]
        for layer, file in zip(layers, files, strict=True)
        if layer.threshold is not None
    ]
    return LoadedActivation(JumpReLU(), {"log_threshold": torch.cat(parts)}) if parts else LoadedActivation(ReLU())


def _check_all_or_none(name: str, present: Sequence[bool], files: Sequence[Path]) -> None:
    if any(present) and not all(present):
        has, lacks = files[present.index(True)], files[present.index(False)]
        raise StorageError(f"{lacks} must have a {name} as the other layers do: {has.name} has one.")


@torch.no_grad()
def layers_of(dictionary: CrossLayerDistiller, library: str) -> list[LayerWeights]:
    """Returns weights with the same output as a dictionary, layer by layer on the CPU.

    The scales of inputs and outputs are multiplied into the weights. Tied decoder rows are repeated, and rows for
    layers that latents don't reach are zero.

    Raises:
        ValueError: If layers differ in width, or the activation isn't ReLU, JumpReLU or a trained BatchTopK.
    """
    width = dictionary.layers[0].d_in
    for layer in dictionary.layers:
        if {layer.d_in, layer.d_out} != {width}:
            widths = f"layer {layer.name!r} with widths d_in={layer.d_in} and d_out={layer.d_out}"
            raise unsupported(widths, library, (f"the width of the first layer, {width}, for all inputs and outputs",))
    thresholds = _thresholds(dictionary, library)
    found, n_layers = [], len(dictionary.layers)
    bias = dictionary.decoder_bias.reshape(n_layers, width) * dictionary.output_scale[:, None]
    for index, block in enumerate(dictionary.blocks()):
        rows = block.whole_rows().reshape(len(block.encoder), -1, width)
        rows = rows * dictionary.output_scale[index : index + rows.shape[1], None]
        padded = functional.pad(rows, (0, 0, 0, n_layers - index - rows.shape[1]))
        weights = LayerWeights(
            block.encoder / dictionary.input_scale[index],
            dictionary.encoder_bias[block.latents],
            padded,
            bias[index],
            None if thresholds is None else thresholds[block.latents],
            dictionary.skips[index] if dictionary.has_skip else None,
        )
        found.append(weights.to_cpu())
    return found


def _thresholds(dictionary: CrossLayerDistiller, library: str) -> Tensor | None:
    """Returns the threshold of each latent, or ``None`` for ReLU."""
    activation, state = dictionary.activation, dict(dictionary.activation_state.named_buffers())
    if isinstance(activation, ReLU):
        return None
    if isinstance(activation, JumpReLU):
        return activation.thresholds(dictionary.activation_state.entries())
    like = partial(threshold_of_batch, dtype=dictionary.encoder_bias.dtype)
    if isinstance(activation, BatchTopK):
        return like(state["threshold"], dictionary.n_latents)
    if isinstance(activation, PerLayer) and isinstance(activation.of_layer(0), BatchTopK):
        sizes = dictionary.layer_sizes
        return torch.cat([like(state[f"threshold_{i}"], size) for i, size in enumerate(sizes) if size])
    remedy = CALIBRATE if activation.non_negative else ""
    raise unsupported(f"the activation {activation}", library, ("ReLU, JumpReLU and trained BatchTopK",), remedy)
