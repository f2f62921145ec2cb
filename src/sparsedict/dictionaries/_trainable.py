"""Initialisation of a dictionary from data, and the units in which its parameters are trained."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sparsedict.dictionaries._convertible import Convertible
from sparsedict.dictionaries._scales import Scales, gain, spread
from sparsedict.dictionaries._start import start_from


class Trainable(Convertible):
    """The part of :class:`Dictionary` that prepares training: initial weights, and units of the parameters."""

    def initialise_(self, inputs: Float[Tensor, "n_tokens d_in"], targets: Float[Tensor, "n_tokens d_out"]) -> None:
        """Starts the weights of a new dictionary from a sample of its data; `fit` does so with its first batches.

        Each latent starts at one token, drawn without replacement by ``start_seed``. The decoder row is the token's
        target minus the mean target. The encoder row is the token's whitened input, scaled down, and the encoder bias
        centres it. The decoder bias is the mean target. Parameters with ``requires_grad=False`` don't change.

        Args:
            inputs: Activations that the dictionary reads. Pass several times as many tokens as there are latents.
            targets: Activations that the dictionary reproduces, of the same tokens.
        """
        start_from(self, inputs, targets / gain(self, inputs, spread(targets)))

    def scales(self, inputs: Float[Tensor, "n_tokens d_in"], targets: Float[Tensor, "n_tokens d_out"]) -> Scales:
        """Measures the scales of activations and latents.

        Args:
            inputs: Activations that the dictionary reads.
            targets: Activations that the dictionary reproduces, of the same tokens.
        """
        return Scales.measured(self, inputs, targets)

    def parameter_units(self, scales: Scales) -> dict[str, float]:
        """Returns the unit of each parameter by name, given the scales of the activations.

        With the default learning rate of ``fit``, a step of Adam moves a parameter by about the rate times its unit.
        A parameter without an entry has the unit 1. Override this method in a kind that adds parameters.
        """
        units = {
            "encoder": scales.latents / scales.encoded,
            "encoder_bias": scales.latents,
            "decoder": 1.0,
            "decoder_bias": scales.latents,
        }
        of_state = self.activation.units(scales.latents)
        return units | {f"activation_state.{name}": unit for name, unit in of_state.items()}

    def in_decoder_scale(self, difference: Float[Tensor, "n_tokens d_out"]) -> Float[Tensor, "n_tokens d_out"]:
        """Returns the direction that decoder rows need to add a difference to the output: the difference itself.

        Override it in a kind whose ``reconstruct`` multiplies columns of the decoder's output by different numbers.
        """
        return difference

    @property
    def is_untouched(self) -> bool:
        """Whether the weights are as drawn by the constructor, and neither trained, loaded, edited nor frozen."""
        return not self.trained_on and self.has_drawn_weights()
