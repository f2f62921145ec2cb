"""Models and tokenizers, from a local folder or the hub."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsedict.progress import is_live

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_config(name: str) -> Any:
    """Loads the configuration of a model, which is small, before its weights.

    Raises:
        FileNotFoundError: If there is no such model; of a local folder, near names are listed.
        ImportError: If transformers isn't installed.
    """
    transformers = _transformers()
    _check_local(name)
    try:
        return transformers.AutoConfig.from_pretrained(name, **_options(name))
    # What is raised for a broken folder or an unreachable hub differs by version.
    except Exception as error:
        raise FileNotFoundError(_missing(name, error)) from error


def skeleton(config: Any) -> nn.Module | None:
    """Returns the model without the memory of its weights, to check sites by; ``None`` where it can't be made so."""
    transformers = _transformers()
    try:
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(config).eval()
    except Exception:
        return None


def load_model(name: str, *, device: torch.device, dtype: torch.dtype, progress: bool = True) -> Any:
    """Loads a causal language model in evaluation mode.

    Args:
        name: Of a folder or on the hub.
        device: Where to put it.
        dtype: Type of its weights.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: If it is neither a local folder with a model nor to be had from the hub.
        ImportError: If transformers isn't installed.
    """
    transformers = _transformers()
    if not (progress and is_live()):
        transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(name, **_options(name), dtype=dtype)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise FileNotFoundError(_missing(name, error)) from error
    nn.Module.to(model, device)
    return model.eval()


def load_tokenizer(name: str) -> Any | None:
    """Loads the tokenizer that belongs to a model, or returns None where there is none."""
    transformers = _transformers()
    try:
        return transformers.AutoTokenizer.from_pretrained(name, **_options(name))
    # What is raised for a missing tokenizer differs by family and version.
    except Exception:
        return None


def special_tokens(config: Any, tokenizer: Any | None) -> list[int]:
    """Returns the ids of a model's BOS and padding, where it has them."""
    found = {
        getattr(owner, name, None)
        for owner in (tokenizer, config)
        for name in ("bos_token_id", "pad_token_id")
        if owner is not None
    }
    n_vocabulary = getattr(config, "vocab_size", 2**31)
    return sorted(token for token in found if isinstance(token, int) and 0 <= token < n_vocabulary)


def chosen_device(device: str | None) -> torch.device:
    """Returns the device that was asked for, or the GPU where there is one, and says which.

    Raises:
        ValueError: If the machine has no such device.
    """
    where = _checked(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if where.type == "cuda":
        hint = "" if device is not None else "; --device cpu for the CPU"
        print(f"device: {where} ({torch.cuda.get_device_name(where)}){hint}", file=sys.stderr)
    else:
        print(f"device: {where}", file=sys.stderr)
    return where


def _checked(device: str) -> torch.device:
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"--device must be a device of this machine, such as cpu or cuda, got {device!r}: {reason}"
        ) from error
    if where.type == "meta":
        raise ValueError("--device must be a device of this machine, such as cpu or cuda, got 'meta'.")
    return where


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("MODEL needs transformers: pip install 'sparsedict[hf]'.") from error
    return transformers


def _options(name: str) -> dict[str, Any]:
    return {"local_files_only": True} if Path(name).is_dir() else {}


def _check_local(name: str) -> None:
    """Looks for a local folder before the hub is asked, which may take long to answer.

    Raises:
        FileNotFoundError: If the name is that of a local folder that isn't there, or nearly that of one that is.
    """
    if not name.strip():
        raise FileNotFoundError(f"MODEL must be a local folder or a name on the hub, got {name!r}.")
    path = Path(name).expanduser()
    if path.is_dir():
        return
    if path.exists():
        raise FileNotFoundError(f"MODEL must be a folder with a model, or a name on the hub, but {name!r} is a file.")
    parent_exists = len(path.parts) > 1 and path.parent.is_dir()
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or parent_exists
    near = _near(path)
    if looks_local:
        hint = f" Near names: {', '.join(near)}." if near else ""
        raise FileNotFoundError(
            f"MODEL must be a local folder or a name on the hub, but there is no folder {name!r}.{hint}"
        )
    if near and not _is_cached(name):
        owner = "" if "/" in name else " Write a name on the hub with its owner, such as openai-community/gpt2."
        raise FileNotFoundError(
            f"MODEL must be a local folder or a name on the hub; there is no folder {name!r}, but there is "
            f"{', '.join(near)}.{owner}"
        )


def _near(path: Path) -> list[str]:
    """Returns folders whose names are near the first part of a path that isn't there."""
    there = next(parent for parent in path.parents if parent.is_dir())
    missing = path.relative_to(there).parts[0]
    try:
        names = [item.name for item in there.iterdir() if item.is_dir()]
    except OSError:
        return []
    lower = {name.lower(): name for name in names}
    found = difflib.get_close_matches(missing.lower(), lower, n=3, cutoff=0.75)
    return [str(there / lower[name]) for name in found]


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:
        return False


def _missing(name: str, error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if Path(name).is_dir():
        return f"MODEL must be a folder with a causal language model as transformers saves it, got {name!r}: {reason}"
    return (
        f"MODEL must be a local folder or a name on the hub; {name!r} is no folder here and the hub didn't give it "
        f"({reason}). Without a network, download the model elsewhere and give its folder."
    )
