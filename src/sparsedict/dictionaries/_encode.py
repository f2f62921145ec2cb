"""Computation of latents from inputs, with the choice between dense and sparse products in one table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from sparsedict.activations import Activation, State
from sparsedict.dictionaries._block_products import pre_activations
from sparsedict.dictionaries._encoder_decoder import EncoderDecoder
from sparsedict.dictionaries._over_ranks import candidate_rule, is_over_batch, selected_of_whole
from sparsedict.kernels import (
    StepContext,
    can_select,
    can_select_within,
    compacts,
    record_density,
    select_parts,
    select_within,
)
from sparsedict.latents import Encoding, Support, per_entry
from sparsedict.parallel import WholeBatch
from sparsedict.selections import Selection
from sparsedict.sharding import Shard

DENSE_SHARE = 1 / 16
"""Share of active entries above which training multiplies dense arrays (see ``benchmarks.density``)."""


class Path(Enum):
    """How pre-activations on the support are found and stored."""

    WITHIN_CAPACITY = (
        "selected block by block into memory of fixed capacity; the host never reads the number of entries"
    )
    SELECTED = "selected block by block; other pre-activations are not stored"
    GATHERED = "all are computed, and entries on the support are gathered"
    DENSE = "all are computed and stored"


@dataclass(frozen=True)
class Conditions:
    """The conditions that determine the path.

    Attributes:
        stored: Stored entries are required, even if dense products are faster.
        training: Gradients are required.
        elementwise: The activation can be computed on all pre-activations.
        within_capacity: The step has a capacity, and the rule can select within it.
        selectable: The encoder is affine, and the rule can be applied block by block without waiting for the device.
        counts_wait: Reading the number of entries would make the host wait for the device.
    """

    stored: bool
    training: bool
    elementwise: bool
    within_capacity: bool
    selectable: bool
    counts_wait: bool

    @classmethod
    def from_batch(
        cls, dictionary: EncoderDecoder, x: Tensor, rule: Selection | None, context: StepContext, *, stored: bool
    ) -> Conditions:
        """Reads the conditions of a batch.

        Args:
            dictionary: The dictionary.
            x: One row per token.
            rule: Selection rule of the activation, if any.
            context: Context of the step.
            stored: Whether stored entries are required.
        """
        n_tokens, n_latents = len(x), len(dictionary.encoder_bias)
        total, max_entries = n_tokens * n_latents, most_stored(n_tokens, n_latents)
        rule = rule if dictionary.has_affine_encoder else None
        return cls(
            stored=stored,
            training=context.training,
            elementwise=dictionary.activation.elementwise,
            within_capacity=context.capacity is not None
            and can_select_within(context.capacity, rule, x.device, total=total, max_entries=max_entries),
            selectable=can_select(rule, x.device),
            counts_wait=x.device.type != "cpu" or compacts(x.device),
        )

    @property
    def path(self) -> Path:
        """The path: the first row of the table whose conditions hold."""
        in_step = self.training and not self.stored
        table = (
            (in_step and self.within_capacity, Path.WITHIN_CAPACITY),
            (in_step and self.elementwise and self.counts_wait, Path.DENSE),
            (self.selectable, Path.SELECTED),
            (True, Path.GATHERED),
        )
        return next(path for holds, path in table if holds)

    @property
    def path_of_many(self) -> Path:
        """The path where :attr:`path` finds more entries than :func:`most_stored`."""
        return Path.DENSE if self.elementwise and not self.stored else Path.GATHERED


def most_stored(n_tokens: int, n_latents: int) -> int:
    """Returns the number of entries above which dense products are faster."""
    return int(DENSE_SHARE * n_tokens * n_latents)


def encode_rows(
    dictionary: EncoderDecoder, x: Tensor, context: StepContext | None = None, *, stored: bool = False
) -> Encoding:
    """Encodes rows on the path that `Conditions` gives.

    Args:
        dictionary: The dictionary.
        x: One row per token.
        context: The context of a training step. By default, gradients are required in training mode if autograd is on.
        stored: Whether to return stored entries even if dense products would be faster.
    """
    context = StepContext(dictionary.training and torch.is_grad_enabled()) if context is None else context
    if context.capacity is not None and len(dictionary.blocks()) > 1:
        # Capacities are those of one product.
        context = replace(context, capacity=None)
    if dictionary.shard is not None and x.requires_grad:
        x = dictionary.shard.peers.spread(x)
    activation, state = dictionary.activation, dictionary.activation_state.entries()
    if dictionary.shard is not None:
        rule = activation.competition(state, training=dictionary.training)
        if rule is not None and dictionary.shard.competes(rule):
            return _encode_shard(dictionary, dictionary.shard, x, rule, context)
    rule = activation.selection(state, training=dictionary.training)
    whole = _divided_batch(rule, context)
    of_whole, rule = rule, rule if whole is None or rule is None else candidate_rule(rule, whole)
    conditions = Conditions.from_batch(dictionary, x, rule, context, stored=stored)
    path = conditions.path
    if rule is not None and path in (Path.WITHIN_CAPACITY, Path.SELECTED):
        picked = _selected(dictionary, x, rule, path, context)
        if picked is not None:
            entries = dictionary.pre_activations_at(x, *picked)
            return _on_support(activation, state, entries, picked[0], of_whole, whole)
        path = conditions.path_of_many
    pre = dictionary.pre_activations(x)
    if path is Path.GATHERED:
        if whole is not None and rule is not None:
            support = rule.support(pre.detach())
        else:
            support = activation.support(pre.detach(), state, training=dictionary.training)
        if support is not None and support.n_entries > most_stored(*pre.shape):
            path = conditions.path_of_many
        if support is not None and path is Path.GATHERED:
            support = support.with_memory(context.workspace)
            entries = pre[support.tokens, support.latents]
            if pre.requires_grad:
                entries = dictionary.pre_activations_at(x, support, entries)
            return _on_support(activation, state, entries, support, of_whole, whole)
    record_density(pre.detach(), rule, context.capacity)
    return Encoding(pre, activation.values(pre, state), None)


@torch.no_grad()
def _selected(
    dictionary: EncoderDecoder, x: Tensor, rule: Selection, path: Path, context: StepContext
) -> tuple[Support, Tensor] | None:
    """Returns the support and detached pre-activations on it; ``None`` if dense products are faster."""
    parts = dictionary.affine_parts(dictionary.encoder_inputs(x))
    if path is Path.WITHIN_CAPACITY:
        assert context.capacity is not None  # a condition of this path
        picked = select_within(context.capacity, *parts[0], rule, workspace=context.workspace)
    else:
        max_entries = most_stored(len(x), dictionary.n_latents) if dictionary.activation.elementwise else None
        picked = select_parts(parts, rule, max_entries=max_entries, workspace=context.workspace)
    return None if picked is None else (picked[0].with_memory(context.workspace), picked[1])


def _divided_batch(rule: Selection | None, context: StepContext) -> WholeBatch | None:
    """Returns the batch over several ranks if the rule selects among all of its entries."""
    whole = context.whole
    return whole if whole is not None and whole.parallel.n_parts > 1 and is_over_batch(rule) else None


def _on_support(
    activation: Activation,
    state: State,
    entries: Tensor,
    support: Support,
    rule: Selection | None = None,
    whole: WholeBatch | None = None,
) -> Encoding:
    """Applies an activation to the pre-activations of a support.

    With a ``whole`` batch, the support has the candidates of this rank. Those that the rule doesn't select are zero.
    """
    values = activation.values(entries, {name: per_entry(value, support.latents) for name, value in state.items()})
    if support.has_padding:
        values = torch.where(support.is_stored, values, 0.0)
    if whole is not None and rule is not None:
        values = torch.where(selected_of_whole(rule, entries, support, whole), values, 0.0)
    return Encoding(entries, values, support)


def _encode_shard(
    dictionary: EncoderDecoder, shard: Shard, x: Tensor, rule: Selection, context: StepContext
) -> Encoding:
    """Encodes rows with the latents of this process, which compete with those of other processes."""
    activation, whole = dictionary.activation, _divided_batch(rule, context)
    own_rule = shard.own_rule(rule if whole is None else candidate_rule(rule, whole))
    with torch.no_grad():
        parts = dictionary.affine_parts(dictionary.encoder_inputs(x))
        if activation.by_magnitude or not can_select(own_rule, x.device):
            pre = pre_activations(parts)
            support = own_rule.support(pre.abs() if activation.by_magnitude else pre)
            known = pre[support.tokens, support.latents]
        else:
            picked = select_parts(parts, own_rule, workspace=context.workspace)
            assert picked is not None  # there is no limit
            support, known = picked
        strengths = known.abs() if activation.by_magnitude else known
        support, known = shard.global_selection(rule, support, known, strengths, whole)
    support = support.with_memory(context.workspace)
    entries = dictionary.pre_activations_at(x, support, known)
    return _on_support(activation, dictionary.activation_state.entries(), entries, support, None, None)
