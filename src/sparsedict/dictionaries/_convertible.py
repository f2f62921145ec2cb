"""Conversion of dictionaries: their export as plain weights, and copies with other parts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.batches import Points
from sparsedict.dictionaries._encoder_decoder import EncoderDecoder, overrides
from sparsedict.dictionaries._exported import Exported
from sparsedict.dictionaries._state import ActivationState, initial_state
from sparsedict.dictionaries._storable import Storable

Kind = TypeVar("Kind", bound="Convertible")

STEPS = ("encoder_inputs", "pre_activations", "decode", "reconstruct")
"""The methods between input and output that kinds may override."""


class Convertible(Storable):
    """The part of :class:`Dictionary` that converts it: to plain weights, or to a copy with other parts."""

    reads: Points
    writes: Points

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if any(overrides(cls, step) for step in STEPS) and not overrides(cls, "exported"):
            # The inherited form is that of the base's steps.
            cls.exported = Convertible.exported

    def exported(self) -> Exported:
        """Returns equivalent plain weights, which the writers in `sd.formats` store.

        The default applies to kinds that override none of the steps. Other kinds override this method if plain weights
        express them exactly.

        Raises:
            TypeError: If the kind overrides a step and not this method.
        """
        changed = [step for step in STEPS if getattr(type(self), step) is not getattr(EncoderDecoder, step)]
        if changed:
            raise TypeError(
                f"`dictionary` must have an exact form in plain weights, but {type(self).__name__} overrides "
                f"`{'`, `'.join(changed)}` and not `exported`. Override `exported` if plain weights compute the same."
            )
        return self._exported()

    def _exported(self, **others: Any) -> Exported:
        """Returns the plain weights of the base class, except those given in ``others``."""
        encoder, encoder_bias, decoder, decoder_bias = (weight.detach() for weight in self._weights())
        parts = {
            "activation": self.activation,
            "activation_state": {name: value.detach() for name, value in self.activation_state.state_dict().items()},
            "is_distiller": self.reads != self.writes,
        }
        weights = {"encoder_bias": encoder_bias, "decoder": decoder, "decoder_bias": decoder_bias}
        return Exported(encoder, **{**weights, **parts, **others})

    def folded(self: Kind) -> Kind:
        """Returns an equivalent dictionary whose weights include the normalisation of the input.

        Latents and outputs are equal up to rounding. The result is a copy if the dictionary has no normalisation.

        Raises:
            ValueError: If the normalisation depends on the input, so that no weights express it.
        """
        return copy.deepcopy(self)

    def with_activation(
        self: Kind, activation: Activation, activation_state: Mapping[str, Tensor | float] | None = None
    ) -> Kind:
        """Returns a copy with the same weights and another activation.

        The latents change with it: :func:`sparsedict.calibrate_threshold` finds a threshold that keeps L0.

        Args:
            activation: How pre-activations become latents.
            activation_state: State of the activation by name, such as ``{"threshold": 0.5}`` for BatchTopK. Values
                are tensors, or one number for all latents. Omitted values are those of a new dictionary.

        Raises:
            ValueError: If the activation is invalid for this number of latents, or has no state of this name or shape.
        """
        checks.part("activation", activation, Activation, "sd.TopK(k=32)")
        activation = activation.at_layers(self.layer_sizes) if self.layer_sizes else activation
        activation.check(self.n_latents)
        like = self.encoder_bias.detach()
        state = initial_state(activation, self.n_latents, like, activation_state or {})
        other = copy.deepcopy(self)
        other.activation = activation
        other.activation_state = ActivationState(activation, self.n_latents, like.device, like.dtype)
        other.activation_state.load_state_dict(state)
        return other
