"""`NormalisedInput`, the base of kinds whose encoder reads a normalised input plus an offset."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsedict import checks
from sparsedict.dictionaries._dictionary import Dictionary
from sparsedict.dictionaries._new_weights import tensor_options
from sparsedict.latents import Support
from sparsedict.norms import Free, InputNorm
from sparsedict.torch_state import in_own_state

Kind = TypeVar("Kind", bound="NormalisedInput")


class NormalisedInput(Dictionary):
    """The part of `SparseDistiller` and `SparseAutoencoder` that computes the encoder's input.

    ``encoder_inputs(x) = normalise(x) + offset``. The numbers of a measured norm are buffers, such as ``input_mean``.

    Attributes:
        input_norm: Normalisation of the input; ``None`` for no normalisation.
        input_bias: Learned vector that is added to the normalised input, ``[d_in]``; ``None`` without one.
    """

    input_norm: InputNorm | None
    input_bias: nn.Parameter | None

    def _add_input_parts(
        self,
        input_norm: InputNorm | None,
        *,
        has_bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Registers the numbers of the normalisation and the learned offset of a new dictionary."""
        if input_norm is not None:
            if not isinstance(input_norm, InputNorm):
                raise TypeError(
                    "`input_norm` must be None or an InputNorm such as `sd.InputLayerNorm()`, got "
                    f"{input_norm!r}{checks.instance_hint(input_norm)}."
                )
            input_norm.check(self.d_in)
        self.input_norm = input_norm
        options = tensor_options(device, dtype)
        for name, value in ({} if input_norm is None else input_norm.initial_state(self.d_in)).items():
            self.register_buffer(f"input_{name}", value.to(**options))
        self.input_bias = nn.Parameter(torch.zeros(self.d_in, **options)) if has_bias else None

    def _bound_norm(self) -> InputNorm | None:
        """Returns the normalisation with the numbers that the dictionary has."""
        norm = self.input_norm
        if norm is None:
            return None
        names = norm.initial_state(0)
        return norm.with_state({name: getattr(self, f"input_{name}") for name in names}) if names else norm

    @in_own_state
    @torch.no_grad()
    def _measure_norm_(self, inputs: Tensor) -> None:
        """Measures the numbers of the normalisation on some inputs, in place."""
        if self.input_norm is not None:
            for name, value in self.input_norm.measured(inputs).items():
                getattr(self, f"input_{name}").copy_(value)

    def _offset(self) -> Float[Tensor, " d_in"] | None:
        """Returns the vector that is added to the normalised input; ``None`` without one."""
        return None if self.input_bias is None else self.shared(self.input_bias)

    def encoder_inputs(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        norm = self._bound_norm()
        x = x if norm is None else norm.normalise(x)
        offset = self._offset()
        return x if offset is None else x + offset

    def pre_activations_at(
        self, x: Float[Tensor, "n_tokens d_in"], support: Support, known: Float[Tensor, " n_entries"] | None = None
    ) -> Float[Tensor, " n_entries"]:
        return self._affine_at(x, support, known, offset=self._offset())

    @in_own_state
    @torch.no_grad()
    def _bias_with_offset(self) -> Tensor:
        """Returns the encoder's bias plus the contribution of the learned offset."""
        bias = self.encoder_bias.detach()
        return bias if self.input_bias is None else bias + self.encoder @ self.input_bias

    @torch.no_grad()
    def _without_norm(
        self: Kind, *, subtracts_decoder_bias: bool = False
    ) -> tuple[Kind, Tensor | float, Tensor | float]:
        """Returns a copy without normalisation, whose encoder includes it, and the factor and shift of the input.

        Args:
            subtracts_decoder_bias: Whether the encoder subtracts the decoder's bias, which then includes the shift.
        """
        folded = copy.deepcopy(self)
        norm = self._bound_norm()
        if norm is None:
            return folded, 1.0, 0.0
        if norm.affine is None:
            raise ValueError(
                f"`input_norm` must be the same affine map of every input to be folded into weights, got "
                f"{self.input_norm}, which depends on the input. Use the dictionary without folding."
            )
        factor, shift = norm.affine
        if folded.input_bias is not None:
            folded.input_bias.add_(shift).div_(factor)
        elif not subtracts_decoder_bias:
            shifts = torch.as_tensor(shift, device=folded.encoder.device).to(folded.encoder).expand(folded.d_in)
            folded.encoder_bias.add_(folded.encoder @ shifts)
        folded.encoder.mul_(factor)
        for name in self.input_norm.initial_state(0) if self.input_norm is not None else ():
            delattr(folded, f"input_{name}")
        folded.input_norm = None
        folded.decoder_norm = Free()
        return folded, factor, shift
