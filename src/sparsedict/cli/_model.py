"""Loading of models and tokenizers, from a local folder or the hub."""

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
    """Loads the configuration of a model, without its weights.

    Raises:
        FileNotFoundError: If there is no such model. The message suggests similar local folders.
        ImportError: If transformers isn't installed.
    """
    transformers = needs_transformers()
    _check_local(name)
    try:
        return transformers.AutoConfig.from_pretrained(name, **loading_options(name))
    # The exception for a broken folder or an unreachable hub depends on the version.
    except Exception as error:
        raise FileNotFoundError(_missing(name, error)) from error


def meta_model(config: Any) -> nn.Module | None:
    """Returns the model on the meta device, to check sites without loading weights, or ``None`` if this fails."""
    transformers = needs_transformers()
    try:
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(config).eval()
    except Exception:
        return None


def load_model(name: str, *, device: torch.device, dtype: torch.dtype, progress: bool = True) -> Any:
    """Loads a causal language model in evaluation mode.

    Args:
        name: Name of a local folder or on the hub.
        device: Device of the weights.
        dtype: Type of the weights.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: If the model is neither in a local folder nor on the hub.
        ImportError: If transformers isn't installed.
    """
    transformers = needs_transformers()
    if not (progress and is_live()):
        transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(name, **loading_options(name), dtype=dtype)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise FileNotFoundError(_missing(name, error)) from error
    nn.Module.to(model, device)
    return model.eval()


def choose_device(device: str | None, *, verbose: bool = True) -> torch.device:
    """Returns the requested device, or by default the GPU if there is one, and prints its name.

    Args:
        device: The requested device.
        verbose: Whether to print the name.

    Raises:
        ValueError: If the machine has no such device.
    """
    where = _checked(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not verbose:
        return where
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


def needs_transformers() -> Any:
    """Returns the module of transformers.

    Raises:
        ImportError: If it isn't installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError("MODEL needs transformers: pip install 'sparsedict[hf]'.") from error
    return transformers


def loading_options(name: str) -> dict[str, Any]:
    """Returns the arguments of transformers to load a model with this name."""
    return {"local_files_only": True} if Path(name).is_dir() else {}


def _check_local(name: str) -> None:
    """Checks a local name before the hub is accessed, which may be slow.

    Raises:
        FileNotFoundError: If the name is that of a missing local folder, or similar to that of an existing folder.
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
        hint = f" Similar names: {', '.join(near)}." if near else ""
        raise FileNotFoundError(
            f"MODEL must be a local folder or a name on the hub, but there is no folder {name!r}.{hint}"
        )
    if near and not _is_cached(name):
        owner = "" if "/" in name else " For a model on the hub, add the owner, such as openai-community/gpt2."
        raise FileNotFoundError(
            f"MODEL must be a local folder or a name on the hub, but there is no folder {name!r}. Similar names: "
            f"{', '.join(near)}.{owner}"
        )


def _near(path: Path) -> list[str]:
    """Returns folders with names similar to the first missing part of a path."""
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
        f"MODEL must be a local folder or a name on the hub, but there is no folder {name!r}, and it couldn't be "
        f"loaded from the hub ({reason}). Without a network, download the model elsewhere and pass its folder."
    )
