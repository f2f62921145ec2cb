"""The active latents of a dictionary on a prompt, each as a linear function of the dictionary's inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sparsedict.adapters import Adapter
from sparsedict.circuits._held import HeldValues
from sparsedict.dictionaries import Dictionary
from sparsedict.latents import SparseLatents, Support
from sparsedict.sites import Neurons, ResolvedDictionary

ROWS_AT_ONCE = 2**13
"""Largest number of single latents that are decoded at once."""


class Units:
    r"""The active latents of one dictionary on a prompt of ``n`` positions.

    Around the prompt, an active latent is linear in the dictionary's input, and the reconstruction is linear in the
    latents:

    .. math::
        a_e \approx a_e + v_e \cdot (x' - x), \qquad R(f, x) = R(0, x) + \sum_e c_e

    For affine encoders with ReLU, TopK, JumpReLU, Gated and the like, the first equation is exact as long as the same
    latents are active. For other encoders, :math:`v_e` is the gradient.

    Attributes:
        key: Key of the dictionary among those that the user passed.
        first_latent: Index of the first latent in the dictionary of the key; None if it is unknown.
        reads: Sites whose inputs the dictionary reads.
        writes: Sites whose outputs it writes.
        values: Activation of each active latent, ``[n_units]``, ordered by position.
        latents: Its index in the dictionary.
        positions: Its position.
    """

    def __init__(self, resolved: ResolvedDictionary, inputs: Tensor, kept: Tensor, widths: Sequence[int]) -> None:
        self.key: str = resolved.key
        self.first_latent: int | None = resolved.first_latent
        self.adapter: Adapter = resolved.adapter
        self.reads: tuple[str, ...] = tuple(name.rpartition(".")[0] for name in resolved.reads)
        self.writes: tuple[str, ...] = tuple(name.rpartition(".")[0] for name in resolved.writes)
        self.widths: tuple[int, ...] = tuple(widths)
        self._x = self.adapter.fit(inputs)
        values, latents, positions = self._active(kept)
        self.values: Tensor = values
        self.latents: Tensor = latents
        self.positions: Tensor = positions
        self._held = HeldValues()
        with self._held:
            base = self._base(self._x)
        self._constant = base if torch.equal(base, self.base(2 * self._x)) else None

    @property
    def are_neurons(self) -> bool:
        """Whether the latents are the neurons of an MLP."""
        return isinstance(self.adapter.source, Neurons)

    def dictionary_latent(self, latent: int) -> int | None:
        """Returns the index of a latent in the dictionary of the key; None if it is unknown."""
        return None if self.first_latent is None else self.first_latent + latent

    def __len__(self) -> int:
        return len(self.values)

    @torch.no_grad()
    def _active(self, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latents = self.adapter.encode_sparse(self._x)
        if isinstance(latents, SparseLatents):
            values, indices, positions = latents.values, latents.latents, latents.support.tokens
            if latents.support.has_padding:
                stored = latents.support.is_stored
                values, indices, positions = values[stored], indices[stored], positions[stored]
        else:
            positions, indices = latents.nonzero(as_tuple=True)
            values = latents[positions, indices]
        fires = (values != 0) & kept.to(positions.device)[positions]
        return values[fires].detach(), indices[fires], positions[fires]

    def base(self, x: Tensor) -> Tensor:
        """Returns the reconstruction without latents, ``[n_copies * n_positions, d_out]``: biases and a skip.

        Norms of the input have the denominators of the prompt. The rows are copies of the prompt's positions.
        """
        constant = getattr(self, "_constant", None)
        if constant is not None:
            return constant.repeat(len(x) // len(constant), 1)
        x = self.adapter.fit(x)
        self._held.start(record=False)
        with self._held:
            return self._base(x)

    @property
    def depends_on_input(self) -> bool:
        """Whether the reconstruction depends on the input for given latents, as with a skip."""
        return self._constant is None

    def _base(self, x: Tensor) -> Tensor:
        return self.adapter.reconstruct(self._latents_at(x, None, None), x)

    def _latents_at(self, x: Tensor, indices: Tensor | None, values: Tensor | None) -> Any:
        """Returns latents with at most one active latent in each row."""
        source, n_latents = self.adapter.source, self.adapter.n_latents
        if isinstance(source, Dictionary):
            if indices is None or values is None:
                return SparseLatents.none(len(x), source.n_latents, x)
            support = Support.from_indices(indices[:, None], source.n_latents)
            return SparseLatents(values, support, x.shape[:-1])
        if n_latents is None:
            n_latents = self.adapter.encode(x[:1]).shape[-1]
        dense = x.new_zeros(len(x), n_latents)
        return dense if indices is None or values is None else dense.scatter_(1, indices[:, None], values[:, None])

    @torch.no_grad()
    def contributions(self, units: Tensor) -> list[Tensor]:
        """Returns the contributions of some units: one tensor ``[len(units), d]`` for each site in `writes`."""
        found: list[list[Tensor]] = [[] for _ in self.writes]
        size = ROWS_AT_ONCE if isinstance(self.adapter.source, Dictionary) else min(self.adapter.n_rows, ROWS_AT_ONCE)
        for chunk in units.split(size) if len(units) else [units]:
            x = self._x[self.positions[chunk]]
            with_unit = self.adapter.reconstruct(self._latents_at(x, self.latents[chunk], self.values[chunk]), x)
            change = with_unit - self.adapter.reconstruct(self._latents_at(x, None, None), x)
            for own, part in zip(found, change.split(self.widths, -1), strict=True):
                own.append(part)
        return [torch.cat(parts) for parts in found]

    @torch.no_grad()
    def reconstruction(self) -> list[Tensor]:
        """Returns the whole reconstruction of the prompt at each site in `writes`, ``[n_positions, d]``."""
        latents = self.adapter.encode_sparse(self._x)
        return list(self.adapter.reconstruct(latents, self._x).split(self.widths, -1))

    @torch.enable_grad()
    def encoder_rows(self, units: Tensor) -> Tensor:
        """Returns the gradient of some units by the input, ``[len(units), d_in]``, with held input norms."""
        x = self._x[self.positions[units]].detach().requires_grad_()
        with HeldValues():
            values = self._values_at(x, self.latents[units])
        (rows,) = torch.autograd.grad(values.sum(), x, allow_unused=True, materialize_grads=True)
        return rows

    def _values_at(self, x: Tensor, latents: Tensor) -> Tensor:
        source = self.adapter.source
        if isinstance(source, Dictionary):
            pre = source.pre_activations_at(x, Support.from_indices(latents[:, None], source.n_latents))
            return source.activation.values(pre, source.activation_state.entries(latents))
        values = self.adapter.encode(x)
        return values.gather(-1, latents[:, None]).squeeze(-1)

    @torch.no_grad()
    def linear(self, units: Tensor, x: Tensor) -> Tensor:
        """Returns a unit, linear around the prompt, for other inputs ``[n, d_in]`` at its position."""
        rows, offsets = self.offsets(units)
        return self.adapter.fit(x) @ rows[0] + offsets[0]

    @torch.no_grad()
    def exact(self, units: Tensor, x: Tensor) -> Tensor:
        """Returns the activation of a unit's latent for other inputs ``[n, d_in]``."""
        return self.adapter.encode(self.adapter.fit(x))[:, self.latents[units[0]]]

    def offsets(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Returns encoder rows, and the part of the units' values that isn't due to the input."""
        rows = self.encoder_rows(units)
        return rows, self.values[units] - (rows * self._x[self.positions[units]]).sum(-1)


def by_position(units: Units, chosen: Tensor, n_positions: int) -> Iterator[tuple[int, slice]]:
    """Yields each position with some of the chosen units, and their slice. The units are ordered by position."""
    bounds = torch.searchsorted(
        units.positions[chosen].contiguous(), torch.arange(n_positions + 1, device=chosen.device)
    ).tolist()
    for position, (begin, end) in enumerate(pairwise(bounds)):
        if end > begin:
            yield position, slice(begin, end)
