"""Inputs -> latents on their support: the one way that every dictionary encodes."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedict.dictionaries._encoder_decoder import EncoderDecoder
from sparsedict.kernels import can_select, compacts, note_density, select, select_in_room
from sparsedict.latents import Encoding, Support

DENSE_SHARE = 1 / 16
"""Share of active entries above which training multiplies dense arrays (see ``benchmarks.density``)."""


def encode_rows(dictionary: EncoderDecoder, x: Tensor, *, sparse: bool = False) -> Encoding:
    """Encodes rows; ``sparse`` asks for the stored entries even where there are many.

    With a selection rule and an affine encoder, the search never holds all pre-activations at once. Otherwise they are
    all computed, and the entries on the support are gathered.
    """
    activation, state = dictionary.activation, dictionary.activation_state.entries()
    rule = activation.selection(state, training=dictionary.training)
    if rule is None or not dictionary.has_affine_encoder:
        return _encode_from_all(dictionary, x, sparse)
    with torch.no_grad():
        weights = dictionary.encoder_inputs(x), dictionary.encoder, dictionary.encoder_bias
    dense = int(DENSE_SHARE * len(x) * dictionary.n_latents)
    if _trains(dictionary) and not sparse:
        picked = select_in_room(*weights, rule, most=dense)
        if picked is not None:
            return _on_support(dictionary, dictionary.pre_activations_at(x, *picked), picked[0])
    if _waits(dictionary, x.device, sparse) or not can_select(rule, x.device):
        return _encode_from_all(dictionary, x, sparse)
    picked = select(*weights, rule, most=dense if activation.elementwise else None)
    if picked is None:
        # Made by the same product whether the stored entries or all are asked for: `encode` is `encode_sparse`.
        return _encode_from_all(dictionary, x, sparse) if sparse else _all(dictionary, dictionary.pre_activations(x))
    return _on_support(dictionary, dictionary.pre_activations_at(x, *picked), picked[0])


def _encode_from_all(dictionary: EncoderDecoder, x: Tensor, sparse: bool) -> Encoding:
    pre = dictionary.pre_activations(x)
    support = _support(dictionary, pre.detach(), sparse)
    if support is None:
        return _all(dictionary, pre)
    known = pre[support.tokens, support.latents]
    return _on_support(
        dictionary, dictionary.pre_activations_at(x, support, known) if pre.requires_grad else known, support
    )


def _all(dictionary: EncoderDecoder, pre: Tensor) -> Encoding:
    return Encoding(pre, dictionary.activation.values(pre, dictionary.activation_state.entries()), None)


def _on_support(dictionary: EncoderDecoder, entries: Tensor, support: Support) -> Encoding:
    state = dictionary.activation_state.entries(support.latents)
    values = dictionary.activation.values(entries, state)
    if support.has_padding:
        values = torch.where(support.is_stored, values, 0.0)
    return Encoding(entries, values, support)


def _trains(dictionary: EncoderDecoder) -> bool:
    return dictionary.training and torch.is_grad_enabled()


def _waits(dictionary: EncoderDecoder, device: torch.device, sparse: bool) -> bool:
    """Returns whether counting the active entries of a training step makes the host wait for the device."""
    accelerated = device.type != "cpu" or compacts(device)
    return accelerated and dictionary.activation.elementwise and _trains(dictionary) and not sparse


def _support(dictionary: EncoderDecoder, pre: Tensor, sparse: bool) -> Support | None:
    state = dictionary.activation_state.entries()
    if _waits(dictionary, pre.device, sparse):
        note_density(pre, dictionary.activation.selection(state, training=True))
        return None
    support = dictionary.activation.support(pre, state, training=dictionary.training)
    elementwise = dictionary.activation.elementwise and not sparse
    if support is not None and elementwise and support.n_entries > DENSE_SHARE * pre.numel():
        return None
    return support
