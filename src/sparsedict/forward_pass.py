"""The carrier that training hands to losses, penalties and upkeep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sparsedict.activations import Activation, State
from sparsedict.batches import Activations
from sparsedict.display import Displayed
from sparsedict.latents import SparseLatents, Support, firing_counts, per_entry

if TYPE_CHECKING:
    from sparsedict.dictionaries import Dictionary


Rows = tuple[Tensor, Tensor]
"""Inputs ``[n_tokens, d_in]`` and targets ``[n_tokens, d_out]``."""


@dataclass(frozen=True, eq=False, repr=False)
class Encoding(Displayed):
    """Latents of a batch of rows, on their support.

    Attributes:
        pre_activations: Before the activation: ``[n_entries]`` with a support, else ``[n_tokens, n_latents]``.
        values: After the activation, the same shape.
        support: Which entries are stored; ``None`` where all are.
    """

    pre_activations: Float[Tensor, "*entries"]
    values: Float[Tensor, "*entries"]
    support: Support | None

    def stored(self) -> Support:
        """Returns which entries these are, also where they are all."""
        if self.support is not None:
            return self.support
        n_tokens, n_latents = self.values.shape
        indices = torch.arange(n_latents, device=self.values.device).expand(n_tokens, n_latents)
        return Support.from_indices(indices, n_latents)

    def latents(self) -> Tensor | SparseLatents:
        """Returns the latents as rows, sparse where they are stored so."""
        if self.support is None:
            return self.values
        return SparseLatents(self.values, self.support, torch.Size((self.support.n_tokens,)))


@dataclass(frozen=True, eq=False, repr=False)
class ForwardPass(Displayed):
    """Everything evaluated in one training step.

    Entries are either the stored ones, ``[n_entries]``, or all, ``[n_tokens, n_latents]``: write elementwise
    formulas, align what there is per latent by :meth:`aligned`, sum, divide by :attr:`n_tokens`.

    Attributes:
        dictionary: The dictionary in training.
        inputs: What it read, ``[n_tokens, d_in]``.
        targets: What it should give, ``[n_tokens, d_out]``.
        reconstruction: What it gave, ``[n_tokens, d_out]``.
        encoding: Pre-activations and latents on the support.
        step: Optimiser steps done before this one.
        tokens_since_fired: For each latent, tokens seen since it last fired, ``[n_latents]``.
        batch: All activations of these tokens, with their ids and positions where these are known; in training those
            of the data, on its device. ``None`` where the pass was made of two tensors.
        upcoming: In training, gives the inputs and targets of the next batches, see :meth:`sample`.
    """

    dictionary: Dictionary
    inputs: Float[Tensor, "n_tokens d_in"]
    targets: Float[Tensor, "n_tokens d_out"]
    reconstruction: Float[Tensor, "n_tokens d_out"]
    encoding: Encoding
    step: int
    tokens_since_fired: Int[Tensor, " n_latents"]
    batch: Activations | None = None
    upcoming: Callable[[int], Iterator[Rows]] | None = None

    def sample(self, n_tokens: int) -> Iterator[Rows]:
        """Yields inputs and targets of the batches that training goes on with, without taking them from it.

        Args:
            n_tokens: Where to stop, rounded up to whole batches; the end of the run comes first. These tokens are held
                in memory until they have been trained on. Outside of training this pass's own rows are all there is.
        """
        return iter([(self.inputs, self.targets)]) if self.upcoming is None else self.upcoming(n_tokens)

    @property
    def n_tokens(self) -> int:
        return len(self.inputs)

    @property
    def activation(self) -> Activation:
        return self.dictionary.activation

    @property
    def values(self) -> Float[Tensor, "*entries"]:
        """Latents of the entries, differentiable."""
        return self.encoding.values

    @property
    def pre_activations(self) -> Float[Tensor, "*entries"]:
        """Pre-activations of the entries, differentiable."""
        return self.encoding.pre_activations

    @property
    def support(self) -> Support | None:
        """Which entries are stored; ``None`` where all are."""
        return self.encoding.support

    @property
    def state(self) -> State:
        """What the activation keeps, aligned with the entries."""
        return self.dictionary.activation_state.entries(None if self.support is None else self.support.latents)

    @cached_property
    def decoder_norms(self) -> Float[Tensor, " n_latents"]:
        """Norm of each decoder row, differentiable."""
        return torch.linalg.vector_norm(self.dictionary.decoder, dim=-1)

    def aligned(self, vector: Shaped[Tensor, " n_latents"]) -> Shaped[Tensor, "*entries"]:
        """Returns a value per latent, aligned with the entries."""
        return per_entry(vector, None if self.support is None else self.support.latents)

    def firing_counts(self) -> Int[Tensor, " n_latents"]:
        """Returns on how many tokens each latent fired."""
        return firing_counts(self.encoding.latents())
