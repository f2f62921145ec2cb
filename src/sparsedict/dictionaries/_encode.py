"""Computation of latents from inputs, used by every kind of dictionary."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sparsedict.dictionaries._encoder_decoder import EncoderDecoder
from sparsedict.dictionaries._paths import Conditions, Path, most_stored
from sparsedict.kernels import StepContext, record_density, select_parts, select_within
from sparsedict.latents import Encoding, Support
from sparsedict.selections import Selection


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
    if len(dictionary.blocks()) > 1:
        # Capacities are those of one product.
        context = replace(context, capacity=None)
    activation, state = dictionary.activation, dictionary.activation_state.entries()
    rule = activation.selection(state, training=dictionary.training)
    conditions = Conditions.from_batch(
        rule if dictionary.has_affine_encoder else None,
        context,
        x.device,
        n_tokens=len(x),
        n_latents=dictionary.n_latents,
        elementwise=activation.elementwise,
        stored=stored,
    )
    path = conditions.path
    if rule is not None and path in (Path.WITHIN_CAPACITY, Path.SELECTED):
        picked = _selected(dictionary, x, rule, path, context)
        if picked is not None:
            return _on_support(dictionary, dictionary.pre_activations_at(x, *picked), picked[0])
        path = conditions.path_of_many
    pre = dictionary.pre_activations(x)
    if path is Path.GATHERED:
        support = activation.support(pre.detach(), state, training=dictionary.training)
        if support is not None and support.n_entries > most_stored(*pre.shape):
            path = conditions.path_of_many
        if support is not None and path is Path.GATHERED:
            return _gathered(dictionary, x, pre, support.with_memory(context.workspace))
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


def _gathered(dictionary: EncoderDecoder, x: Tensor, pre: Tensor, support: Support) -> Encoding:
    entries = pre[support.tokens, support.latents]
    if pre.requires_grad:
        entries = dictionary.pre_activations_at(x, support, entries)
    return _on_support(dictionary, entries, support)


def _on_support(dictionary: EncoderDecoder, entries: Tensor, support: Support) -> Encoding:
    state = dictionary.activation_state.entries(support.latents)
    values = dictionary.activation.values(entries, state)
    if support.has_padding:
        values = torch.where(support.is_stored, values, 0.0)
    return Encoding(entries, values, support)
