"""Recognises the form of tokens or texts by the types of their items, and converts them to a `TokenSource`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.data._items import Items, TokenItems, as_text, has_random_access, is_missing
from sparsedict.data._packing import Bos, Packing, Texts
from sparsedict.data._tables import MASK, TEXT, TOKENS, as_sequence, chosen_columns
from sparsedict.data._tokenizers import Tokenizer
from sparsedict.data._tokens import DEFAULT_CONTEXT, RowArray, TokenSource
from sparsedict.sites.models import check_length


def token_source(
    tokens: Any,
    tokenizer: Tokenizer | None,
    context: int | None,
    *,
    text_column: str | None = None,
    bos: Bos = "both",
    join: bool = True,
    longest: int | None = None,
) -> TokenSource:
    """Returns a source for any form of tokens that `ActivationStream` takes.

    Args:
        tokens: Token ids or texts.
        tokenizer: Tokenizer for texts.
        context: Tokens per sequence; ``None`` for the default.
        text_column: Column with the texts.
        bos: See `pack`.
        join: See `pack`.
        longest: Maximum sequence length of the model, if known.

    Raises:
        TypeError: If ``tokens`` has no known form, or holds texts and there is no tokenizer.
        ValueError: If ``tokens`` is empty, or rows are longer than ``longest``.
    """
    if context is not None:
        context = checks.at_least("context", context, 1)
        check_length("`context`", context, longest, "Lower it.")
    row = context or min(DEFAULT_CONTEXT, longest or DEFAULT_CONTEXT)
    packing = Packing(row, bos, join)
    data = _recognised(tokens, "tokens", text_column)
    if isinstance(data, Tensor | np.ndarray):
        return _array(data, None, context, row, longest)
    if isinstance(data, Mapping):
        return _from_mapping(data, context, row, longest)
    items = Items(data, "tokens", None if isinstance(tokens, Mapping) else text_column)
    if _holds_text(items.first, items.text_column):
        return Texts(items, tokenizer, packing)
    return TokenItems(items, context, longest)


def text_items(texts: Any, name: str, text_column: str | None) -> Items:
    """Returns texts of any form as items.

    Raises:
        TypeError: If ``texts`` doesn't hold texts.
        ValueError: If ``texts`` is empty.
    """
    data = _recognised(texts, name, text_column)
    if isinstance(data, Tensor | np.ndarray | Mapping):
        raise TypeError(
            f"`{name}` must be texts, got token ids in a {type(data).__name__}. Pass token ids to the stream directly."
        )
    items = Items(data, name, None if isinstance(texts, Mapping) else text_column)
    as_text(items.first, 0, items)
    return items


def _recognised(data: Any, name: str, text_column: str | None) -> Any:
    """Returns token ids as an array or a mapping of columns, and other data as a sequence or an iterable."""
    if isinstance(data, str | bytes | os.PathLike) or not (isinstance(data, Iterable) or has_random_access(data)):
        remedy = " Wrap it in a list." if isinstance(data, str | bytes) else ""
        is_path = isinstance(data, os.PathLike) or (isinstance(data, str) and len(data) < 1024 and os.path.exists(data))
        remedy = " Read the file first." if is_path else remedy
        raise TypeError(
            f"`{name}` must be token ids [n_sequences, context], one long row of them, a dataset, or an iterable of "
            f"token batches or texts, got {type(data).__name__}.{remedy}"
        )
    if isinstance(data, set | frozenset):
        raise TypeError(f"`{name}` must be ordered, got a {type(data).__name__}. Convert it to a list.")
    data = as_sequence(data, name, text_column)
    if isinstance(data, Mapping):
        return _column(data, name, text_column)
    if isinstance(data, Tensor | np.ndarray):
        _check_column(data, name, text_column)
        if isinstance(data, Tensor) or data.dtype.kind not in "OUTS":
            return data
        if data.ndim != 1 and not (data.ndim == 2 and data.dtype.kind == "O"):
            raise ValueError(f"`{name}` must be a one-dimensional array of texts, got shape {data.shape}. Flatten it.")
        data = data.tolist()
    if isinstance(data, list | tuple):
        return _listed(data, name, text_column)
    if has_random_access(data):
        try:
            return _listed(list(data), name, text_column) if len(data) and _is_id(data[0]) else data
        except (KeyError, TypeError) as error:
            raise TypeError(
                f"`{name}` must be indexed by integers from 0, but `{name}[0]` of a {type(data).__name__} raises "
                f"{type(error).__name__}: {error}. Convert it to a list."
            ) from error
    return data


def _check_column(item: Any, name: str, text_column: str | None) -> None:
    if text_column is not None:
        raise ValueError(
            f"`text_column` must be omitted if `{name}` has no columns, got {text_column!r} for items of type "
            f"{type(item).__name__}."
        )


def _column(data: Mapping[str, Any], name: str, text_column: str | None) -> Any:
    """Returns a mapping with token ids unchanged, and the column of texts of any other mapping."""
    splits = [key for key, value in data.items() if getattr(value, "column_names", None) is not None]
    if splits:
        raise TypeError(
            f"`{name}` must be a single dataset, got one with the splits {sorted(map(str, splits))[:8]}. Pass one "
            f"of them: `{name}[{splits[0]!r}]`."
        )
    columns = chosen_columns([str(key) for key in data], name, text_column)
    if columns[0] == TOKENS and text_column is None:
        return data
    return _recognised(data[columns[0]], f"{name}[{columns[0]!r}]", None)


def _listed(data: Sequence[Any], name: str, text_column: str | None) -> Any:
    """Returns a list of single ids as one long row, and any other list unchanged.

    Raises:
        TypeError: If only some items are texts or single ids. The error names the first other item.
    """
    examples = dict(zip(map(type, reversed(data)), reversed(data), strict=True)).values()  # the first item of each type
    if any(_is_id(value) for value in examples):
        _check_column(data[0], name, text_column)
        numbers = [index for index, item in enumerate(data) if not _is_id(item)]
        if numbers:
            raise TypeError(
                f"`{name}[{numbers[0]}]` must be an integer token id like the other items, got "
                f"{data[numbers[0]]!r:.40} of type {type(data[numbers[0]]).__name__}."
            )
        return torch.tensor([item.__index__() for item in data], device="cpu")
    if any(_holds_text(value, text_column) for value in examples) or (data and all(map(is_missing, examples))):
        items = Items(data, name, text_column)
        for index, item in enumerate(data):
            as_text(item, index, items)
    for index in (index for index, item in enumerate(data) if item is None):
        raise TypeError(f"`{name}[{index}]` must be token ids like the other items, got None. Remove such rows first.")
    return data


def _holds_text(item: Any, text_column: str | None) -> bool:
    if isinstance(item, Mapping):
        return text_column is not None or (TOKENS not in item and TEXT in item)
    return isinstance(item, str | bytes)


def _is_id(item: Any) -> bool:
    if isinstance(item, bool | np.bool_):
        return False
    if isinstance(item, Tensor | np.ndarray):
        return item.ndim == 0 and not (item.dtype == torch.bool or item.dtype == np.bool_) and _integral(item)
    return hasattr(item, "__index__")


def _integral(item: Any) -> bool:
    try:
        item.__index__()
    except TypeError:
        return False
    return True


def _from_mapping(tokens: Mapping[str, Any], context: int | None, row: int, longest: int | None) -> TokenSource:
    ids, mask = (
        _recognised(value, f"tokens[{key!r}]", None) if value is not None else None
        for key, value in ((TOKENS, tokens[TOKENS]), (MASK, tokens.get(MASK)))
    )
    if ids is None:
        raise TypeError(f"`tokens['{TOKENS}']` must be token ids, got None.")
    if isinstance(ids, Tensor | np.ndarray):
        return _array(ids, _mask(mask), context, row, longest)
    if isinstance(ids, list | tuple) and len({len(own) for own in ids if isinstance(own, Sized)}) == 1:
        try:
            array = torch.as_tensor(ids, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            array = None  # TokenItems raises an error that names the row
        if array is not None:
            return _array(array, _mask(mask), context, row, longest)
    masks = mask if mask is not None else [None] * len(ids)
    if len(masks) != len(ids):
        raise ValueError(f"`{MASK}` must have a row for each of {len(ids)} rows of tokens, got {len(masks)}.")
    rows = [{TOKENS: own, MASK: its} for own, its in zip(ids, masks, strict=True)]
    return TokenItems(Items(rows), context, longest)


def _mask(mask: Any) -> Tensor | None:
    if isinstance(mask, np.ndarray):
        return checks.from_numpy(mask)
    return None if mask is None else torch.as_tensor(mask, device="cpu")


def _array(
    tokens: Tensor | np.ndarray, mask: Tensor | None, context: int | None, row: int, longest: int | None
) -> RowArray:
    source = RowArray(tokens, mask, row if tokens.ndim == 1 else context)
    if tokens.ndim == 2:
        remedy = f"Split them: `tokens.flatten()` with context={longest}."
        check_length("Rows of `tokens`", tokens.shape[1], longest, remedy)
    return source
