"""Limits of a model's token ids and sequence lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from sparsedict.sites._embedding import token_embedding

IGNORED_LABEL = -100
"""Label of positions that PyTorch's cross entropy ignores."""


def vocabulary(model: nn.Module) -> int | None:
    """Returns the size of a model's vocabulary, or None if unknown.

    If it is unknown which embedding is the token embedding, the largest counts, so that every valid id is accepted.
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
    """Returns the maximum sequence length from a model's configuration, or None if unknown.

    It is ``max_position_embeddings`` in Hugging Face configurations and ``n_ctx`` in those of TransformerLens. Position
    embeddings that start after a padding index, such as RoBERTa's, have fewer positions.
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
    """Whether a model has a table of position embeddings, which limits its length. Rotary embeddings have none."""
    tables = ("wpe", "pos_embed", "embed_positions", "position_embeddings")
    return any(name.endswith(tables) and any(True for _ in part.parameters()) for name, part in model.named_modules())


def described(models: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Returns the distinct models of some sites, by a description for messages.

    Args:
        models: The model of each site, by the site's name.
    """
    first = {id(model): name for name, model in reversed(list(models.items()))}
    distinct = {id(model): model for model in models.values()}
    return {
        f"the {type(model).__name__}" + (f" at site {first[key]!r}" if len(distinct) > 1 else ""): model
        for key, model in distinct.items()
    }


def check_ids(
    tokens: Tensor,
    n_vocabulary: int | None,
    numbers: Sequence[int] | None = None,
    *,
    name: str = "`tokens`",
    owner: str = "the model",
) -> None:
    """Checks the token ids of a batch.

    Args:
        tokens: Token ids, ``[n_sequences, n_positions]``.
        n_vocabulary: Size of the vocabulary; with ``None``, only negative ids are errors.
        numbers: Row number of each sequence in the data, counted from 0. By default it is the row of the batch.
        name: Name of the tokens, for messages.
        owner: The model that has the vocabulary, for messages.

    Raises:
        ValueError: If an id is negative or beyond the vocabulary. The error names the first such row.
    """
    if not tokens.numel():
        return
    tokens = tokens.long()  # PyTorch has no extrema of unsigned integers.
    low, high = (int(value) for value in tokens.aminmax())
    if low >= 0 and (n_vocabulary is None or high < n_vocabulary):
        return
    bad = tokens < 0 if n_vocabulary is None else (tokens < 0) | (tokens >= n_vocabulary)
    index = int(bad.flatten(1).any(1).nonzero()[0])
    number = index if numbers is None else numbers[index]
    known = (
        "that are not negative" if n_vocabulary is None else f"from 0 to {n_vocabulary - 1}, the vocabulary of {owner}"
    )
    remedy = (
        f"{IGNORED_LABEL} marks labels that a loss ignores. Pass the `input_ids` instead."
        if low == IGNORED_LABEL
        else f"Check that the tokens were made by the tokenizer of {owner}."
    )
    raise ValueError(
        f"{name} must be ids {known}, got ids from {low} to {high}; the first other id is "
        f"{int(tokens[index][bad[index]][0])} in row {number}. {remedy}"
    )


def check_length(name: str, length: int, longest: int | None, remedy: str, *, owner: str = "the model") -> None:
    """Raises `ValueError` if a row exceeds the maximum length of a model.

    Args:
        name: Name of the row, for messages.
        length: Length of the row.
        longest: See `longest_row`.
        remedy: Sentence at the end of the message.
        owner: The model, for messages.
    """
    if longest is not None and length > longest:
        raise ValueError(
            f"{name} must have at most {longest} tokens, the maximum length of {owner}, got {length}. {remedy}"
        )
