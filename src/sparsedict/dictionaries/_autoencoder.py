"""`SparseAutoencoder`, which reproduces one activation vector through sparse latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.batches import Points
from sparsedict.dictionaries._exported import Exported
from sparsedict.dictionaries._from_weights import from_weights
from sparsedict.dictionaries._input_norm import NormalisedInput
from sparsedict.dictionaries._scales import Scales
from sparsedict.dictionaries._start import start_from
from sparsedict.latents import SparseLatents
from sparsedict.norms import DecoderNorm, Free, InputNorm
from sparsedict.types import Role

InputOffset = Literal["decoder_bias", "own", "none"]


class SparseAutoencoder(NormalisedInput):
    """Reproduces one activation vector through sparse latents.

    ``latents = activation((x + offset) @ encoder.T + encoder_bias)``; ``y = latents @ decoder + decoder_bias``. With an
    ``input_norm``, ``x`` is the normalised input, and ``y`` is returned to the scale of the input.

    Args:
        d_in: Width of the activations.
        n_latents: Number of latents.
        activation: How pre-activations become latents.
        decoder_norm: The constraint on decoder rows.
        reads: The point of a site to reproduce: the MLP's ``"outputs"``, ``"inputs"`` or ``"neurons"``.
        input_offset: The offset of the input: ``"decoder_bias"`` subtracts the decoder's bias, ``"own"`` adds a learned
            vector, and ``"none"`` adds nothing.
        input_norm: Normalisation of the input before the offset; ``None`` for no normalisation.
        device: Device of the weights.
        dtype: Dtype of the weights.
        generator: Random number generator for the weights.

    Source: Bricken et al., "Towards Monosemanticity", 2023; Cunningham et al., "Sparse Autoencoders Find Highly
    Interpretable Features in Language Models", 2023.

    Example:
        >>> import torch, sparsedict as sd
        >>> sae = sd.SparseAutoencoder(8, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
        >>> sae.encode(torch.randn(5, 8)).shape
        torch.Size([5, 32])
    """

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        *,
        activation: Activation,
        decoder_norm: DecoderNorm,
        reads: Role = "outputs",
        input_offset: InputOffset = "decoder_bias",
        input_norm: InputNorm | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        checks.one_of("reads", reads, ("inputs", "outputs", "neurons"))
        checks.one_of("input_offset", input_offset, ("decoder_bias", "own", "none"))
        super().__init__(
            d_in,
            d_in,
            n_latents,
            activation=activation,
            decoder_norm=decoder_norm,
            device=device,
            dtype=dtype,
            generator=generator,
        )
        self.reads: Points = reads
        self.writes: Points = reads
        self.input_offset: InputOffset = input_offset
        self._add_input_parts(input_norm, has_bias=input_offset == "own", device=device, dtype=dtype)

    @classmethod
    def from_weights(
        cls,
        encoder: Float[Tensor, "n_latents d_in"],
        decoder: Float[Tensor, "n_latents d_in"],
        *,
        activation: Activation,
        input_offset: InputOffset,
        encoder_bias: Float[Tensor, " n_latents"] | None = None,
        decoder_bias: Float[Tensor, " d_in"] | None = None,
        input_bias: Float[Tensor, " d_in"] | None = None,
        activation_state: Mapping[str, Tensor | float] | None = None,
        decoder_norm: DecoderNorm | None = None,
        reads: Role = "outputs",
        input_norm: InputNorm | None = None,
        input_norm_state: Mapping[str, Tensor] | None = None,
        copy: bool = True,
    ) -> SparseAutoencoder:
        """Returns an autoencoder with copies of given weights, such as the weights of a custom checkpoint.

        Args:
            encoder: ``[n_latents, d_in]``, as the weight of ``nn.Linear(d_in, n_latents)``.
            decoder: ``[n_latents, d_in]``, transposed from the weight of ``nn.Linear(n_latents, d_in)``.
            activation: How pre-activations become latents.
            input_offset: The offset of the input: ``"decoder_bias"`` subtracts the decoder's bias, ``"own"`` adds
                ``input_bias``, and ``"none"`` adds nothing. Weights alone don't determine it, so it has no default.
            encoder_bias: Zeros by default.
            decoder_bias: Zeros by default.
            input_bias: Required with ``input_offset="own"``.
            activation_state: Learned state of the activation by name, such as ``{"log_threshold": threshold.log()}``
                for JumpReLU or ``{"threshold": 0.5}`` for BatchTopK. A number applies to all latents. Weights alone
                don't determine the state, so only values that ``fit`` measures may be omitted, and the threshold of
                ``JumpReLU(threshold)``.
            decoder_norm: The constraint on decoder rows in further training; ``sd.Free()`` by default.
            reads: The point of a site to reproduce.
            input_norm: Normalisation of the input before the offset.
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
            >>> linear_in, linear_out = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8)
            >>> sae = sd.SparseAutoencoder.from_weights(
            ...     linear_in.weight, linear_out.weight.T, encoder_bias=linear_in.bias, decoder_bias=linear_out.bias,
            ...     activation=sd.ReLU(), input_offset="none",
            ... )
            >>> x = torch.randn(5, 8)
            >>> torch.allclose(sae(x).reconstruction, linear_out(linear_in(x).relu()), atol=1e-6)
            True
        """
        if (input_bias is not None) != (input_offset == "own"):
            raise ValueError(
                "`input_bias` must be given with `input_offset='own'` and left out otherwise, got "
                f"{'a' if input_bias is not None else 'no'} bias with input_offset={input_offset!r}."
            )

        def make(d_in: int, d_out: int, n_latents: int, **parts: Any) -> SparseAutoencoder:
            if d_in != d_out:
                raise ValueError(f"`decoder` must be as wide as `encoder`, {d_in}, for an autoencoder, got {d_out}.")
            return cls(d_in, n_latents, reads=reads, input_offset=input_offset, input_norm=input_norm, **parts)

        biases = {"encoder_bias": encoder_bias, "decoder_bias": decoder_bias, "input_bias": input_bias}
        weights = {"encoder": encoder, "decoder": decoder, **biases}
        norm = decoder_norm or Free()
        return from_weights(
            make, weights, activation, norm, activation_state, copy=copy, input_norm_state=input_norm_state
        )

    def _initial_encoder(self, decoder: Tensor, d_in: int, generator: torch.Generator | None) -> Tensor:
        return decoder.clone()

    def initialise_(self, inputs: Float[Tensor, "n_tokens d_in"], targets: Float[Tensor, "n_tokens d_out"]) -> None:
        self._measure_norm_(inputs)
        norm = self._bound_norm()
        # The decoder's output is in normalised units, so its rows start from normalised targets.
        start_from(self, inputs, targets if norm is None else norm.normalise(targets))

    def in_decoder_scale(self, difference: Float[Tensor, "n_tokens d_out"]) -> Float[Tensor, "n_tokens d_out"]:
        norm = self._bound_norm()
        affine = None if norm is None else norm.affine
        return difference if affine is None else difference * affine[0]

    def parameter_units(self, scales: Scales) -> dict[str, float]:
        return super().parameter_units(scales) | {"input_bias": scales.encoded}

    def _offset(self) -> Float[Tensor, " d_in"] | None:
        if self.input_offset == "decoder_bias":
            return -self.shared(self.decoder_bias)
        return super()._offset()

    def reconstruct(
        self, latents: Float[Tensor, "*batch n_latents"] | SparseLatents, inputs: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_in"]:
        decoded, norm = self.decode(latents), self._bound_norm()
        return decoded if norm is None else norm.restore(decoded, inputs)

    def exported(self) -> Exported:
        return self._exported(
            encoder_bias=self._bias_with_offset(),
            is_distiller=False,
            subtracts_decoder_bias=self.input_offset == "decoder_bias",
            input_norm=self._bound_norm(),
        )

    def folded(self) -> SparseAutoencoder:
        folded, factor, shift = self._without_norm(subtracts_decoder_bias=self.input_offset == "decoder_bias")
        with torch.no_grad():
            folded.decoder.div_(factor)
            folded.decoder_bias.sub_(shift).div_(factor)
        return folded

    def arguments(self) -> dict[str, Any]:
        return {
            "d_in": self.d_in,
            "n_latents": self.n_latents,
            "reads": self.reads,
            "input_offset": self.input_offset,
            "input_norm": self.input_norm,
        }
