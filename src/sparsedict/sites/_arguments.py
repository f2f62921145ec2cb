"""Reads token ids, masks and positions from the arguments of a call."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsedict.sites._context import TokenContext

IDS = ("input_ids", "input", "tokens", "idx", "src")
DECODER_IDS = ("decoder_input_ids", "decoder_input", "tgt")
CACHES = ("cache", "past_key_values", "cache_params", "past_key_value", "past_kv_cache", "past_kv_cache_entry")
STARTS = ("cache_position", "input_pos", "start_pos", "past_length", "past_key_values_length")
"""Parameter names that libraries use for tokens, caches, and the number of earlier tokens."""


@dataclass(frozen=True, eq=False)
class CallTokens:
    """The tokens of one call of one module.

    Attributes:
        module: The module that was called.
        main: Tokens of a decoder-only model, of an encoder, or of a single stack.
        decoder: Tokens of the decoder, if the module is a whole encoder-decoder model.
        has_decoder: Whether the module is a whole encoder-decoder model.
        attends: Whether the module received an encoder's output, as decoders do.
        has_tokens: Whether the module was called with tokens or their embeddings, rather than activations.
    """

    module: nn.Module
    main: TokenContext
    decoder: TokenContext
    has_decoder: bool
    attends: bool
    has_tokens: bool


def read_call(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CallTokens:
    """Reads the arguments of a call by the names of the module's parameters."""
    parameters = inspect.signature(module.forward).parameters
    positional = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = {**dict(zip(positional, args, strict=False)), **kwargs}
    seq2seq = not {"decoder_input_ids", "decoder_inputs_embeds"}.isdisjoint(named.keys() | parameters.keys())
    seq2seq = seq2seq or {"src", "tgt"} <= parameters.keys()
    ids = _ids(named, IDS)
    if ids is None and args and positional[:1] != ["tgt"]:
        ids = _ids({"first": args[0]}, ("first",))
    main = _context(named, ids, "", module)
    decoder = _context(named, _ids(named, DECODER_IDS), "decoder_", module) if seq2seq else TokenContext()
    if seq2seq:
        # The cache and the positions belong to the decoder.
        main = replace(main, n_past=0, position_ids=None)
    attends = named.get("encoder_hidden_states") is not None
    return CallTokens(module, main, decoder, seq2seq, attends, main.shape is not None or decoder.shape is not None)


def _ids(named: Mapping[str, Any], names: tuple[str, ...]) -> Tensor | None:
    for name in names:
        value = named.get(name)
        if not isinstance(value, Tensor) or value.is_floating_point() or value.dtype == torch.bool:
            continue
        if value.ndim in (1, 2):
            return value
    return None


def _context(named: Mapping[str, Any], ids: Tensor | None, prefix: str, module: nn.Module) -> TokenContext:
    embeddings = named.get(f"{prefix}inputs_embeds")
    shape = None if ids is None else ids.shape
    if shape is None and isinstance(embeddings, Tensor) and embeddings.ndim == 3:
        shape = embeddings.shape[:2]
    mask, problem = _mask(named, prefix)
    positions = named.get(f"{prefix}position_ids")
    n_past = _n_past(named)
    if n_past == 0 and mask is not None and shape is not None and mask.shape[-1] > shape[-1]:
        # Earlier tokens are in a cache that is hidden or doesn't report its length. A static cache, though, has all its
        # keys from the beginning, and BLOOM extends even a mask over tokens to that length.
        cache = _cache(named)
        n_past = None if cache is None or (mask.ndim == 2 and _max_length(cache) != mask.shape[-1]) else 0
    first = first_position(module) if positions is not None and n_past == 0 else 0
    # The model may modify both in place before it reaches a site.
    ids, positions = (None if value is None else value.clone() for value in (ids, _flat(positions)))
    return TokenContext(shape, ids, mask, positions, n_past, first, problem=problem)


def _mask(named: Mapping[str, Any], prefix: str) -> tuple[Tensor | None, str | None]:
    mask = named.get(f"{prefix}attention_mask")
    if isinstance(mask, Mapping):
        # There is one mask per type of layer. The mask of full attention covers the most tokens.
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if mask is None:
        padding = named.get({"": "src_key_padding_mask", "decoder_": "tgt_key_padding_mask"}[prefix])
        padding = named.get("key_padding_mask") if padding is None and not prefix else padding
        return (~padding, None) if isinstance(padding, Tensor) and padding.dtype == torch.bool else (None, None)
    if isinstance(mask, Tensor) and mask.ndim >= 2:
        return mask, None
    return None, (
        f"`{prefix}attention_mask` must be a tensor that marks padding, got {type(mask).__name__}. Call the model "
        "with a mask [n_sequences, n_positions] or [n_sequences, n_heads, n_positions, n_keys]."
    )


def _flat(positions: object) -> Tensor | None:
    """Returns position ids ``[n_sequences, n_positions]``. Vision models pass several kinds, with text first."""
    if not isinstance(positions, Tensor):
        return None
    return positions[0] if positions.ndim == 3 else positions


def _cache(named: Mapping[str, Any]) -> Any:
    """Returns the cache, if there is one. Some models have a flag of the same name."""
    return next((v for k in CACHES if (v := named.get(k)) is not None and not isinstance(v, bool)), None)


def _n_past(named: Mapping[str, Any]) -> int | None:
    """Returns the number of tokens before this call, or None if unknown."""
    for name in STARTS:
        value = named.get(name)
        if isinstance(value, Tensor) and value.numel() and not value.is_floating_point():
            return int(value.flatten()[0])
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    cache = _cache(named)
    return 0 if cache is None else _length(cache)


def _length(cache: Any) -> int | None:
    if callable(getattr(cache, "get_seq_length", None)):
        try:
            return int(cache.get_seq_length())
        except (ValueError, TypeError, AttributeError, IndexError):  # A cache of recurrent states has no length.
            return None
    for keys, dimension in ((getattr(cache, "past_keys", None), 1), (cache, -2)):
        if isinstance(keys, Tensor):
            return keys.shape[dimension] if keys.ndim >= 4 else None
    parts = getattr(cache, "entries", cache)
    if isinstance(parts, list | tuple):
        return next((_length(part) for part in parts if part is not None), 0)
    return None


def _max_length(cache: Any) -> int | None:
    """Returns the capacity of a cache of fixed size, in tokens; None for a growing cache."""
    getters = (getattr(cache, name, None) for name in ("get_max_length", "get_max_cache_shape"))
    getter = next((getter for getter in getters if callable(getter)), None)
    try:
        capacity = None if getter is None else getter()
    except (ValueError, TypeError, AttributeError, IndexError):
        return None
    return capacity if isinstance(capacity, int) and capacity > 0 else None


def first_position(model: nn.Module) -> int:
    """Returns the position id of the first token. Position embeddings with a padding row start after that row."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "position_embeddings":
            padding = getattr(module, "padding_idx", None)
            return 0 if padding is None else padding + 1
    return 0
