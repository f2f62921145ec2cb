"""Tokenizers of several libraries, as functions from texts to lists of token ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class BatchEncoder(Protocol):
    """A tokenizer of the library tokenizers, which isn't callable."""

    def encode_batch(self, input: Any, add_special_tokens: bool = True) -> Any: ...


Tokenizer = Callable[..., Any] | BatchEncoder
"""A tokenizer of transformers or tokenizers, or a function from a text to its token ids."""


def check_tokenizer(tokenizer: Any, name: str = "tokens") -> None:
    """Raises `TypeError` if texts can't be tokenised by ``tokenizer``.

    Args:
        tokenizer: To check.
        name: Of the parameter that holds the texts.
    """
    if tokenizer is None:
        raise TypeError(f"`tokenizer` must be given where `{name}` are texts, got None.")
    if hasattr(tokenizer, "encode_batch") and not callable(tokenizer):
        for setting, off in (("truncation", "no_truncation()"), ("padding", "no_padding()")):
            if getattr(tokenizer, setting, None):
                raise ValueError(
                    f"`tokenizer` must return all tokens of a text and no others, got one with {setting} on. "
                    f"Call `tokenizer.{off}` first."
                )
    elif not callable(tokenizer):
        remedy = "Give its method: `tokenizer.encode`." if hasattr(tokenizer, "encode") else "Give such a function."
        raise TypeError(
            "`tokenizer` must be a Hugging Face tokenizer or a function from a text to token ids, got "
            f"{type(tokenizer).__name__}. {remedy}"
        )


def tokenised(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Returns the token ids of each text, without special tokens where the tokenizer can leave them out.

    Raises:
        TypeError: If the tokenizer returns something else than integer ids.
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


def beginning(tokenizer: Any) -> int | None:
    """Returns the id that begins a document: BOS, else CLS, else EOS; ``None`` where a tokenizer has none of them."""
    for name in ("bos_token_id", "cls_token_id", "eos_token_id"):
        value = getattr(tokenizer, name, None)
        if value is not None:
            return int(value)
    return None


def padding(tokenizer: Any) -> int:
    """Returns the id of a tokenizer's padding.

    Raises:
        ValueError: If it has none.
    """
    value = getattr(tokenizer, "pad_token_id", None)
    if value is None:
        raise ValueError(
            "`tokenizer` must have a padding token where `short` is 'pad', got none. Set `tokenizer.pad_token`, for "
            "example to `tokenizer.eos_token`, or leave short rows out with short='drop'."
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
