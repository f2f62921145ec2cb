"""The exact form of a dictionary: the plain weights that other libraries store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from sparsedict.activations import Activation
from sparsedict.display import Displayed
from sparsedict.norms import InputNorm


@dataclass(frozen=True, eq=False, repr=False)
class Exported(Displayed):
    """Plain weights with the same outputs as a dictionary.

    ``latents = activation(v @ encoder.T + encoder_bias)`` and ``y = latents @ decoder + decoder_bias (+ x @ skip.T)``,
    where ``v`` is the input ``x``, normalised by ``input_norm``, less the decoder's bias if ``subtracts_decoder_bias``.
    An autoencoder's output is returned to the scale of its input by ``input_norm``.

    Attributes:
        encoder: ``[n_latents, d_in]``.
        encoder_bias: ``[n_latents]``.
        decoder: ``[n_latents, d_out]``.
        decoder_bias: ``[d_out]``.
        activation: The activation.
        activation_state: The learned values of the activation, by name.
        is_distiller: Whether the dictionary reproduces other activations than it reads.
        subtracts_decoder_bias: Whether the decoder's bias is subtracted from the input.
        skip: A linear map of the input that is added to the output, ``[d_out, d_in]``; ``None`` without one.
        input_norm: The normalisation of the input; ``None`` without one.
    """

    encoder: Float[Tensor, "n_latents d_in"]
    encoder_bias: Float[Tensor, " n_latents"]
    decoder: Float[Tensor, "n_latents d_out"]
    decoder_bias: Float[Tensor, " d_out"]
    activation: Activation
    activation_state: Mapping[str, Tensor]
    is_distiller: bool
    subtracts_decoder_bias: bool = False
    skip: Float[Tensor, "d_out d_in"] | None = None
    input_norm: InputNorm | None = None

    def __post_init__(self) -> None:
        if self.encoder.ndim != 2 or self.decoder.ndim != 2:
            raise ValueError(
                "`encoder` and `decoder` must be matrices with one row for each latent, got shapes "
                f"{list(self.encoder.shape)} and {list(self.decoder.shape)}."
            )
        (n_latents, d_in), d_out = self.encoder.shape, self.decoder.shape[1]
        shapes = {
            "encoder_bias": (n_latents,),
            "decoder": (n_latents, d_out),
            "decoder_bias": (d_out,),
            "skip": (d_out, d_in),
        }
        for name, shape in shapes.items():
            weight = getattr(self, name)
            if weight is not None and tuple(weight.shape) != shape:
                raise ValueError(f"`{name}` must be of shape {list(shape)}, got {list(weight.shape)}.")
        if self.subtracts_decoder_bias and d_in != d_out:
            raise ValueError(
                f"`subtracts_decoder_bias` must be False for widths d_in={d_in} and d_out={d_out}, which differ."
            )

    def to_cpu(self) -> Exported:
        """Returns the same form with all tensors on the CPU, without history."""
        named = {name: getattr(self, name) for name in ("encoder", "encoder_bias", "decoder", "decoder_bias", "skip")}
        weights = {name: weight.detach().cpu() for name, weight in named.items() if weight is not None}
        state = {name: value.detach().cpu() for name, value in self.activation_state.items()}
        return replace(self, activation_state=state, **weights)
