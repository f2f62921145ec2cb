"""Packs texts into one tensor of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from sparsedict import checks
from sparsedict.data._forms import text_items
from sparsedict.data._packing import Bos, Packing, Texts
from sparsedict.data._tokenizers import Tokenizer, padding_id
from sparsedict.data._tokens import DEFAULT_CONTEXT


def pack(
    texts: Iterable[Any],
    tokenizer: Tokenizer,
    *,
    context: int = DEFAULT_CONTEXT,
    bos: Bos = "both",
    join: bool = True,
    short: Literal["drop", "pad"] = "drop",
    text_column: str | None = None,
) -> Int[Tensor, "n context"]:
    """Returns texts as rows of tokens.

    The number of tokens of a stream over the result is known. If they fit into its buffer, it runs the model only once.

    Args:
        texts: Documents, in any form of texts that `ActivationStream` takes. Empty documents are skipped.
        tokenizer: A Hugging Face tokenizer, a tokenizer of the library tokenizers, or a function from a text to token
            ids. The last two have no BOS, so ``bos`` has no effect.
        context: Tokens per row.
        bos: Where to insert the tokenizer's BOS (or its CLS or EOS if it has no BOS): at the start of each row and each
            document (``"both"``), of rows only, of documents only, or nowhere (``"none"``). If a document already
            starts with the BOS, it isn't inserted again.
        join: Whether a row may contain tokens of several documents. If not, each row has tokens of one document, and a
            long document has several rows.
        short: How to treat rows with fewer than ``context`` tokens, which are the last row and, unless documents are
            joined, the last row of each document. ``"drop"`` removes them. ``"pad"`` pads them on the right with the
            tokenizer's padding token, which the site should exclude:
            ``Site(..., exclude_tokens=[tokenizer.pad_token_id])``.
        text_column: Column of a table or dataset with the texts.

    Raises:
        TypeError: If an item isn't a text. The error names the item.
        ValueError: If no row remains, or ``short`` is ``"pad"`` and the tokenizer has no padding token.

    Example:
        >>> letters = lambda text: [ord(letter) - 96 for letter in text]
        >>> pack(["abcd", "ef", "ghi"], letters, context=3)
        tensor([[1, 2, 3],
                [4, 5, 6],
                [7, 8, 9]])
        >>> pack(["abcd", "ef", "ghi"], letters, context=3, join=False)
        tensor([[1, 2, 3],
                [7, 8, 9]])
    """
    packing = Packing(checks.at_least("context", context, 1), bos, join)
    source = Texts(text_items(texts, "texts", text_column), tokenizer, packing)
    fill = padding_id(tokenizer) if checks.one_of("short", short, ("drop", "pad")) == "pad" else None
    rows: list[Tensor] = []
    for row in source.rows(None, 0, (0, 0)):
        missing = context - len(row.tokens)
        if not missing:
            rows.append(row.tokens)
        elif fill is not None:
            rows.append(torch.nn.functional.pad(row.tokens, (0, missing), value=fill))
    if not rows:
        raise ValueError(
            f"`texts` must fill at least one row of {context} tokens, got fewer. Lower `context`, or pad short rows "
            "with short='pad'."
        )
    return torch.stack(rows)
