"""The weights of a dictionary: their construction, their blocks, and the norms of decoder rows."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.dictionaries._blocks import Block
from sparsedict.dictionaries._new_weights import drawn_seed, sums, tensor_options, unit_rows
from sparsedict.dictionaries._state import ActivationState
from sparsedict.norms import DecoderNorm
from sparsedict.sharding import Shard


class DictionaryWeights(nn.Module):
    """The weights of a :class:`Dictionary`. All of them are latent-major.

    Attributes:
        encoder: ``[n_latents, d_in]``.
        encoder_bias: ``[n_latents]``.
        decoder: ``[n_latents, d_out]``.
        decoder_bias: ``[d_out]``.
        activation: How pre-activations become latents.
        activation_state: Learned parameters and measured buffers of the activation.
        decoder_norm: The constraint on decoder rows.
        start_seed: Seed by which `Dictionary.initialise_` draws tokens. The constructor draws it after the weights.
        point_widths: Widths of the points that a decoder row writes, for norms that constrain each point; empty for a
            single point. A kind assigns it before it calls the constructor of its base class.
        layer_sizes: Number of latents of each layer, for activations that act on each layer; empty for a single layer.
            A kind assigns it before it calls the constructor of its base class.
        shard: The latents that this process holds, while the latents are divided among processes (see `shard_`);
            ``None`` if the dictionary is whole.
    """

    point_widths: tuple[int, ...] = ()
    layer_sizes: tuple[int, ...] = ()
    shard: Shard | None = None

    def __init__(
        self,
        d_in: int,
        d_out: int,
        n_latents: int,
        *,
        activation: Activation,
        decoder_norm: DecoderNorm,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        checks.generator("generator", generator)
        d_in, d_out = checks.at_least("d_in", d_in, 1), checks.at_least("d_out", d_out, 1)
        n_latents = checks.at_least("n_latents", n_latents, 1)
        checks.part("activation", activation, Activation, "sd.TopK(k=32)")
        checks.part("decoder_norm", decoder_norm, DecoderNorm, "sd.UnitNorm()")
        activation = activation.at_layers(self.layer_sizes) if self.layer_sizes else activation
        activation.check(n_latents)
        self.activation = activation
        self.decoder_norm = decoder_norm
        self.trained_on: dict[str, Any] = {}
        options = tensor_options(device, dtype)
        self.activation_state: ActivationState = ActivationState(activation, n_latents, **options)
        self._make_weights(d_in, d_out, n_latents, generator, options)
        self._drawn = (self.encoder_bias.dtype, sums(self._weights()))
        # Weights on the meta device are loaded from a file, so no seed is needed.
        self.start_seed: int = 0 if self.encoder_bias.is_meta else drawn_seed(generator)
        self.eval()

    def _make_weights(
        self, d_in: int, d_out: int, n_latents: int, generator: torch.Generator | None, options: dict[str, Any]
    ) -> None:
        """Registers the weights of a new dictionary. A kind with several :meth:`blocks` has matrices for each block."""
        decoder = unit_rows(n_latents, d_out, generator, options["device"]).to(**options)
        if not decoder.is_meta:
            self.decoder_norm.at_points(self.point_widths or (d_out,)).constrain_(decoder)
        self.encoder: nn.Parameter = nn.Parameter(self._initial_encoder(decoder, d_in, generator).to(**options))
        self.encoder_bias: nn.Parameter = nn.Parameter(torch.zeros(n_latents, **options))
        self.decoder: nn.Parameter = nn.Parameter(decoder)
        self.decoder_bias: nn.Parameter = nn.Parameter(torch.zeros(d_out, **options))

    def _initial_encoder(self, decoder: Tensor, d_in: int, generator: torch.Generator | None) -> Tensor:
        """Returns unit rows of a new encoder, ``[n_latents, d_in]``: random rows by default."""
        return unit_rows(len(decoder), d_in, generator, decoder.device)

    def has_drawn_weights(self) -> bool:
        """Returns whether the weights are as drawn by the constructor: not edited or frozen."""
        if not all(weight.requires_grad for weight in self._weights()):
            return False
        dtype, drawn = self._drawn
        # Conversion to another dtype changes the sums slightly. Any other change of a sum is an edit.
        tolerance = 1e-9 if self.encoder_bias.dtype == dtype else 1e-2
        return torch.allclose(sums(self._weights()), drawn, rtol=tolerance, atol=tolerance)

    def _weights(self) -> tuple[nn.Parameter, ...]:
        return self.encoder, self.encoder_bias, self.decoder, self.decoder_bias

    @property
    def per_latent(self) -> frozenset[str]:
        """Names of the weights in ``state_dict`` with one row per latent, for ``sd.load(path, latents=...)``.

        A kind that adds such weights extends the set: ``super().per_latent | {"gate"}``.
        """
        state = self.activation_state.state_dict().items()
        of_state = {f"activation_state.{name}" for name, value in state if value.ndim}
        return frozenset({"encoder", "encoder_bias", "decoder", *of_state})

    @property
    def per_block(self) -> tuple[tuple[str, ...], ...]:
        """Names of the weights in ``state_dict`` whose rows belong to the latents of each of several :meth:`blocks`."""
        return ()

    @property
    def d_in(self) -> int:
        return self.encoder.shape[1]

    @property
    def d_out(self) -> int:
        return self.decoder.shape[1]

    @property
    def n_latents(self) -> int:
        return len(self.encoder_bias)

    def blocks(self) -> tuple[Block, ...]:
        """Returns the blocks of latents with equal inputs and outputs. By default, there is one block.

        Override this method if some latents read or write only some of the columns. Products, norms, the
        initialisation from data, `AuxK` and `Resample` use the blocks.
        """
        latents, everything, widths = slice(0, self.n_latents), slice(0, None), self.point_widths or (self.d_out,)
        return (Block(latents, self.encoder, self.decoder, everything, everything, widths),)

    def constrain_decoder_(self) -> None:
        """Applies the decoder norm to the decoder, in place; a frozen decoder stays as it is."""
        for block in self.blocks():
            if block.decoder.requires_grad and not block.decoder.is_meta:
                block.constrain_(self.decoder_norm)

    def project_decoder_gradient_(self) -> None:
        """Removes the component of the decoder's gradient that the decoder norm would undo, in place."""
        for block in self.blocks():
            if block.decoder.grad is not None:
                block.project_gradient_(self.decoder_norm, block.decoder.grad)

    def decoder_norms(self) -> Float[Tensor, " n_latents"]:
        """Returns the norm of each decoder row, differentiable."""
        return torch.cat([block.norms() for block in self.blocks()])

    def point_norms(self) -> Float[Tensor, "n_latents n_points"]:
        """Returns the norm of each decoder row at each point that the dictionary writes, differentiable."""
        widths = self.point_widths or (self.d_out,)
        starts = list(accumulate(widths, initial=0))
        found = []
        for block in self.blocks():
            first = starts.index(block.writes.start)
            found.append(functional.pad(block.point_norms(), (first, len(widths) - first - len(block.widths))))
        return torch.cat(found)
