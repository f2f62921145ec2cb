"""`Neurons`, the neurons of an MLP, which encode and decode like a dictionary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from sparsedict import checks
from sparsedict.torch_state import in_own_state
from sparsedict.types import Role


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Neurons:
    r"""The neurons of one MLP, with the interface of a dictionary.

    .. math::
        h = \sigma(E x + b), \qquad \text{gated: } h = \sigma(G x + g) \odot (E x + b), \qquad y = D^\top h + c

    The tensors of `Site.neurons` share memory with the model's parameters and are detached from them.

    Args:
        encoder: $E$, ``[n, d_in]``.
        decoder: $D$, ``[n, d_out]``.
        activation: $\sigma$, from pre-activations to activations, elementwise.
        encoder_bias: $b$, ``[n]``; zero if None.
        decoder_bias: $c$, ``[d_out]``; zero if None.
        gate: $G$, ``[n, d_in]``, for a gated MLP.
        gate_bias: $g$, ``[n]``, for a gated MLP.

    Raises:
        ValueError: If the shapes are incompatible.

    Example:
        >>> import torch
        >>> neurons = Neurons(torch.eye(3), torch.eye(3), torch.relu)
        >>> neurons.decode(neurons.encode(torch.tensor([1.0, -2.0, 3.0])))
        tensor([1., 0., 3.])
    """

    encoder: Float[Tensor, "n d_in"]
    decoder: Float[Tensor, "n d_out"]
    activation: Callable[[Any], Any]
    encoder_bias: Float[Tensor, " n"]
    decoder_bias: Float[Tensor, " d_out"]
    gate: Float[Tensor, "n d_in"] | None
    gate_bias: Float[Tensor, " n"] | None

    def __init__(
        self,
        encoder: Tensor,
        decoder: Tensor,
        activation: Callable[[Any], Any],
        encoder_bias: Tensor | None = None,
        decoder_bias: Tensor | None = None,
        gate: Tensor | None = None,
        gate_bias: Tensor | None = None,
    ) -> None:
        for name, weight in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
                got = f"{weight.dtype} {tuple(weight.shape)}" if isinstance(weight, Tensor) else type(weight).__name__
                raise ValueError(f"`{name}` must be a floating-point matrix with a row for each neuron, got {got}.")
        if not callable(activation):
            raise TypeError(f"`activation` must be callable, got {type(activation).__name__}.")
        if gate_bias is not None and gate is None:
            raise ValueError("`gate_bias` must be None if `gate` is None.")
        fields = {
            "encoder": encoder,
            "decoder": decoder,
            "activation": activation,
            "encoder_bias": encoder.new_zeros(len(encoder)) if encoder_bias is None else encoder_bias,
            "decoder_bias": decoder.new_zeros(decoder.shape[1]) if decoder_bias is None else decoder_bias,
            "gate": gate,
            "gate_bias": gate_bias,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self._check_shapes()

    def _check_shapes(self) -> None:
        expected = {
            "decoder": (self.n, self.d_out),
            "encoder_bias": (self.n,),
            "decoder_bias": (self.d_out,),
            "gate": (self.n, self.d_in),
            "gate_bias": (self.n,),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(
                    f"`{name}` must have shape {shape} to fit `encoder` {tuple(self.encoder.shape)}, "
                    f"got {tuple(value.shape)}."
                )

    def __repr__(self) -> str:
        name = getattr(self.activation, "__name__", type(self.activation).__name__)
        gated = ", gated" if self.gate is not None else ""
        return f"Neurons(n={self.n}, d_in={self.d_in}, d_out={self.d_out}, activation={name}{gated})"

    @property
    def n(self) -> int:
        """Number of neurons."""
        return self.encoder.shape[0]

    @property
    def n_latents(self) -> int:
        """Number of neurons. This is the name of the attribute in a dictionary."""
        return self.n

    @property
    def d_in(self) -> int:
        """Width of the MLP's input."""
        return self.encoder.shape[1]

    @property
    def d_out(self) -> int:
        """Width of the MLP's output."""
        return self.decoder.shape[1]

    @property
    def reads(self) -> Role:
        """Neurons read the MLP's inputs."""
        return "inputs"

    @property
    def writes(self) -> Role:
        """Neurons write the MLP's outputs."""
        return "outputs"

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n"]:
        """Returns the neurons' activations."""
        checks.activations("x", x, self.d_in)
        pre_activations = linear(x, self.encoder, self.encoder_bias)
        if self.gate is None:
            return self.activation(pre_activations)
        return self.activation(linear(x, self.gate, self.gate_bias)) * pre_activations

    def decode(self, latents: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch d_out"]:
        """Returns the MLP's output for the neurons' activations."""
        checks.activations("latents", latents, self.n)
        return linear(latents, self.decoder.T, self.decoder_bias)

    @in_own_state
    def fold(self, scale: Float[Tensor, " d_in"], shift: Float[Tensor, " d_in"] | None = None) -> Neurons:
        r"""Returns neurons whose input is $x$ instead of $s \odot x + t$, such as a LayerNorm's scale and shift.

        Args:
            scale: $s$.
            shift: $t$; zero if None.
        """
        scale = checks.latent_vector("scale", scale, self.d_in)

        def bias(weight: Tensor, old: Tensor | None) -> Tensor | None:
            return old if shift is None else (weight @ shift if old is None else old + weight @ shift)

        with torch.no_grad():
            return Neurons(
                encoder=self.encoder * scale,
                decoder=self.decoder,
                activation=self.activation,
                encoder_bias=bias(self.encoder, self.encoder_bias),
                decoder_bias=self.decoder_bias,
                gate=None if self.gate is None else self.gate * scale,
                gate_bias=None if self.gate is None else bias(self.gate, self.gate_bias),
            )
