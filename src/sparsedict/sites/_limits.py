"""Ids and row lengths that a model accepts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sparsedict.sites._embedding import token_embedding

IGNORED_LABEL = -100
"""Marks positions that PyTorch's cross entropy leaves out, in labels."""


def vocabulary(model: nn.Module) -> int | None:
    """Returns how many token ids a model knows, or None where its embedding doesn't say.

    Where it isn't known which embedding is that of the tokens, the largest one counts: no valid id is refused.
    """
    embedding = token_embedding(model)
    if isinstance(embedding, nn.Embedding) and not hasattr(model, "get_input_embeddings"):
        return max(module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding))
    for holder, name in ((embedding, "num_embeddings"), (getattr(model, "cfg", None), "d_vocab")):
        value = getattr(holder, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def longest_row(model: nn.Module) -> int | None:
    """Returns the most positions of a row that a model's configuration allows, or None where it doesn't say.

    Hugging Face configurations have ``max_position_embeddings`` (under this name or mapped to it), those of
    TransformerLens ``n_ctx``. Embeddings of positions that begin behind a padding index, as RoBERTa's, have fewer.
    """
    config = getattr(model, "config", None)
    text_config = getattr(config, "get_text_config", None)
    config = text_config() if callable(text_config) else config
    for holder, name in ((config, "max_position_embeddings"), (getattr(model, "cfg", None), "n_ctx")):
        value = getattr(holder, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value - _offset(model)
    return None


def _offset(model: nn.Module) -> int:
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


def looks_up_positions(model: nn.Module) -> bool:
    """Whether a model has a table of positions, beyond which it can't run; rotary embeddings have none."""
    tables = ("wpe", "pos_embed", "embed_positions", "position_embeddings")
    return any(name.endswith(tables) and any(True for _ in part.parameters()) for name, part in model.named_modules())


def check_ids(
    tokens: Tensor, n_vocabulary: int | None, numbers: Sequence[int] | None = None, *, name: str = "`tokens`"
) -> None:
    """Checks the ids of a batch.

    Args:
        tokens: ``[n_sequences, n_positions]``.
        n_vocabulary: Ids that the model knows; ``None`` checks for negative ids only.
        numbers: Number of each sequence's row in the data, counted from 0; counted in the batch where left out.
        name: Of the tokens, for people.

    Raises:
        ValueError: If an id is negative or beyond the vocabulary. The error names the first such row.
    """
    if not tokens.numel():
        return
    low, high = (int(value) for value in tokens.aminmax())
    if low >= 0 and (n_vocabulary is None or high < n_vocabulary):
        return
    bad = tokens < 0 if n_vocabulary is None else (tokens < 0) | (tokens >= n_vocabulary)
    index = int(bad.flatten(1).any(1).nonzero()[0])
    number = index if numbers is None else numbers[index]
    known = "not negative" if n_vocabulary is None else f"from 0 to {n_vocabulary - 1}, the model's"
    remedy = (
        f"{IGNORED_LABEL} marks labels that a loss ignores: give the `input_ids` instead."
        if low == IGNORED_LABEL
        else "Are they another tokenizer's?"
    )
    raise ValueError(
        f"{name} must be ids {known}, got ids from {low} to {high}, first {int(tokens[index][bad[index]][0])} in "
        f"row {number}. {remedy}"
    )


def check_length(name: str, length: int, longest: int | None, remedy: str) -> None:
    """Raises `ValueError` if a row is longer than the model's positions.

    Args:
        name: Of the row, for people.
        length: Of the row.
        longest: See `longest_row`.
        remedy: How to mend it.
    """
    if longest is not None and length > longest:
        raise ValueError(f"{name} must have at most {longest} tokens, the model's positions, got {length}. {remedy}")
