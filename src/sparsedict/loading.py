"""One way to load whatever holds a dictionary: find the files, recognise the format, read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from sparsedict import dictionaries, formats, hub, storage
from sparsedict.dictionaries import Dictionary


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
    other = None if (found / storage.DESCRIPTION).exists() else formats.recognised(found)
    # What nobody recognises gives the error of ours.
    if other is not None:
        if latents is not None:
            raise ValueError(
                "`latents` can be chosen from a folder of `Dictionary.save`, whose rows lie ready to be read. Load the "
                f"whole of {found}, save it, and choose from that."
            )
        return other.read(found, device=device, dtype=dtype)
    return dictionaries.read(found, latents=latents, parts=parts, device=device, dtype=dtype)
