"""State dicts written by ``torch.save``. Only tensors are loaded, and no code in a file is executed."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsedict.formats._location import listed
from sparsedict.formats._tensors import MAX_TENSORS, Tensors
from sparsedict.storage import StorageError

MAX_PICKLED = 4 * 2**20
"""Largest size in bytes of the pickle, without tensor contents. A state dict needs a few hundred for each tensor."""

ALLOWED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch (\w+Storage|Size)|"
    r"torch\.storage \w+Storage|torch\.nn\.parameter Parameter"
)
"""The global names in the pickle of a state dict of plain tensors."""


def read_pickle(file: Path) -> Tensors:
    """Opens a state dict written by ``torch.save``. Tensors are memory-mapped and read on demand.

    Raises:
        StorageError: If the file is truncated or broken, refers to anything but tensors, or isn't a state dict.
    """
    _check_zip(file)
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    # A broken pickle may raise any exception.
    except Exception as error:
        raise StorageError(f"{file} is truncated or isn't a state dict: {_first_line(error)}.") from None
    loaded = _unwrap(loaded)
    if not isinstance(loaded, dict):
        raise StorageError(f"{file} must contain a state dict of tensors by name, got a {type(loaded).__name__}.")
    if len(loaded) > MAX_TENSORS:
        raise StorageError(f"{file} must contain at most {MAX_TENSORS:,} tensors, got {len(loaded):,}.")
    for name, tensor in loaded.items():
        _check_entry(file, name, tensor)
    tensors: dict[str, Tensor] = {name: tensor.detach() for name, tensor in loaded.items()}
    return Tensors(file, {name: tuple(t.shape) for name, t in tensors.items()}, tensors.__getitem__, mapped=True)


def _unwrap(loaded: object) -> object:
    """Returns the inner state dict of a checkpoint such as ``{"state_dict": ...}``, or the argument itself."""
    if not isinstance(loaded, dict) or any(isinstance(value, Tensor) for value in loaded.values()):
        return loaded
    inner = [v for v in loaded.values() if isinstance(v, dict) and v and all(isinstance(t, Tensor) for t in v.values())]
    return inner[0] if len(inner) == 1 else loaded


def _check_entry(file: Path, name: object, tensor: object) -> None:
    if not isinstance(name, str) or type(tensor) not in (Tensor, nn.Parameter):
        label = name[:80] if isinstance(name, str) else type(name).__name__
        raise StorageError(
            f"{file} must contain tensors by name, but `{label}` has type {type(tensor).__name__}. Load the file with "
            "`torch.load(path, weights_only=True)`, then save the tensors alone or pass them to "
            "`sd.SparseAutoencoder.from_weights(...)`."
        )
    assert isinstance(tensor, Tensor)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise StorageError(f"{file}: `{name[:80]}` must be a plain tensor, got {tensor.layout} on {tensor.device}.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise StorageError(
            f"{file}: `{name[:80]}` must have enough data for its shape {str(tuple(tensor.shape))[:80]}, got only "
            f"{tensor.untyped_storage().nbytes():,} bytes."
        )


def _check_zip(file: Path) -> None:
    """Checks, before PyTorch loads the file, the names in its pickle and that it isn't compressed."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(info.compress_type != zipfile.ZIP_STORED for info in members):
                raise StorageError(f"{file} must not be compressed. `torch.save` writes uncompressed files.")
            pickled = [info for info in members if info.filename.endswith("/data.pkl")]
            if len(pickled) != 1:
                raise StorageError(
                    f"{file} must be a file of `torch.save` with one pickle, but it contains {len(pickled)} pickles."
                )
            if pickled[0].file_size > MAX_PICKLED:
                raise StorageError(
                    f"{file} isn't a state dict: its pickle must have at most {MAX_PICKLED:,} bytes, got "
                    f"{pickled[0].file_size:,}."
                )
            _check_names(file, archive.read(pickled[0]))
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{file} {_describe_failure(file, error)}.") from None


def _check_names(file: Path, pickled: bytes) -> None:
    try:
        named = sorted(set(_globals(pickled)))
    except Exception as error:
        raise StorageError(f"{file} is broken: {_first_line(error)}.") from None
    rejected = [name.replace(" ", ".") for name in named if not ALLOWED.fullmatch(name)]
    if rejected:
        raise StorageError(
            f"{file} names {listed(rejected)}, which would run code or isn't part of a state dict. Nothing was loaded. "
            "If you trust the file, load it yourself and save `model.state_dict()`."
        )


def _globals(pickled: bytes) -> Iterator[str]:
    """Yields the module and name of each global in a pickle, without executing the pickle."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif opcode.name == "STACK_GLOBAL" or opcode.name.startswith("EXT"):
            yield f"a global by {opcode.name}"


def _describe_failure(file: Path, error: Exception) -> str:
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(2)
    if not size:
        return "is empty"
    if start[:1] == b"\x80":
        return (
            "is a plain pickle of Python or of PyTorch before 1.6, which isn't opened. If you trust the file, load it "
            "yourself and save its state dict with `torch.save`"
        )
    return f"is truncated or isn't a file of `torch.save`: {error}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
