"""The blocks of a dictionary over several layers, whose latents write to their own layer and to later ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from sparsedict.dictionaries._blocks import Block
from sparsedict.dictionaries._layers import Layer
from sparsedict.dictionaries._layout import DecoderLayout


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
