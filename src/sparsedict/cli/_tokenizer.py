"""Loading of tokenizers, from a local folder or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.cli._model import loading_options, needs_transformers

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "merges.txt",
)
"""Files that only tokenizers have."""


def load_tokenizer(name: str) -> Any | None:
    """Loads the tokenizer of a model, or returns None if it has none.

    Raises:
        ValueError: If the model has a tokenizer that can't be loaded.
    """
    transformers = needs_transformers()
    try:
        return transformers.AutoTokenizer.from_pretrained(name, **loading_options(name))
    # The exception for a missing tokenizer depends on the model family and the version.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        found = _tokenizer_files(name)
        if found:
            raise ValueError(
                f"MODEL must have a tokenizer that transformers can load, but the tokenizer of {name!r} "
                f"({', '.join(found)}) can't be loaded: {reason}"
            ) from error
        if found is None:
            checks.warn(f"the tokenizer of MODEL {name!r} couldn't be loaded from the hub: {reason}")
        return None


def set_mask_token(model: Any, tokenizer: Any | None) -> None:
    """Gives a model the mask token of its tokenizer, which the loss of a masked language model needs."""
    token = getattr(tokenizer, "mask_token_id", None)
    if token is not None and getattr(model.config, "mask_token_id", None) is None:
        model.config.mask_token_id = token


def _tokenizer_files(name: str) -> list[str] | None:
    """Returns the files of the tokenizer of a model, or None if these are unknown, as without a network."""
    if Path(name).is_dir():
        return [file for file in TOKENIZER_FILES if (Path(name) / file).exists()]
    from huggingface_hub import file_exists, try_to_load_from_cache

    cached = {file: try_to_load_from_cache(name, file) for file in TOKENIZER_FILES}
    found = [file for file, path in cached.items() if isinstance(path, str)]
    try:
        # The cache has other values for files that the hub doesn't have.
        return found or [file for file, path in cached.items() if path is None and file_exists(name, file)]
    except Exception:  # The exception of an unreachable hub depends on the version.
        return None


def special_tokens(config: Any, tokenizer: Any | None) -> list[int]:
    """Returns the ids of the BOS and padding tokens of a model, if it has them."""
    found = {
        getattr(owner, name, None)
        for owner in (tokenizer, config)
        for name in ("bos_token_id", "pad_token_id")
        if owner is not None
    }
    n_vocabulary = getattr(config, "vocab_size", 2**31)
    return sorted(token for token in found if isinstance(token, int) and 0 <= token < n_vocabulary)
