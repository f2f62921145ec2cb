"""`SparseDistiller`, also called transcoder, which predicts an MLP's output from its input through sparse latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.batches import Points
from sparsedict.dictionaries._exported import Exported
from sparsedict.dictionaries._from_weights import from_weights
from sparsedict.dictionaries._input_norm import NormalisedInput
from sparsedict.dictionaries._neuron_checks import check_neurons, matching_activation
from sparsedict.dictionaries._neuron_start import start_from_neurons_
from sparsedict.dictionaries._scales import Scales
from sparsedict.latents import SparseLatents
from sparsedict.norms import DecoderNorm, Free, InputNorm


class SparseDistiller(NormalisedInput):
    """A wide sparse student of one MLP, also called a transcoder: predicts the MLP's output from its input.

    ``latents = activation((x + input_bias) @ encoder.T + encoder_bias)``;
    ``y = latents @ decoder + decoder_bias (+ x @ skip.T)``. With an ``input_norm``, the encoder reads the normalised
    input, and the skip reads the input without normalisation.

    Args:
        d_in: Width of the MLP's input.
        d_out: Width of the MLP's output.
        n_latents: Number of latents.
        activation: How pre-activations become latents.
        decoder_norm: The constraint on decoder rows.
        input_bias: Whether a learned vector is added to the input.
        skip: Whether a learned linear map of the input is added to the output. It is zero at initialisation.
        input_norm: Normalisation of the input before the bias; ``None`` for no normalisation.
        device: Device of the weights.
        dtype: Dtype of the weights.
        generator: Random number generator for the weights.

    Source: the idea in slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation; "transcoder" in Dunefsky,
    Chlenski and Nanda, "Transcoders Find Interpretable LLM Feature Circuits", 2024; the skip in Paulo, Shabalin and
    Belrose, "Transcoders Beat Sparse Autoencoders for Interpretability", 2025.

    Example:
        >>> import torch, sparsedict as sd
        >>> transcoder = sd.SparseDistiller(8, 8, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
        >>> latents, output = transcoder(torch.randn(2, 5, 8))
        >>> latents.shape, output.shape
        (torch.Size([2, 5, 32]), torch.Size([2, 5, 8]))
    """

    reads: Points = "inputs"
    writes: Points = "outputs"

    def __init__(
        self,
        d_in: int,
        d_out: int,
        n_latents: int,
        *,
        activation: Activation,
        decoder_norm: DecoderNorm,
        input_bias: bool = False,
        skip: bool = False,
        input_norm: InputNorm | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        input_bias, skip = checks.boolean("input_bias", input_bias), checks.boolean("skip", skip)
        super().__init__(
            d_in,
            d_out,
            n_latents,
            activation=activation,
            decoder_norm=decoder_norm,
            device=device,
            dtype=dtype,
            generator=generator,
        )
        self._add_input_parts(input_norm, has_bias=input_bias, device=device, dtype=dtype)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.skip: nn.Parameter | None = nn.Parameter(torch.zeros(d_out, d_in, **options)) if skip else None

    def initialise_(self, inputs: Float[Tensor, "n_tokens d_in"], targets: Float[Tensor, "n_tokens d_out"]) -> None:
        self._measure_norm_(inputs)
        super().initialise_(inputs, targets)

    def initialise_from_neurons_(
        self, neurons: Any, inputs: Float[Tensor, "n_tokens d_in"], targets: Float[Tensor, "n_tokens d_out"]
    ) -> None:
        """Starts the first latents from the MLP's own neurons, and the others from the data (:meth:`initialise_`).

        The decoder row of such a latent is that of its neuron, scaled to norm 1. The encoder row and bias are those of
        the neuron times the norm. For a gated MLP, or with an ``input_norm``, they are the ridge regression of the
        positive part of the neuron's activation on the input instead, since no affine map equals the neuron. If there
        are also latents that start from the data, a common factor gives the pre-activations of neurons the same spread.
        If there are fewer latents than neurons, those with the largest mean contributions are used. The decoder bias is
        chosen such that the mean reconstruction is the mean target.

        Call it before ``fit``, which doesn't initialise the dictionary again.

        Args:
            neurons: The MLP's own neurons, such as ``site.neurons``.
            inputs: Inputs of the MLP. Pass several times as many tokens as there are latents.
            targets: Outputs of the MLP for the same tokens.

        Raises:
            TypeError: If ``neurons`` aren't neurons.
            ValueError: If the widths of neurons and distiller differ, or activations aren't finite.

        Example:
            >>> import sparsedict as sd
            >>> site = sd.Site(sd.zoo.load_model(), "transformer.h.1.mlp")
            >>> batch = site.capture(sd.zoo.tokens("train", n_tokens=2_000)).batch()
            >>> parts = {"activation": sd.TopK(32), "decoder_norm": sd.UnitNorm()}
            >>> transcoder = sd.Transcoder(site.d_in, site.d_out, 1024, **parts)
            >>> transcoder.initialise_from_neurons_(site.neurons, batch.inputs, batch.outputs)
        """
        check_neurons(neurons)
        widths = neurons.encoder.shape[1], neurons.decoder.shape[1]
        if widths != (self.d_in, self.d_out):
            raise ValueError(
                f"`neurons` must have the widths of the distiller, {self.d_in} and {self.d_out}, got {widths[0]} and "
                f"{widths[1]}. Pass the neurons of the same site."
            )
        checks.rows(inputs, targets, self.d_in, self.d_out)
        for name, part in (("inputs", inputs), ("targets", targets)):
            checks.finite(name, part, "They would become weights. Look for overflow in the model.")
        inputs, targets = (part.detach().to(self.encoder_bias) for part in (inputs, targets))
        self.initialise_(inputs, targets)
        start_from_neurons_(self, neurons, inputs, targets)

    def reconstruct(
        self, latents: Float[Tensor, "*batch n_latents"] | SparseLatents, inputs: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        decoded = self.decode(latents)
        return decoded if self.skip is None else decoded + functional.linear(inputs, self.skip)

    def parameter_units(self, scales: Scales) -> dict[str, float]:
        units = {"input_bias": scales.encoded, "skip": scales.targets / scales.inputs}
        return super().parameter_units(scales) | units

    def exported(self) -> Exported:
        skip = None if self.skip is None else self.skip.detach()
        bias = self._bias_with_offset()
        return self._exported(encoder_bias=bias, is_distiller=True, skip=skip, input_norm=self._bound_norm())

    def folded(self) -> SparseDistiller:
        return self._without_norm()[0]

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {
            "input_bias": self.input_bias is not None,
            "skip": self.skip is not None,
            "input_norm": self.input_norm,
        }

    @classmethod
    def from_weights(
        cls,
        encoder: Float[Tensor, "n_latents d_in"],
        decoder: Float[Tensor, "n_latents d_out"],
        *,
        activation: Activation,
        encoder_bias: Float[Tensor, " n_latents"] | None = None,
        decoder_bias: Float[Tensor, " d_out"] | None = None,
        input_bias: Float[Tensor, " d_in"] | None = None,
        skip: Float[Tensor, "d_out d_in"] | None = None,
        activation_state: Mapping[str, Tensor | float] | None = None,
        decoder_norm: DecoderNorm | None = None,
        input_norm: InputNorm | None = None,
        input_norm_state: Mapping[str, Tensor] | None = None,
        copy: bool = True,
    ) -> SparseDistiller:
        """Returns a distiller with copies of given weights, such as the weights of a custom checkpoint.

        Args:
            encoder: ``[n_latents, d_in]``, as the weight of ``nn.Linear(d_in, n_latents)``.
            decoder: ``[n_latents, d_out]``, transposed from the weight of ``nn.Linear(n_latents, d_out)``.
            activation: How pre-activations become latents.
            encoder_bias: Zeros by default.
            decoder_bias: Zeros by default.
            input_bias: A vector that is added to the input; none by default.
            skip: A linear map of the input that is added to the output; none by default.
            activation_state: Learned state of the activation by name, such as ``{"log_threshold": threshold.log()}``
                for JumpReLU or ``{"threshold": 0.5}`` for BatchTopK. A number applies to all latents. Weights alone
                don't determine the state, so only values that ``fit`` measures may be omitted, and the threshold of
                ``JumpReLU(threshold)``.
            decoder_norm: The constraint on decoder rows in further training; ``sd.Free()`` by default.
            input_norm: Normalisation of the input before the bias.
            input_norm_state: Measured numbers of the input norm by name, such as ``{"mean": mean}`` for InputCentre.
                Required if the norm has such numbers.
            copy: Whether to copy the weights. If ``False``, the dictionary shares the memory of weights that have the
                dtype of the encoder.

        Raises:
            TypeError: If a weight isn't a floating-point tensor.
            ValueError: If shapes don't match. The message suggests the transpose where it would match. Also if
                ``activation_state`` or ``input_norm_state`` lacks a value.

        Example:
            >>> import torch, sparsedict as sd
            >>> transcoder = sd.SparseDistiller.from_weights(torch.eye(3), torch.ones(3, 2), activation=sd.ReLU())
            >>> transcoder(torch.tensor([[1.0, 2.0, -3.0]])).reconstruction
            tensor([[3., 3.]], grad_fn=<ViewBackward0>)
        """

        def make(d_in: int, d_out: int, n_latents: int, **parts: Any) -> SparseDistiller:
            optional = {"input_bias": input_bias is not None, "skip": skip is not None, "input_norm": input_norm}
            return cls(d_in, d_out, n_latents, **optional, **parts)  # pyright: ignore[reportArgumentType]

        biases = {"encoder_bias": encoder_bias, "decoder_bias": decoder_bias, "input_bias": input_bias, "skip": skip}
        weights = {"encoder": encoder, "decoder": decoder, **biases}
        norm = decoder_norm or Free()
        return from_weights(
            make, weights, activation, norm, activation_state, copy=copy, input_norm_state=input_norm_state
        )

    @classmethod
    def from_neurons(cls, neurons: Any) -> SparseDistiller:
        """Returns a distiller that equals an ungated MLP exactly, with one latent per neuron.

        Args:
            neurons: The MLP's own neurons, such as ``site.neurons``.

        Raises:
            TypeError: If ``neurons`` aren't neurons.
            ValueError: If the MLP is gated, or its activation function is neither ReLU, GELU nor SiLU.
        """
        check_neurons(neurons)
        if getattr(neurons, "gate", None) is not None:
            raise ValueError(
                "`neurons` must belong to an ungated MLP, got a gated MLP. Its neurons are products of two linear maps "
                "of the input, which a distiller can't express. Use `site.replaced(site.neurons)` instead."
            )
        n_latents, d_in = neurons.encoder.shape
        distiller = cls(
            d_in,
            neurons.decoder.shape[1],
            n_latents,
            activation=matching_activation(neurons.activation),
            decoder_norm=Free(),
            device=neurons.encoder.device,
            dtype=neurons.encoder.dtype,
        )
        with torch.no_grad():
            for name in ("encoder", "encoder_bias", "decoder", "decoder_bias"):
                value = getattr(neurons, name)
                if value is not None:
                    getattr(distiller, name).copy_(value)
        return distiller


Transcoder = SparseDistiller
"""The field's name for a sparse distiller."""
