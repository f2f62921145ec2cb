"""The blocks of a dictionary over several layers, whose latents write to their own layer and to later ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsedict.dictionaries._blocks import Block
from sparsedict.dictionaries._layers import Layer
from sparsedict.dictionaries._layout import DecoderLayout
from sparsedict.dictionaries._new_weights import unit_rows


def targets_of(layout: DecoderLayout, layers: Sequence[Layer]) -> tuple[int, ...]:
    """Returns, for each layer, the index after the last layer that its latents write to."""
    ends: list[int] = []
    for source, layer in enumerate(layers):
        n_own = layout.n_targets(source, len(layers))
        if not 1 <= n_own <= len(layers) - source:
            raise ValueError(
                f"`layout.n_targets` must be from 1 to {len(layers) - source} for layer {layer.name!r}, which is the "
                f"number of layers from that one to the last, got {n_own} from {layout!r}."
            )
        widths = {other.d_out for other in layers[source : source + n_own]}
        if layout.is_tied and len(widths) > 1:
            raise ValueError(
                f"`layers` must have outputs of equal width for tied decoders, got {sorted(widths)} from "
                f"{layer.name!r} on. Use a layout without TiedDecoders."
            )
        ends.append(source + n_own)
    return tuple(ends)


def new_rows(
    layers: Sequence[Layer],
    sizes: Sequence[int],
    ends: Sequence[int],
    is_tied: bool,
    generator: torch.Generator | None,
    options: dict[str, Any],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields random unit rows for the encoder and the decoder of each layer.

    Args:
        layers: The layers.
        sizes: Number of latents of each layer.
        ends: See `layer_blocks`.
        is_tied: See `layer_blocks`.
        generator: Generator of the rows.
        options: Device and data type.
    """
    for index, (layer, n_own) in enumerate(zip(layers, sizes, strict=True)):
        widths = [other.d_out for other in layers[index : ends[index]]]
        decoder = unit_rows(n_own, widths[0] if is_tied else sum(widths), generator, options["device"]).to(**options)
        encoder = unit_rows(n_own, layer.d_in, generator, options["device"]).to(**options)
        yield encoder, decoder


def layer_blocks(
    weights: Sequence[tuple[Tensor, Tensor]],
    ends: Sequence[int],
    *,
    input_widths: Sequence[int],
    output_widths: Sequence[int],
    is_tied: bool,
) -> tuple[Block, ...]:
    """Returns the block of the latents of each layer.

    Args:
        weights: Encoder and decoder rows of the latents of each layer.
        ends: For each layer, the index after the last layer that its latents write to.
        input_widths: Input width of each layer.
        output_widths: Output width of each layer.
        is_tied: Whether a latent has one stored decoder row for all of its target layers.
    """
    sizes = [len(encoder) for encoder, _ in weights]
    latents, inputs, outputs = (list(accumulate(own, initial=0)) for own in (sizes, input_widths, output_widths))
    return tuple(
        Block(
            slice(latents[index], latents[index + 1]),
            encoder,
            decoder,
            slice(inputs[index], inputs[index + 1]),
            slice(outputs[index], outputs[end]),
            tuple(output_widths[index:end]),
            end - index if is_tied else 1,
        )
        for index, ((encoder, decoder), end) in enumerate(zip(weights, ends, strict=True))
    )


def assembled(parts: Sequence[tuple[Tensor, slice]], width: int) -> Tensor:
    """Returns one matrix with blocks of rows in their columns, and zeros elsewhere."""
    padded = [functional.pad(rows, (own.start, width - own.stop)) for rows, own in parts]
    return torch.cat(padded)


def fold_scales_(blocks: Sequence[Block], input_scales: Tensor, column_scales: Tensor) -> None:
    """Divides the encoder of each layer by the layer's input scale, and multiplies its decoder rows by output scales.

    Args:
        blocks: The block of each layer.
        input_scales: ``[n_layers]``.
        column_scales: The output scale of each column, ``[d_out]``.

    Raises:
        ValueError: If layers that share a decoder row have different output scales.
    """
    for block, input_scale in zip(blocks, input_scales, strict=True):
        block.encoder.div_(input_scale)
        own = column_scales[block.writes]
        if block.n_copies > 1 and bool((own != own[0]).any()):
            raise ValueError(
                "`dictionary` must not have tied decoders if it is folded, because the layers that share a row "
                "have different scales. Use the dictionary without folding."
            )
        block.decoder.mul_(own[: block.decoder.shape[1]])
