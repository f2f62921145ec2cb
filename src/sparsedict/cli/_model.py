"""Models and tokenizers, from a local folder or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(name: str, *, device: str, dtype: torch.dtype, progress: bool = True) -> Any:
    """Loads a causal language model in evaluation mode.

    Args:
        name: Of a folder or on the hub.
        device: Where to put it.
        dtype: Type of its weights.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: If it is neither a local folder with a model nor to be had from the hub.
        ImportError: If transformers isn't installed.
        ValueError: If there is no such device.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError("Loading a model needs transformers: pip install 'sparsedict[hf]'.") from error

    where = check_device(device)
    if not progress:
        transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(name, **_options(name), dtype=dtype)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(_missing(name, error)) from error
    torch.nn.Module.to(model, where)
    return model.eval()


def load_tokenizer(name: str) -> Any | None:
    """Loads the tokenizer that belongs to a model, or returns None where there is none."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(name, **_options(name))
    # What is raised for a missing tokenizer differs by family and version.
    except Exception:
        return None


def special_tokens(model: Any, tokenizer: Any | None) -> list[int]:
    """Returns the ids of a model's BOS and padding, where it has them."""
    found = {
        getattr(owner, name, None)
        for owner in (tokenizer, model.config)
        for name in ("bos_token_id", "pad_token_id")
        if owner is not None
    }
    n_vocabulary = getattr(model.config, "vocab_size", 2**31)
    return sorted(token for token in found if isinstance(token, int) and 0 <= token < n_vocabulary)


def check_device(device: str) -> torch.device:
    """Returns a device that exists.

    Raises:
        ValueError: If it doesn't.
    """
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"`--device` must be a device of this machine, such as 'cpu' or 'cuda', got {device!r}: {error}"
        ) from error
    return where


def _options(name: str) -> dict[str, Any]:
    return {"local_files_only": True} if Path(name).is_dir() else {}


def _missing(name: str, error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0]
    if Path(name).is_dir():
        return f"MODEL must be a folder with a causal language model as transformers saves it, got {name!r}: {reason}"
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local:
        return f"MODEL must be a local folder or a name on the hub, but there is no folder {name!r}."
    return (
        f"MODEL must be a local folder or a name on the hub; {name!r} is no folder here and the hub didn't give it "
        f"({reason}). Without a network, download the model elsewhere and give its folder."
    )
