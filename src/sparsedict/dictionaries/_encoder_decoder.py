"""The weights of a dictionary and the steps from its input to its output, which kinds override."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.dictionaries._block_products import decoded, entries_at, pre_activations
from sparsedict.dictionaries._blocks import Block
from sparsedict.dictionaries._new_weights import drawn_seed, sums, tensor_options, unit_rows
from sparsedict.dictionaries._state import ActivationState
from sparsedict.kernels import Affine
from sparsedict.latents import SparseLatents, Support
from sparsedict.norms import DecoderNorm
from sparsedict.selections import Selection
from sparsedict.sharding import Shard


class EncoderDecoder(nn.Module):
    """The weights of a :class:`Dictionary`, and the steps from its input to its output.

    By default the encoder is affine and the decoder linear: ``latents = activation(x @ encoder.T + encoder_bias)``,
    ``y = latents @ decoder + decoder_bias``. A kind of dictionary overrides the steps that differ:

    - :meth:`encoder_inputs`, where the encoder's matrix multiplies a function of the input;
    - :meth:`pre_activations`, where the encoder isn't affine, and :meth:`pre_activations_at` to train it sparsely;
    - :meth:`decode`, where the decoder isn't linear;
    - :meth:`reconstruct`, where the output also depends on the input.

    All weights are latent-major.

    Attributes:
        encoder: ``[n_latents, d_in]``.
        encoder_bias: ``[n_latents]``.
        decoder: ``[n_latents, d_out]``.
        decoder_bias: ``[d_out]``.
        activation: How pre-activations become latents.
        activation_state: Learned parameters and measured buffers of the activation.
        decoder_norm: The constraint on decoder rows.
        start_seed: Seed by which `Dictionary.initialise_` draws tokens. The constructor draws it after the weights.
        has_affine_encoder: Whether ``pre_activations(x) == encoder_inputs(x) @ encoder.T + encoder_bias``. A kind that
            overrides :meth:`pre_activations` without :meth:`encoder_inputs` has the value ``False``.
        point_widths: Widths of the points that a decoder row writes, for norms that constrain each point; empty for a
            single point. A kind assigns it before it calls the constructor of its base class.
        layer_sizes: Number of latents of each layer, for activations that act on each layer; empty for a single layer.
            A kind assigns it before it calls the constructor of its base class.
        shard: The latents that this process holds, while the latents are divided among processes (see `shard_`);
            ``None`` if the dictionary is whole.
    """

    has_affine_encoder: ClassVar[bool] = True
    point_widths: tuple[int, ...] = ()
    layer_sizes: tuple[int, ...] = ()
    shard: Shard | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if overrides(cls, "pre_activations") and "has_affine_encoder" not in vars(cls):
            cls.has_affine_encoder = overrides(cls, "encoder_inputs")
        has_other_encoder = overrides(cls, "pre_activations") or overrides(cls, "encoder_inputs")
        if has_other_encoder and not overrides(cls, "pre_activations_at"):
            # The inherited method computes entries of the inherited encoder.
            cls.pre_activations_at = EncoderDecoder.pre_activations_at

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
        d_in, d_out = checks.at_least("d_in", d_in, 1), checks.at_least("d_out", d_out, 1)
        n_latents = checks.at_least("n_latents", n_latents, 1)
        check_part("activation", activation, Activation, "sd.TopK(k=32)")
        check_part("decoder_norm", decoder_norm, DecoderNorm, "sd.UnitNorm()")
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

    def _rows(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        """Returns activations as rows in the weights' type, and their leading dimensions."""
        checks.activations("x", x, self.d_in)
        return x.reshape(-1, self.d_in).to(self.encoder_bias.dtype), x.shape[:-1]

    def _check_rows(self, inputs: Tensor, targets: Tensor) -> None:
        """Raises an error if inputs and targets aren't rows of the same tokens with the widths of the dictionary."""
        checks.rows(inputs, targets, self.d_in, self.d_out)

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

    def encoder_inputs(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Returns the vectors that the encoder's matrix multiplies: the inputs by default.

        A kind that uses a learned parameter here passes it through :meth:`shared`.
        """
        return x

    def shared(self, parameter: nn.Parameter) -> Tensor:
        """Returns a parameter on which all latents depend, for :meth:`encoder_inputs`: the parameter itself.

        If the latents are divided among processes, its gradient is the sum of those of all processes.
        """
        return parameter if self.shard is None else self.shard.shared(parameter)

    def total(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Returns a sum over the latents of all processes, given the sum over the latents of this process."""
        return value if self.shard is None else self.shard.peers.sum(value)

    def settled(
        self, rule: Selection, support: Support, known: Float[Tensor, " n_entries"], strengths: Tensor | None = None
    ) -> tuple[Support, Float[Tensor, " n_kept"]]:
        """Returns the entries that a rule selects among the latents of all processes.

        Args:
            rule: The rule.
            support: The entries that it selects among the latents of this process.
            known: Their pre-activations, without gradient.
            strengths: Values by which entries are selected; the pre-activations by default.
        """
        return (support, known) if self.shard is None else self.shard.settled(rule, support, known, strengths)

    def pre_activations(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Returns the arguments of the activation: ``encoder_inputs(x) @ encoder.T + encoder_bias`` by default."""
        return pre_activations(self.affine_parts(self.encoder_inputs(x)))

    def pre_activations_at(
        self, x: Float[Tensor, "n_tokens d_in"], support: Support, known: Float[Tensor, " n_entries"] | None = None
    ) -> Float[Tensor, " n_entries"]:
        """Returns the pre-activations at the entries of a support, differentiable.

        Training calls this method with the support of the activation, so that the backward pass only computes
        gradients of these entries. The default is sparse for affine encoders. For other encoders, the gradient flows
        through :meth:`pre_activations`: it is exact but dense. Override both methods to train such an encoder sparsely.

        Args:
            x: One row per token.
            support: The entries.
            known: The values of the entries if the search for the support computed them. Values that
                :meth:`pre_activations` computed carry its gradient. Detach them if this method defines the gradient.
        """
        if self.has_affine_encoder:
            return self._affine_at(x, support, known)
        return self.pre_activations(x)[support.tokens, support.latents] if known is None else known

    def _affine_at(
        self,
        x: Float[Tensor, "n_tokens d_in"],
        support: Support,
        known: Float[Tensor, " n_entries"] | None,
        offset: Float[Tensor, " d_in"] | None = None,
    ) -> Float[Tensor, " n_entries"]:
        """Returns pre-activations of the affine encoder at the entries, with sparse gradients.

        Args:
            x: One row per token.
            support: The entries.
            known: The values of the entries if the search for the support computed them.
            offset: The vector that `encoder_inputs` adds to every token, if the method has no other parameter. The
                gradient of this vector takes one product with a vector, while the gradient of ``encoder_inputs(x)``
                takes as long as decoding.
        """
        inputs = self.encoder_inputs(x)
        known = None if known is None else known.detach().to(inputs.dtype)
        if offset is None or x.requires_grad:
            return entries_at(self.affine_parts(inputs), support, known)
        offsets = [offset[block.reads] for block in self.blocks()]
        return entries_at(self.affine_parts(inputs.detach()), support, known, offsets)

    def affine_parts(self, inputs: Float[Tensor, "*batch d_in"]) -> list[Affine]:
        """Returns the affine encoder by blocks: the inputs, the rows and the biases of each.

        Args:
            inputs: The vectors that the encoder's matrix is applied to, see :meth:`encoder_inputs`.
        """
        bias = self.encoder_bias
        return [Affine(inputs[..., block.reads], block.encoder, bias[block.latents]) for block in self.blocks()]

    def decode(self, latents: Float[Tensor, "*batch n_latents"] | SparseLatents) -> Float[Tensor, "*batch d_out"]:
        """Returns the part of the output that depends on the latents alone: ``latents @ decoder + decoder_bias``."""
        return self._decoded(latents, None)

    def _decoded(
        self, latents: Float[Tensor, "*batch n_latents"] | SparseLatents, scales: Float[Tensor, " d_out"] | None
    ) -> Float[Tensor, "*batch d_out"]:
        """Returns the result of :meth:`decode` times a factor for each column, without another array."""
        if scales is not None and type(self).decode is not EncoderDecoder.decode:
            return self.decode(latents) * scales
        bias = self.decoder_bias if scales is None else self.decoder_bias * scales
        if self.shard is None:
            return decoded(self.blocks(), latents, bias, scales)
        own = decoded(self.blocks(), latents, torch.zeros_like(bias), scales)
        if isinstance(latents, SparseLatents) and latents.is_none:
            return own + bias
        return self.shard.peers.sum(own) + bias

    def reconstruct(
        self, latents: Float[Tensor, "*batch n_latents"] | SparseLatents, inputs: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """Returns the output from latents, and from inputs in kinds that use them, such as a kind with a skip."""
        return self.decode(latents)


def overrides(kind: type[EncoderDecoder], name: str) -> bool:
    """Returns whether a class overrides the method of this name of each base."""
    bases = [base for base in kind.__bases__ if issubclass(base, EncoderDecoder)]
    return all(getattr(kind, name) is not getattr(base, name) for base in bases)


def check_part(name: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        hint = " (pass an instance, not the class)" if isinstance(value, type) else ""
        raise TypeError(f"`{name}` must be {article} {kind.__name__} such as `{example}`, got {value!r}{hint}.")
