"""`CrossLayerDistiller`, whose latents read one layer and write to it and to later layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.batches import Points
from sparsedict.dictionaries._blocks import Block
from sparsedict.dictionaries._dictionary import Dictionary
from sparsedict.dictionaries._exported import Exported
from sparsedict.dictionaries._layer_blocks import assembled, fold_scales_, layer_blocks, new_rows, targets_of
from sparsedict.dictionaries._layer_source import layer_sources
from sparsedict.dictionaries._layers import Layer, Layers, latents_of, layers_of, sizes_of_subset
from sparsedict.dictionaries._layout import DecoderLayout, LaterLayers
from sparsedict.dictionaries._point_scales import columns, measure_
from sparsedict.dictionaries._scales import Scales, spread
from sparsedict.dictionaries._start import match_scale_, start_from
from sparsedict.latents import SparseLatents
from sparsedict.norms import DecoderNorm, Free
from sparsedict.selections import Above

LATER_LAYERS = LaterLayers()


class CrossLayerDistiller(Dictionary):
    r"""Sparse distiller of the MLPs of several layers, also called a cross-layer transcoder (CLT).

    Latents of layer :math:`i` read the input of that layer's MLP, and write to the outputs of the same layer and of
    later layers. With :math:`s_i` and :math:`t_j` the spread of inputs and outputs:

    .. math::
        a_i = \mathrm{activation}(E_i x_i / s_i + b_i), \qquad
        y_j = t_j \Big(\sum_{i \le j} a_i D_{ij} + c_j\Big) \; (+\, S_j x_j)

    The decoder row of a latent is the concatenation of its :math:`D_{ij}`. One sparse product for each layer therefore
    decodes to all target layers. ``encoder_i`` and ``decoder_i`` are the matrices of the latents of layer `i`. The
    spreads are 1 until ``fit`` measures them before the first step. Without them, an activation that selects among all
    layers would select mostly latents of layers with large activations.

    ``TopK(k)`` and ``BatchTopK(k)`` select among the latents of all layers. ``PerLayer(TopK(k))`` selects in each
    layer. `UnitNorm` and `MaxNorm` constrain whole decoder rows. ``PerPoint(UnitNorm())`` constrains the part of a row
    for each layer.

    Args:
        layers: `Sites` in the order of the model; a mapping of layer names to a width or ``(d_in, d_out)``; or a
            sequence of ``(name, d_in, d_out)``.
        n_latents: Number of latents of each layer: one number for all layers, a mapping of layer names to numbers, or
            a sequence with one number for each layer.
        activation: Activation of the latents.
        decoder_norm: The constraint on decoder rows.
        layout: Which layers latents write to: ``LaterLayers()``, ``NextLayers(reach)``, or ``TiedDecoders(...)`` of
            one of these. With ``NextLayers(0)`` each layer has a sparse distiller of its own.
        skip: Whether a learned linear map of each MLP's input is added to its output. The map is initially zero.
        device: Device of the weights.
        dtype: Data type of the weights.
        generator: Generator of the random weights.

    Raises:
        ValueError: If a layer is named twice, sites aren't in the order of the model, or parts are incompatible.

    Source: Lindsey et al., "Sparse Crosscoders for Cross-Layer Features and Model Diffing", 2024; Ameisen et al.,
    "Circuit Tracing: Revealing Computational Graphs in Language Models", 2025.

    Example:
        >>> import torch, sparsedict as sd
        >>> transcoder = sd.CrossLayerDistiller(
        ...     {"0": 8, "1": 8}, 32, activation=sd.PerLayer(sd.TopK(4)), decoder_norm=sd.UnitNorm()
        ... )
        >>> transcoder.reads, transcoder.writes
        (('0.inputs', '1.inputs'), ('0.outputs', '1.outputs'))
        >>> latents, outputs = transcoder(torch.randn(5, 16))
        >>> latents.shape, outputs.shape, transcoder.decoder_0.shape, transcoder.decoder_1.shape
        (torch.Size([5, 64]), torch.Size([5, 16]), torch.Size([32, 16]), torch.Size([32, 8]))
    """

    input_scale: Tensor
    output_scale: Tensor

    def __init__(
        self,
        layers: Layers,
        n_latents: int | Mapping[str, int] | Sequence[int],
        *,
        activation: Activation,
        decoder_norm: DecoderNorm,
        layout: DecoderLayout = LATER_LAYERS,
        skip: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.layers: tuple[Layer, ...] = layers_of(layers)
        self.layer_sizes: tuple[int, ...] = latents_of(n_latents, self.layers)
        self.point_widths: tuple[int, ...] = self.output_widths
        self.has_skip: bool = checks.boolean("skip", skip)
        checks.part("layout", layout, DecoderLayout, "sd.LaterLayers()")
        self.layout: DecoderLayout = layout
        self._ends = targets_of(layout, self.layers)
        self.reads: Points = tuple(f"{layer.name}.inputs" for layer in self.layers)
        self.writes: Points = tuple(f"{layer.name}.outputs" for layer in self.layers)
        super().__init__(
            sum(self.input_widths),
            sum(self.output_widths),
            sum(self.layer_sizes),
            activation=activation,
            decoder_norm=decoder_norm,
            device=device,
            dtype=dtype,
            generator=generator,
        )
        place: dict[str, Any] = {"device": self.encoder_bias.device, "dtype": self.encoder_bias.dtype}
        for name in ("input_scale", "output_scale"):
            self.register_buffer(name, torch.ones(len(self.layers), **place))
        for index, layer in enumerate(self.layers if self.has_skip else ()):
            self.register_parameter(f"skip_{index}", nn.Parameter(torch.zeros(layer.d_out, layer.d_in, **place)))

    def _make_weights(
        self, d_in: int, d_out: int, n_latents: int, generator: torch.Generator | None, options: dict[str, Any]
    ) -> None:
        rows = new_rows(self.layers, self.layer_sizes, self._ends, self.layout.is_tied, generator, options)
        for names, matrices in zip(self.per_block, rows, strict=True):
            for name, matrix in zip(names, matrices, strict=True):
                self.register_parameter(name, nn.Parameter(matrix))
        self.encoder_bias: nn.Parameter = nn.Parameter(torch.zeros(n_latents, **options))
        self.decoder_bias: nn.Parameter = nn.Parameter(torch.zeros(d_out, **options))
        self.constrain_decoder_()

    def _weights(self) -> tuple[nn.Parameter, ...]:
        matrices = [self.get_parameter(name) for names in self.per_block for name in names]
        return (*matrices, self.encoder_bias, self.decoder_bias)

    @property
    def input_widths(self) -> tuple[int, ...]:
        """Input width of each MLP."""
        return tuple(layer.d_in for layer in self.layers)

    @property
    def output_widths(self) -> tuple[int, ...]:
        """Output width of each MLP."""
        return tuple(layer.d_out for layer in self.layers)

    @property
    def d_in(self) -> int:
        return sum(self.input_widths)

    @property
    def d_out(self) -> int:
        return sum(self.output_widths)

    def latents_of(self, layer: str) -> slice:
        """Returns the latents of a layer, as a slice of all latents.

        Args:
            layer: Name of the layer.

        Raises:
            ValueError: If there is no such layer.
        """
        names = [own.name for own in self.layers]
        if layer not in names:
            raise ValueError(f"`layer` must be one of {names}, got {layer!r}.")
        return self.blocks()[names.index(layer)].latents

    def blocks(self) -> tuple[Block, ...]:
        return layer_blocks(
            [(self.get_parameter(encoder), self.get_parameter(decoder)) for encoder, decoder in self.per_block],
            self._ends,
            input_widths=self.input_widths,
            output_widths=self.output_widths,
            is_tied=self.layout.is_tied,
        )

    @property
    def encoder(self) -> Float[Tensor, "n_latents d_in"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The encoders of all layers as one matrix; columns of other layers are zero.

        Each access assembles a new matrix, so changes to it don't reach the weights. Use ``encoder_0`` etc. or
        :meth:`blocks` for the weights themselves. Training never assembles the matrix.
        """
        return assembled([(block.encoder, block.reads) for block in self.blocks()], self.d_in)

    @property
    def decoder(self) -> Float[Tensor, "n_latents d_out"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The decoders of all layers as one matrix; zero outside of target layers. Assembled like `encoder`."""
        return assembled([(block.whole_rows(), block.writes) for block in self.blocks()], self.d_out)

    @property
    def skips(self) -> tuple[nn.Parameter, ...]:
        """The linear map of each layer, ``[d_out, d_in]``; empty without ``skip``."""
        return tuple(self.get_parameter(f"skip_{index}") for index in range(len(self.layers) if self.has_skip else 0))

    @property
    def per_latent(self) -> frozenset[str]:
        return super().per_latent - {"encoder", "decoder"}

    @property
    def per_block(self) -> tuple[tuple[str, ...], ...]:
        return tuple((f"encoder_{index}", f"decoder_{index}") for index in range(len(self.layers)))

    def encoder_inputs(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return x / columns(self.input_scale, self.input_widths)

    def reconstruct(
        self, latents: Float[Tensor, "*batch n_latents"] | SparseLatents, inputs: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        decoded = self._decoded(latents, columns(self.output_scale, self.output_widths))
        if not self.has_skip:
            return decoded
        parts = zip(inputs.split(self.input_widths, dim=-1), self.skips, strict=True)
        return decoded + torch.cat([functional.linear(part, skip) for part, skip in parts], dim=-1)

    def in_decoder_scale(self, difference: Float[Tensor, "n_tokens d_out"]) -> Float[Tensor, "n_tokens d_out"]:
        return difference / columns(self.output_scale, self.output_widths)

    def initialise_(self, inputs: Float[Tensor, "n_tokens d_in"], targets: Float[Tensor, "n_tokens d_out"]) -> None:
        measure_(self.input_scale, inputs, self.input_widths)
        measure_(self.output_scale, targets, self.output_widths)
        start_from(self, inputs, self.in_decoder_scale(targets))
        match_scale_(self, inputs, targets)

    def scales(self, inputs: Float[Tensor, "n_tokens d_in"], targets: Float[Tensor, "n_tokens d_out"]) -> Scales:
        encoded, decoded = self.encoder_inputs(inputs), self.in_decoder_scale(targets)
        return Scales(spread(inputs), spread(encoded), spread(decoded), spread(targets))

    def parameter_units(self, scales: Scales) -> dict[str, float]:
        own = super().parameter_units(scales)
        ratios = (self.output_scale / self.input_scale).tolist()
        for index, (encoder, decoder) in enumerate(self.per_block):
            own |= {encoder: own["encoder"], decoder: own["decoder"], f"skip_{index}": ratios[index]}
        return own

    @property
    def unsplit_reason(self) -> str | None:
        """The reason why a model can't run layer by layer with this dictionary, or ``None`` if it can."""
        if self.activation.elementwise or self.activation.of_layer(0) is not self.activation:
            return None
        if isinstance(self.activation.selection(self.activation_state.entries(), training=False), Above):
            return None
        return (
            f"{self.activation!r} selects among the latents of all layers, so its selection in the first layer depends "
            f"on the last layer. Use sd.PerLayer({self.activation!r}), or sd.BatchTopK, which has a threshold after "
            "training."
        )

    def split_sources(self) -> list[Dictionary]:
        """Returns one dictionary for the latents of each layer, so that a model can run layer by layer.

        The dictionaries share the weights of this dictionary. The sum of their outputs is its reconstruction. If the
        latents of a layer depend on other layers, as with TopK over all layers, the list holds this dictionary itself.
        """
        if self.unsplit_reason is not None:
            return [self]
        scales = {"input_scales": self.input_scale, "output_scales": self.output_scale}
        return layer_sources(self, output_widths=self.output_widths, skips=self.skips, **scales)

    def exported(self) -> Exported:
        raise TypeError(
            "`dictionary` must have a single layer for export as plain weights, got a CrossLayerDistiller over "
            f"{len(self.layers)} layers. Save it by `dictionary.save(path)`."
        )

    @torch.no_grad()
    def folded(self) -> CrossLayerDistiller:
        folded = copy.deepcopy(self)
        column_scales = columns(self.output_scale, self.output_widths)
        fold_scales_(folded.blocks(), self.input_scale, column_scales)
        folded.decoder_bias.mul_(column_scales)
        folded.input_scale.fill_(1.0)
        folded.output_scale.fill_(1.0)
        folded.decoder_norm = Free()
        return folded

    @classmethod
    def for_subset(cls, n_latents: Any, activation: Activation, latents: Sequence[int]) -> tuple[Any, Activation]:
        sizes = sizes_of_subset(n_latents, latents)
        return sizes, activation.for_subset_of_layers(sizes)

    def arguments(self) -> dict[str, Any]:
        layers = tuple(tuple(layer) for layer in self.layers)
        return {"layers": layers, "n_latents": self.layer_sizes, "layout": self.layout, "skip": self.has_skip}


CrossLayerTranscoder = CrossLayerDistiller
"""Alias of `CrossLayerDistiller`, by its usual name in the literature."""
