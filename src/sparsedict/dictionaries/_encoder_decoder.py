"""The steps of a dictionary from its input to its output, which kinds override."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsedict import checks
from sparsedict.dictionaries._block_products import decoded, entries_at, pre_activations
from sparsedict.dictionaries._weights import DictionaryWeights
from sparsedict.kernels import Affine
from sparsedict.latents import SparseLatents, Support
from sparsedict.selections import Selection


class EncoderDecoder(DictionaryWeights):
    """The steps of a :class:`Dictionary` from its input to its output.

    By default the encoder is affine and the decoder linear: ``latents = activation(x @ encoder.T + encoder_bias)``,
    ``y = latents @ decoder + decoder_bias``. A kind of dictionary overrides the steps that differ:

    - :meth:`encoder_inputs`, where the encoder's matrix multiplies a function of the input;
    - :meth:`pre_activations`, where the encoder isn't affine, and :meth:`pre_activations_at` to train it sparsely;
    - :meth:`decode`, where the decoder isn't linear;
    - :meth:`reconstruct`, where the output also depends on the input.

    Attributes:
        has_affine_encoder: Whether ``pre_activations(x) == encoder_inputs(x) @ encoder.T + encoder_bias``. A kind that
            overrides :meth:`pre_activations` without :meth:`encoder_inputs` has the value ``False``.
    """

    has_affine_encoder: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if overrides(cls, "pre_activations") and "has_affine_encoder" not in vars(cls):
            cls.has_affine_encoder = overrides(cls, "encoder_inputs")
        has_other_encoder = overrides(cls, "pre_activations") or overrides(cls, "encoder_inputs")
        if has_other_encoder and not overrides(cls, "pre_activations_at"):
            # The inherited method computes entries of the inherited encoder.
            cls.pre_activations_at = EncoderDecoder.pre_activations_at

    def _rows(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        """Returns activations as rows in the weights' type, and their leading dimensions."""
        checks.activations("x", x, self.d_in)
        return x.reshape(-1, self.d_in).to(self.encoder_bias.dtype), x.shape[:-1]

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

    def global_selection(
        self, rule: Selection, support: Support, known: Float[Tensor, " n_entries"], strengths: Tensor | None = None
    ) -> tuple[Support, Float[Tensor, " n_kept"]]:
        """Returns the entries that a rule selects among the latents of all processes.

        Args:
            rule: The rule.
            support: The entries that it selects among the latents of this process.
            known: Their pre-activations, without gradient.
            strengths: Values by which entries are selected; the pre-activations by default.
        """
        return (support, known) if self.shard is None else self.shard.global_selection(rule, support, known, strengths)

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
