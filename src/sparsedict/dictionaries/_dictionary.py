"""`Dictionary`, which evaluates batches, and `ForwardPass`, an evaluated batch of a training step."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from sparsedict import checks
from sparsedict.activations import Activation, State
from sparsedict.batches import Activations, names_of
from sparsedict.dictionaries._encode import encode_rows
from sparsedict.dictionaries._module import Reconstructing
from sparsedict.dictionaries._trainable import Trainable
from sparsedict.display import Displayed, short, table
from sparsedict.kernels import StepContext
from sparsedict.latents import Encoding, SparseLatents, Support, firing_counts, per_entry
from sparsedict.parallel import Alone, WholeBatch
from sparsedict.types import DictionaryOutput

ALONE = Alone()
Kind = TypeVar("Kind", bound="Dictionary")


class Dictionary(Trainable, ABC):
    """An encoder, an activation and a decoder under a norm constraint.

    A kind states ``reads`` and ``writes``, and overrides the steps of :class:`EncoderDecoder` that differ from an
    affine encoder and a linear decoder. A new dictionary is in evaluation mode; ``fit`` switches it to training mode.

    Attributes:
        reads: The points whose activations the dictionary reads: ``"inputs"``, ``"outputs"`` or ``"neurons"`` of one
            site, or a tuple of points of several sites, such as ``("0.inputs", "1.inputs")``. The activations of a
            tuple are concatenated.
        writes: The points whose activations the dictionary reproduces.
        trained_on: The model, site and settings of the training run. `save` stores them as JSON.
    """

    def __new__(cls: type[Kind], *args: Any, **kwargs: Any) -> Kind:
        if cls is Dictionary:
            raise TypeError(
                "`Dictionary` is abstract. Use a kind such as `sd.SparseDistiller`, or derive a class that defines "
                "`reads` and `writes`."
            )
        return object.__new__(cls)

    def select(self, batch: Activations) -> tuple[Float[Tensor, "n_tokens d_in"], Float[Tensor, "n_tokens d_out"]]:
        """Returns the activations that this dictionary reads, and the activations that it reproduces.

        Raises:
            ValueError: If the batch lacks a point. The message lists the points of the batch.
        """
        return batch.at(self.reads), batch.at(self.writes)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Returns all latents.

        Args:
            x: Activations with any leading dimensions, of any floating-point type.

        Raises:
            TypeError: If ``x`` holds token ids rather than activations.
            ValueError: If the width of ``x`` isn't ``d_in``.
        """
        flat, batch_shape = self._rows(x)
        latents = encode_rows(self, flat).latents()
        dense = latents.to_dense() if isinstance(latents, SparseLatents) else latents
        return dense.view(*batch_shape, self.n_latents)

    def encode_sparse(self, x: Float[Tensor, "*batch d_in"]) -> SparseLatents:
        """Returns the active latents only. ``encode(x)`` equals ``encode_sparse(x).to_dense()``."""
        flat, batch_shape = self._rows(x)
        encoding = encode_rows(self, flat, stored=True)
        return SparseLatents(encoding.values.reshape(-1), encoding.stored(), batch_shape)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> DictionaryOutput:
        """Returns latents and reconstruction."""
        flat, batch_shape = self._rows(x)
        latents = encode_rows(self, flat).latents()
        reconstruction = self.reconstruct(latents, flat)
        dense = latents.to_dense() if isinstance(latents, SparseLatents) else latents
        return DictionaryOutput(dense.view(*batch_shape, self.n_latents), reconstruction.view(*batch_shape, self.d_out))

    def as_module(self) -> nn.Module:
        """Returns a module with ``forward(x) -> reconstruction``, to put in a model in place of an MLP.

        The module shares the dictionary's parameters. Inputs may have any leading dimensions, and outputs have the
        type of the inputs. The module acts on all positions, while `Site.replaced` acts for the duration of a ``with``
        block and passes excluded positions through. Put a dictionary that reads an MLP's outputs after the MLP.

        Example:
            >>> import torch
            >>> import sparsedict as sd
            >>> transcoder = sd.SparseDistiller(4, 4, 16, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
            >>> transcoder.as_module()(torch.randn(2, 3, 4)).shape
            torch.Size([2, 3, 4])
        """
        return Reconstructing(self)

    def forward_pass(
        self,
        inputs: Float[Tensor, "n_tokens d_in"],
        targets: Float[Tensor, "n_tokens d_out"],
        *,
        step: int = 0,
        n_steps: int | None = None,
        tokens_since_fired: Int[Tensor, " n_latents"] | None = None,
        batch: Activations | None = None,
        context: StepContext | None = None,
    ) -> ForwardPass:
        """Evaluates a batch for training, and returns the carrier that losses, penalties and step hooks receive.

        Args:
            inputs: Activations that the dictionary reads, one row per token.
            targets: Activations that the dictionary reproduces, one row per token.
            step: Number of optimiser steps before this one.
            n_steps: Planned number of steps of the run; ``None`` if unknown.
            tokens_since_fired: Number of tokens since each latent last fired; zeros by default.
            batch: All activations of these tokens, for losses that need other points.
            context: Scratch memory and the rule for selecting entries. ``fit`` passes its own. By default, every array
                is newly allocated.

        Raises:
            TypeError: If inputs or targets aren't floating-point tensors.
            ValueError: If their widths aren't ``d_in`` and ``d_out``, their numbers of tokens differ, or they are
                empty.
        """
        checks.rows(inputs, targets, self.d_in, self.d_out)
        context = StepContext(self.training and torch.is_grad_enabled()) if context is None else context
        encoding = encode_rows(self, inputs, context)
        reconstruction = self.reconstruct(encoding.latents(), inputs)
        if tokens_since_fired is None:
            tokens_since_fired = torch.zeros(self.n_latents, dtype=torch.int64, device=inputs.device)
        parts = {"batch": batch, "n_steps": n_steps, "context": context}
        return ForwardPass(self, inputs, targets, reconstruction, encoding, step, tokens_since_fired, **parts)

    def _repr_html_(self) -> str:
        """Returns a table of the parts, the points and the size of the dictionary, for notebooks."""
        parts = self._widths() | {"activation": self.activation, "decoder_norm": self.decoder_norm} | self.arguments()
        rows = [(name, short(value)) for name, value in parts.items() if value is not None and value is not False]
        rows += [("reads", ", ".join(names_of(self.reads))), ("writes", ", ".join(names_of(self.writes)))]
        dtype = str(self.encoder.dtype).removeprefix("torch.")
        size = sum(parameter.numel() for parameter in self.parameters())
        rows.append(("parameters", f"{size:,} in {dtype} on {self.encoder.device}"))
        return table(type(self).__name__, list({name: (name, value) for name, value in rows}.values()))


