"""Inputs -> latents on their support: the one way that every dictionary encodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsedict.forward_pass import Encoding
from sparsedict.kernels import affine_at, can_select, compacts, note_density, select, select_in_room
from sparsedict.latents import Support

if TYPE_CHECKING:
    from sparsedict.dictionaries._dictionary import Dictionary

DENSE_SHARE = 1 / 16
"""Share of active entries above which training multiplies dense arrays (see ``benchmarks.density``)."""


def encode_rows(dictionary: Dictionary, x: Tensor, *, sparse: bool = False) -> Encoding:
    """Encodes rows; ``sparse`` asks for the stored entries even where there are many.

    Where the activation has a rule and the encoder is affine, the other pre-activations are never held. Else they are
    all made, and those that matter picked out.
    """
    activation, state = dictionary.activation, dictionary.activation_state.entries()
    inputs = dictionary.encoder_inputs(x)
    rule = activation.selection(state, training=dictionary.training)
    if inputs is None or rule is None:
        return _encode_from_all(dictionary, x, inputs, sparse)
    weights = inputs.detach(), dictionary.encoder, dictionary.encoder_bias
    dense = int(DENSE_SHARE * len(x) * dictionary.n_latents)
    if _trains(dictionary) and not sparse:
        picked = select_in_room(*weights, rule, most=dense)
        if picked is not None:
            return _on_support(dictionary, _entries(dictionary, x, inputs, *picked), picked[0])
    if _waits(dictionary, x.device, sparse) or not can_select(rule, x.device):
        return _encode_from_all(dictionary, x, inputs, sparse)
    picked = select(*weights, rule, most=dense if activation.elementwise else None)
    if picked is None:
        # Made by the same product whether the stored entries or all are asked for: `encode` is `encode_sparse`.
        return (
            _encode_from_all(dictionary, x, inputs, sparse)
            if sparse
            else _all(dictionary, dictionary.pre_activations(x))
        )
    return _on_support(dictionary, _entries(dictionary, x, inputs, *picked), picked[0])


def _encode_from_all(dictionary: Dictionary, x: Tensor, inputs: Tensor | None, sparse: bool) -> Encoding:
    pre = dictionary.pre_activations(x)
    support = _support(dictionary, pre.detach(), sparse)
    if support is None:
        return _all(dictionary, pre)
    if inputs is None or not pre.requires_grad:
        return _on_support(dictionary, pre[support.tokens, support.latents], support)
    known = pre.detach()[support.tokens, support.latents].to(inputs.dtype)
    return _on_support(dictionary, _entries(dictionary, x, inputs, support, known), support)


def _entries(dictionary: Dictionary, x: Tensor, inputs: Tensor, support: Support, known: Tensor) -> Tensor:
    """Returns pre-activations that are known already, differentiable."""
    offset = None if x.requires_grad else _offset(dictionary)
    inputs = inputs if offset is None else inputs.detach()
    return affine_at(inputs, dictionary.encoder, dictionary.encoder_bias, support, known, offset)


def _offset(dictionary: Dictionary) -> Tensor | None:
    for kind in type(dictionary).__mro__:
        if "encoder_offset" in vars(kind):
            return dictionary.encoder_offset()
        if "encoder_inputs" in vars(kind):
            # Changed by a kind that says nothing of an offset: an inherited one would be another's.
            return None
    return None


def _all(dictionary: Dictionary, pre: Tensor) -> Encoding:
    return Encoding(pre, dictionary.activation.values(pre, dictionary.activation_state.entries()), None)


def _on_support(dictionary: Dictionary, entries: Tensor, support: Support) -> Encoding:
    state = dictionary.activation_state.entries(support.latents)
    values = dictionary.activation.values(entries, state)
    if support.has_padding:
        values = torch.where(support.is_stored, values, 0.0)
    return Encoding(entries, values, support)


def _trains(dictionary: Dictionary) -> bool:
    return dictionary.training and torch.is_grad_enabled()


def _waits(dictionary: Dictionary, device: torch.device, sparse: bool) -> bool:
    """Returns whether counting the active entries of a training step makes the host wait for the device."""
    accelerated = device.type != "cpu" or compacts(device)
    return accelerated and dictionary.activation.elementwise and _trains(dictionary) and not sparse


def _support(dictionary: Dictionary, pre: Tensor, sparse: bool) -> Support | None:
    state = dictionary.activation_state.entries()
    if _waits(dictionary, pre.device, sparse):
        note_density(pre, dictionary.activation.selection(state, training=True))
        return None
    support = dictionary.activation.support(pre, state, training=dictionary.training)
    elementwise = dictionary.activation.elementwise and not sparse
    if support is not None and elementwise and support.n_entries > DENSE_SHARE * pre.numel():
        return None
    return support
