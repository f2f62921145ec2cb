"""One way to load whatever holds a dictionary: find the files, recognise the format, read."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor

from sparsedict import checks, dictionaries, hub, storage
from sparsedict.dictionaries import Dictionary
from sparsedict.formats import Format, Place, checked_formats, recognised, state_dict
from sparsedict.torch_state import in_own_state

_OTHERS = "no other library's checkpoint is recognised there"
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
        formats: Formats of your own, each an object with ``recognises(place)`` and ``read(path, device=, dtype=)``; see
            :class:`sparsedict.formats.Format`. They are asked first, in this order.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; as they were saved where left out.

    Raises:
        TypeError: If ``path`` isn't one, or an item of ``formats`` isn't a format.
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
    checks.path("path", path, "a folder or file of a dictionary, or an address on the hub")
    if not hub.is_address(path) and not os.path.lexists(path):
        hint = f" A repository on the hub would be 'hf://{path}'." if _could_be_on_the_hub(str(path)) else ""
        raise FileNotFoundError(f"`path` must be a folder or file of a dictionary, but {path} doesn't exist.{hint}")
    own = checked_formats(formats)
    place = Place.of(path)
    found = next((one for one in own if one.recognises(place)), None)
    if found is None and place.named is None and place.holds(storage.DESCRIPTION):
        if place.snapshot is not None:
            place.find(storage.DESCRIPTION)
            place.find(storage.WEIGHTS)
        return dictionaries.read(place.folder, latents=latents, parts=parts, device=device, dtype=dtype)
    found = recognised(place) if found is None else found
    if found is None:
        raise FileNotFoundError(_unknown(place))
    if latents is not None:
        raise ValueError(
            "`latents` can be chosen from a folder of `Dictionary.save`, whose rows lie ready to be read. Load the "
            f"whole of {place}, save it, and choose from that."
        )
    read = found.read(place, device=device, dtype=dtype)
    if not isinstance(read, Dictionary):
        raise TypeError(
            f"`formats` must hold formats whose `read` returns a Dictionary, but {type(found).__name__} returned "
            f"{type(read).__name__}."
        )
    return read.eval()


def _unknown(place: Place) -> str:
    """Says why there is nothing to load, and what may have been meant."""
    if place.named is not None:
        is_part = place.named in (storage.DESCRIPTION, storage.WEIGHTS)
        hint = f"one of a dictionary's: give {place.inside(None)}" if is_part else f"and {_OTHERS}"
        remedy = f" {_FROM_WEIGHTS}" if not is_part and place.suffix in _SUFFIXES else ""
        return f"`path` must be the folder of a saved dictionary, but {place} is a file, {hint}.{remedy}"
    missing = f"{place} holds no saved dictionary: {storage.DESCRIPTION} is missing, and {_OTHERS}."
    inner = place.inner(storage.DESCRIPTION, depth=1)
    if inner:
        return f"{missing} There are some in its folders {', '.join(inner[:_MAX_LISTED])}: load one of them."
    if place.inner(storage.CHECKPOINT, depth=1):
        what = "It holds checkpoints of a run: `fit` goes on with it"
        return f"{missing} {what}, {_RUN}, and what comes of it can be saved."
    if place.holds(storage.CHECKPOINT):
        what = "It is a checkpoint of a run: `fit` goes on with the folder that it lies in"
        return f"{missing} {what}, {_RUN}."
    if place.holds("activations.json"):
        return f"{missing} It holds stored activations: `sd.ActivationStore` reads them."
    if place.snapshot is not None:
        elsewhere = place.snapshot.with_weights()
    else:
        elsewhere = [name for name in place.entries() if name.endswith(_SUFFIXES)]
    if not elsewhere:
        return missing
    load = f": load one of them, such as `sd.load({place.inside(elsewhere[0])!r})`" if place.snapshot is None else ""
    return f"{missing} There are weights in {', '.join(elsewhere[:_MAX_LISTED])}{load}."


def _could_be_on_the_hub(path: str) -> bool:
    try:
        hub.HubAddress.from_string(path)
    except ValueError:
        return False
    return not path.startswith("hf:")
