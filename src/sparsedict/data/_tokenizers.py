"""Adapts tokenizers of several libraries to functions from texts to lists of token ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class BatchEncoder(Protocol):
    """Interface of tokenizers from the library tokenizers, which aren't callable."""

    def encode_batch(self, input: Any, add_special_tokens: bool = True) -> Any: ...


Tokenizer = Callable[..., Any] | BatchEncoder
"""A tokenizer from transformers or tokenizers, or a function from a text to token ids."""


def check_tokenizer(tokenizer: Any, name: str = "tokens") -> None:
    """Raises `TypeError` if texts can't be tokenised by ``tokenizer``.

    Args:
        tokenizer: The tokenizer to check.
        name: Name of the parameter with the texts.
    """
    if tokenizer is None:
        raise TypeError(f"`tokenizer` must be a tokenizer if `{name}` are texts, got None.")
    if hasattr(tokenizer, "encode_batch") and not callable(tokenizer):
        for setting, off in (("truncation", "no_truncation()"), ("padding", "no_padding()")):
            if getattr(tokenizer, setting, None):
                raise ValueError(
                    f"`tokenizer` must return exactly the tokens of a text, got one with {setting} enabled. "
                    f"Call `tokenizer.{off}` first."
                )
    elif not callable(tokenizer):
        remedy = "Pass its method `tokenizer.encode`." if hasattr(tokenizer, "encode") else "Pass such a function."
        raise TypeError(
            "`tokenizer` must be a Hugging Face tokenizer or a function from a text to token ids, got "
            f"{type(tokenizer).__name__}. {remedy}"
        )


def tokenize_texts(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Returns the token ids of each text, without special tokens if the tokenizer can omit them.

    Raises:
        TypeError: If the tokenizer doesn't return integer ids.
        ValueError: If it doesn't return ids for each text.
    """
    if hasattr(tokenizer, "bos_token_id"):
        found = tokenizer(texts, add_special_tokens=False, verbose=False)
        rows = found["input_ids"]
        if len(rows) != len(texts):
            raise ValueError(f"`tokenizer` must return ids for each of {len(texts)} texts, got {len(rows)} rows.")
        return [_ids(row) for row in rows]
    if hasattr(tokenizer, "encode_batch") and not callable(tokenizer):
        return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    return [_ids(tokenizer(text)) for text in texts]


def bos_id(tokenizer: Any) -> int | None:
    """Returns the id of the BOS, else of the CLS, else of the EOS; ``None`` if a tokenizer has none of them."""
    for name in ("bos_token_id", "cls_token_id", "eos_token_id"):
        value = getattr(tokenizer, name, None)
        if value is not None:
            return int(value)
    return None


def padding_id(tokenizer: Any) -> int:
    """Returns the id of a tokenizer's padding token.

    Raises:
        ValueError: If the tokenizer has no padding token.
    """
    value = getattr(tokenizer, "pad_token_id", None)
    if value is None:
        raise ValueError(
            "`tokenizer` must have a padding token if `short` is 'pad', got none. Set `tokenizer.pad_token`, for "
            "example to `tokenizer.eos_token`, or drop short rows with short='drop'."
        )
    return int(value)


def _ids(found: Any) -> list[int]:
    if isinstance(found, Mapping):
        found = found.get("input_ids")
    found = getattr(found, "ids", found)
    if hasattr(found, "tolist"):
        found = found.tolist()
    try:
        if isinstance(found, str | bytes):
            raise TypeError
        return [token.__index__() for token in found]
    except (TypeError, AttributeError) as error:
        raise TypeError(
            "`tokenizer` must return a list of integer token ids for a text, got "
            f"{type(found).__name__}{' ' + repr(found)[:40] if found is not None else ''}."
        ) from error
