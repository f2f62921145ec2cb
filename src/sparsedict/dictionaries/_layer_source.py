"""`LayerSource`, a dictionary of the latents of one layer of a dictionary over several layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sparsedict.dictionaries._blocks import Block
from sparsedict.dictionaries._dictionary import Dictionary
from sparsedict.dictionaries._point_scales import columns
from sparsedict.dictionaries._state import ActivationState
from sparsedict.latents import SparseLatents, per_entry
from sparsedict.norms import Free


class _Shared(NamedTuple):
    """The parts of the whole dictionary that a layer uses."""

    whole: Dictionary
    block: Block
    skip: nn.Parameter | None


class LayerSource(Dictionary):
    """The latents of one layer of a dictionary over several layers, with shared weights.

    A layer source reads the input of the layer's MLP, and returns the contributions of the layer's latents to their
    target layers. The contribution to the layer itself includes its decoder bias and its skip connection.

    Args:
        whole: Dictionary that reads and writes one point for each layer.
        index: Index of the layer.
        output_widths: Output width of each layer.
        input_scale: Divisor of the layer's inputs, a scalar.
        output_scale: Factor of the output of each layer, ``[n_layers]``.
        skip: The linear map of the layer's input that is added to its output.
    """

    def __init__(
        self,
        whole: Dictionary,
        index: int,
        *,
        output_widths: tuple[int, ...],
        input_scale: Float[Tensor, ""],
        output_scale: Float[Tensor, " n_layers"],
        skip: nn.Parameter | None,
    ) -> None:
        nn.Module.__init__(self)  # the weights are those of the whole dictionary
        block = whole.blocks()[index]
        n_written = len(block.widths)
        # A tuple, so that the dictionary isn't registered as a submodule.
        self._shared = _Shared(whole, block, skip)
        self.reads = whole.reads[index]
        self.writes = tuple(whole.writes[index : index + n_written])
        self.activation = whole.activation.of_layer(index)
        self.activation_state = _LayerState(whole, index, block.latents)
        self.decoder_norm = Free()
        self.trained_on = {}
        self._scales = input_scale, output_scale[index : index + n_written]
        self._own_width = output_widths[index]
        self._depends = whole.activation.of_layer(index) is whole.activation and not whole.activation.elementwise

    @property
    def training(self) -> bool:
        """Whether the whole dictionary is in training mode."""
        return self._shared.whole.training

    @training.setter
    def training(self, value: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if "_shared" in vars(self):
            self._shared.whole.training = value

    @property
    def encoder(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._shared.block.encoder

    @property
    def encoder_bias(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._shared.whole.encoder_bias[self._shared.block.latents]

    @property
    def decoder(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._shared.block.whole_rows()

    @property
    def decoder_bias(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        start = self._shared.block.writes.start
        own = self._shared.whole.decoder_bias[start : start + self._own_width]
        return functional.pad(own, (0, self.d_out - self._own_width))

    @property
    def d_out(self) -> int:
        return sum(self._shared.block.widths)

    def blocks(self) -> tuple[Block, ...]:
        block = self._shared.block
        latents, everything = slice(0, block.n_latents), slice(0, None)
        return (Block(latents, block.encoder, block.decoder, everything, everything, block.widths, block.n_copies),)

    def encoder_inputs(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return x / self._scales[0]

    def reconstruct(
        self, latents: Float[Tensor, "*batch n_latents"] | SparseLatents, inputs: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        decoded = self.decode(latents) * columns(self._scales[1], self._shared.block.widths)
        skip = self._shared.skip
        if skip is None:
            return decoded
        return decoded + functional.pad(functional.linear(inputs, skip), (0, self.d_out - self._own_width))

    def _rows(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        if self._depends and self.training:
            raise RuntimeError(
                f"{self.activation!r} selects among the latents of all layers during training, so a model can't run "
                "layer by layer. Call `dictionary.eval()` first."
            )
        return super()._rows(x)


def layer_sources(
    whole: Dictionary,
    *,
    output_widths: tuple[int, ...],
    input_scales: Float[Tensor, " n_layers"],
    output_scales: Float[Tensor, " n_layers"],
    skips: Sequence[nn.Parameter],
) -> list[Dictionary]:
    """Returns the source of each layer of a dictionary; see `LayerSource`. Without a skip, ``skips`` is empty."""
    return [
        LayerSource(
            whole,
            index,
            output_widths=output_widths,
            input_scale=input_scales[index],
            output_scale=output_scales,
            skip=skips[index] if skips else None,
        )
        for index in range(len(output_widths))
    ]


class _LayerState(ActivationState):
    """The part of a dictionary's activation state that belongs to the latents of one layer."""

    def __init__(self, whole: Dictionary, index: int, latents: slice) -> None:
        nn.Module.__init__(self)
        # A tuple, so that the dictionary isn't registered as a submodule.
        self._place = (whole, index, latents)

    def entries(self, latents: Tensor | None = None) -> dict[str, Tensor]:
        whole, index, own_latents = self._place
        state = whole.activation.state_of_layer(whole.activation_state.entries(), index)
        own = {name: value[own_latents] if value.ndim else value for name, value in state.items()}
        return {name: per_entry(value, latents) for name, value in own.items()}
