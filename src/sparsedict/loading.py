"""`load`, which loads a dictionary from a folder, a file or the hub, in any known format."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor

from sparsedict import checks, dictionaries, hub, storage
from sparsedict.dictionaries import Dictionary
from sparsedict.formats import Format, Location, checked_formats, detect_format, state_dict
from sparsedict.torch_state import in_own_state

_OTHER_FORMATS = "it isn't a checkpoint in a known format of another library"
_RUN = "by `checkpoint=` and `resume=True`"
_MAX_LISTED = 8
_SUFFIXES = state_dict.SUFFIXES
_FROM_WEIGHTS = state_dict.FROM_WEIGHTS


@in_own_state
def load(
    path: str | os.PathLike[str],
    *,
    latents: Iterable[int] | Tensor | None = None,
    parts: Iterable[type] = (),
    formats: Iterable[Format] = (),
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Loads a dictionary that was saved by `Dictionary.save`, or a checkpoint of another library.

    The dictionary is in evaluation mode. The format is detected automatically. :mod:`sparsedict.formats` has a reader
    for each library with further options. Classes outside of this library are taken from ``parts``. Loading never
    imports or executes code that is named in a file.

    Args:
        path: The folder, or a file of a checkpoint of another library. On the hub, ``"hf://owner/repository/path"`` or
            ``"hf://owner/repository@revision/path"``. Required files are downloaded into the local cache.
        latents: The latents to read, in this order. All latents by default. Only their rows are read. Each latent has
            the same value as in the full dictionary. TopK is an exception: it selects among the loaded latents only, so
            some latents may be active that aren't active in the full dictionary. ``trained_on["latents"]`` contains
            the list.
        parts: User-defined classes of the dictionary and of its activation and decoder norm.
        formats: User-defined formats, which have priority in this order. Each is an object with
            ``recognises(location)`` and ``read(path, device=, dtype=)``; see :class:`sparsedict.formats.Format`.
        device: Device of the weights. The CPU by default.
        dtype: Type of the weights. The saved type by default.

    Raises:
        TypeError: If ``path`` isn't a path, or an item of ``formats`` isn't a format.
        FileNotFoundError: If the folder or a file in it is missing.
        PermissionError: If a repository on the hub is gated.
        ConnectionError: If the hub can't be reached and the local cache lacks a file.
        StorageError: If a file is broken or from a newer version, or a class is unknown. It is a ``ValueError``.

    Example:
        >>> import tempfile, sparsedict as sd
        >>> sae = sd.SparseAutoencoder(8, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sae.save(folder)
        ...     loaded = sd.load(folder)
        >>> bool((loaded.encoder == sae.encoder).all())
        True
    """
    checks.path("path", path, "a folder or file of a dictionary, or an address on the hub")
    if not hub.is_address(path) and not os.path.lexists(path):
        hint = f" A repository on the hub would be 'hf://{path}'." if _could_be_on_the_hub(str(path)) else ""
        raise FileNotFoundError(f"`path` must be a folder or file of a dictionary, but {path} doesn't exist.{hint}")
    own = checked_formats(formats)
    checks.device("device", device)
    checks.instance("parts", parts, Iterable, "a list of classes")
    location = Location.from_path(path)
    found = next((one for one in own if one.recognises(location)), None)
    if found is None and location.file_name is None and location.holds(storage.DESCRIPTION):
        if location.snapshot is not None:
            location.find(storage.DESCRIPTION)
            location.find(storage.WEIGHTS)
        return dictionaries.read(location.folder, latents=latents, parts=parts, device=device, dtype=dtype)
    found = detect_format(location) if found is None else found
    if found is None:
        raise FileNotFoundError(_nothing_to_load(location))
    if latents is not None:
        raise ValueError(
            "`latents` must be left out for a checkpoint of another library, whose rows can't be read one by one. Load "
            f"{location} without `latents`, save the dictionary, and load the latents from the saved folder."
        )
    read = found.read(location, device=device, dtype=dtype)
    if not isinstance(read, Dictionary):
        raise TypeError(
            f"`formats` must contain formats whose `read` returns a Dictionary, but {type(found).__name__} returned "
            f"{type(read).__name__}."
        )
    return read.eval()


def _nothing_to_load(location: Location) -> str:
    """Returns an error message that explains why there is nothing to load, with a suggestion."""
    if location.file_name is not None:
        is_part = location.file_name in (storage.DESCRIPTION, storage.WEIGHTS)
        hint = f". Pass the folder {location.path_of(None)}" if is_part else f", and {_OTHER_FORMATS}"
        remedy = f" {_FROM_WEIGHTS}" if not is_part and location.suffix in _SUFFIXES else ""
        return f"`path` must be the folder of a saved dictionary, but {location} is a file{hint}.{remedy}"
    missing = f"{location} contains no saved dictionary: {storage.DESCRIPTION} is missing, and {_OTHER_FORMATS}."
    inner = location.subfolders(storage.DESCRIPTION, depth=1)
    if inner:
        return f"{missing} Its subfolders {', '.join(inner[:_MAX_LISTED])} contain dictionaries: load one of them."
    if location.subfolders(storage.CHECKPOINT, depth=1):
        return (
            f"{missing} It contains checkpoints of a run. Resume the run with `fit`, {_RUN}, and save the dictionary."
        )
    if location.holds(storage.CHECKPOINT):
        return f"{missing} It is a checkpoint of a run. Resume the run with `fit` from the parent folder, {_RUN}."
    if location.holds("activations.json"):
        return f"{missing} It contains stored activations. Read them with `sd.ActivationStore`."
    if location.snapshot is not None:
        elsewhere = location.snapshot.with_weights()
    else:
        elsewhere = [name for name in location.entries() if name.endswith(_SUFFIXES)]
    if not elsewhere:
        return missing
    load = (
        f": load one of them, such as `sd.load({location.path_of(elsewhere[0])!r})`"
        if location.snapshot is None
        else ""
    )
    return f"{missing} There are weights in {', '.join(elsewhere[:_MAX_LISTED])}{load}."


def _could_be_on_the_hub(path: str) -> bool:
    try:
        hub.HubAddress.from_string(path)
    except ValueError:
        return False
    return not path.startswith("hf:")
