"""One way to load whatever holds a dictionary: find the files, recognise the format, read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from sparsedict import dictionaries
from sparsedict.dictionaries import Dictionary


def load(
    path: str | os.PathLike[str],
    *,
    latents: Iterable[int] | Tensor | None = None,
    parts: Iterable[type] = (),
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Loads a dictionary that was saved by :meth:`Dictionary.save`, in evaluation mode.

    Nothing that the files name is imported or run: a class that isn't the library's own is taken from ``parts``.

    Args:
        path: The folder.
        latents: Which latents to read, in this order; all where left out. Only their rows are read. The dictionary that
            comes has these latents, with the values that they have in the whole one, except that TopK chooses among
            them alone: all that fire in the whole one fire, and others may. ``trained_on["latents"]`` keeps the list.
        parts: Classes of your own that the dictionary is made of: activations, decoder norms, kinds of dictionaries.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; as they were saved where left out.

    Raises:
        FileNotFoundError: If the folder or a file in it is missing.
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
    # Where another library's files are recognised, they are read here; what isn't recognised gives the error of ours.
    return dictionaries.read(Path(path), latents=latents, parts=parts, device=device, dtype=dtype)
