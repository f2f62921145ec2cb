"""One way to load whatever holds a dictionary: find the files, recognise the format, read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from sparsedict import dictionaries, formats, hub, storage
from sparsedict.dictionaries import Dictionary

_OTHERS = "no other library's checkpoint is recognised there"
_MOST_LISTED = 8
_MEANT = {
    f"*/{storage.DESCRIPTION}": "There are some in its folders {names}: load one of them.",
    f"*/{storage.CHECKPOINT}": "It holds checkpoints of a run: `fit` goes on with it, by `checkpoint=` and "
    "`resume=True`, and what comes of it can be saved.",
    storage.CHECKPOINT: "It is a checkpoint of a run: `fit` goes on with the folder that it lies in, by `checkpoint=` "
    "and `resume=True`.",
    "activations.json": "It holds stored activations: `sd.ActivationStore` reads them.",
}
"""What else may lie in a folder, by a file that shows it."""


def load(
    path: str | os.PathLike[str],
    *,
    latents: Iterable[int] | Tensor | None = None,
    parts: Iterable[type] = (),
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Loads a dictionary, in evaluation mode: one of :meth:`Dictionary.save`, or another library's checkpoint.

    The files say whose they are (:mod:`sparsedict.formats` has a reader for each library, with options of its own).
    Nothing that the files name is imported or run: a class that isn't the library's own is taken from ``parts``.

    Args:
        path: The folder; of another library's, also a file in it. On the hub, ``"hf://owner/repository/path"`` or
            ``"hf://owner/repository@revision/path"``: what is needed is downloaded into the local cache.
        latents: Which latents to read, in this order; all where left out. Only their rows are read. The dictionary that
            comes has these latents, with the values that they have in the whole one, except that TopK chooses among
            them alone: all that fire in the whole one fire, and others may. ``trained_on["latents"]`` keeps the list.
        parts: Classes of your own that the dictionary is made of: activations, decoder norms, kinds of dictionaries.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; as they were saved where left out.

    Raises:
        FileNotFoundError: If the folder or a file in it is missing.
        PermissionError: If a repository on the hub is gated.
        ConnectionError: If the hub can't be reached and the local cache doesn't hold what is asked for.
        StorageError: If a file is broken or from a newer version, or a class isn't known. It is a ``ValueError``.

    Example:
        >>> import tempfile, sparsedict as sd
        >>> coder = sd.SparseAutoencoder(8, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     coder.save(folder)
        ...     same = sd.load(folder)
        >>> bool((same.encoder == coder.encoder).all())
        True
    """
    found = hub.fetch(path) if isinstance(path, str) and hub.is_address(path) else Path(path)
    is_ours = os.path.lexists(found / storage.DESCRIPTION)
    other = None if is_ours else formats.recognised(found)
    if other is not None:
        if latents is not None:
            raise ValueError(
                "`latents` can be chosen from a folder of `Dictionary.save`, whose rows lie ready to be read. Load the "
                f"whole of {found}, save it, and choose from that."
            )
        return other.read(found, device=device, dtype=dtype)
    if not is_ours:
        raise FileNotFoundError(_unknown(path, found))
    return dictionaries.read(found, latents=latents, parts=parts, device=device, dtype=dtype)


def _unknown(path: str | os.PathLike[str], found: Path) -> str:
    """Says why there is nothing to load, and what may have been meant."""
    if not os.path.lexists(found):
        hint = f" A repository on the hub would be 'hf://{path}'." if _could_be_on_the_hub(str(path)) else ""
        return f"`path` must be a folder or file of a dictionary, but {found} doesn't exist.{hint}"
    if not found.is_dir():
        is_part = found.name in (storage.DESCRIPTION, storage.WEIGHTS)
        hint = f"one of a dictionary's: give {found.parent}" if is_part else f"and {_OTHERS}"
        return f"`path` must be the folder of a saved dictionary, but {found} is a file, {hint}."
    missing = f"{found} holds no saved dictionary: {storage.DESCRIPTION} is missing, and {_OTHERS}."
    for pattern, meaning in _MEANT.items():
        names = sorted(str(file.parent.relative_to(found)) for file in islice(found.glob(pattern), _MOST_LISTED))
        if names:
            return f"{missing} {meaning.format(names=', '.join(names))}"
    return missing


def _could_be_on_the_hub(path: str) -> bool:
    try:
        hub.HubAddress.of(path)
    except ValueError:
        return False
    return not path.startswith("hf:")