Rows = tuple[Tensor, Tensor]
"""Inputs ``[n_tokens, d_in]`` and targets ``[n_tokens, d_out]``."""


@dataclass(frozen=True, eq=False, repr=False)
class ForwardPass(Displayed):
    """Everything evaluated in one training step.

    Entries are either the stored entries, ``[n_entries]``, or all entries, ``[n_tokens, n_latents]``. A formula
    is valid for both if it is elementwise, aligns vectors over latents by :meth:`aligned`, and divides its sum by
    :attr:`n_tokens`.

    Attributes:
        dictionary: The dictionary in training.
        inputs: Activations that the dictionary read, ``[n_tokens, d_in]``.
        targets: Activations to reproduce, ``[n_tokens, d_out]``.
        reconstruction: Output of the dictionary, ``[n_tokens, d_out]``.
        encoding: Pre-activations and latents on the support.
        step: Number of optimiser steps before this one.
        tokens_since_fired: Number of tokens since each latent last fired, ``[n_latents]``.
        batch: All activations of these tokens, with token ids and positions where known. In training, the tensors are
            on the device of the data. ``None`` if the pass was made from two tensors.
        upcoming: In training, returns inputs and targets of the next batches; see :meth:`sample`.
        n_steps: Planned number of steps of the run; ``None`` if unknown.
        context: Scratch memory of the step. A penalty that selects entries passes ``context.workspace`` to
            :func:`sparsedict.kernels.select` and to :meth:`Support.with_memory` to reuse this memory.
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
    n_steps: int | None = None
    context: StepContext = field(default=StepContext(), repr=False)

    @property
    def progress(self) -> float:
        """Share of the run's steps before this one, from 0 to 1; 0 if the number of steps is unknown."""
        return min(self.step / self.n_steps, 1.0) if self.n_steps else 0.0

    def sample(self, n_tokens: int) -> Iterator[Rows]:
        """Yields inputs and targets of the next training batches without consuming them.

        Outside of training, the only rows are those of this pass.

        Args:
            n_tokens: Number of tokens, rounded up to whole batches. Fewer are yielded near the end of the run. The
                tokens stay in memory until training has used them.
        """
        return iter([(self.inputs, self.targets)]) if self.upcoming is None else self.upcoming(n_tokens)

    @property
    def n_tokens(self) -> int:
        """Number of tokens of this rank, which is all of the batch in a run in a single process."""
        return len(self.inputs)

    @property
    def whole(self) -> WholeBatch:
        """The batch over all ranks. Terms that aren't linear in a mean over tokens need its :meth:`WholeBatch.mean`."""
        return self.context.whole or WholeBatch.from_part(ALONE, self.n_tokens)

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
        """Positions of the stored entries; ``None`` if all entries are stored."""
        return self.encoding.support

    @property
    def state(self) -> State:
        """State of the activation, aligned with the entries."""
        return self.dictionary.activation_state.entries(None if self.support is None else self.support.latents)

    @cached_property
    def decoder_norms(self) -> Float[Tensor, " n_latents"]:
        """Norm of each decoder row, differentiable."""
        return self.dictionary.decoder_norms()

    @cached_property
    def point_norms(self) -> Float[Tensor, "n_latents n_points"]:
        """Norm of each decoder row at each point that the dictionary writes, differentiable."""
        return self.dictionary.point_norms()

    def aligned(self, vector: Shaped[Tensor, " n_latents"]) -> Shaped[Tensor, "*entries"]:
        """Returns the values of a vector over latents at the entries.

        If the latents are divided among processes, the vector may have an entry for each latent of all processes.
        """
        shard = self.dictionary.shard
        vector = vector if shard is None else shard.rows(vector)
        return per_entry(vector, None if self.support is None else self.support.latents)

    def total(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Returns a sum over all latents, given its sum over the entries.

        They differ if the latents are divided among processes. A penalty passes each sum over entries through this
        method. The gradient is that of the sum over the entries.
        """
        return self.dictionary.total(value)

    def firing_counts(self) -> Int[Tensor, " n_latents"]:
        """Returns the number of tokens on which each latent fired."""
        return firing_counts(self.encoding.latents())
