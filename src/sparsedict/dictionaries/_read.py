"""Makes a saved dictionary again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparsedict import storage
from sparsedict.dictionaries._dictionary import Dictionary
from sparsedict.dictionaries._maker import KINDS, Maker, own_classes
from sparsedict.storage import Description, StorageError, StoredTensor


def read(
    path: str | os.PathLike[str],
    *,
    latents: Iterable[int] | Tensor | None = None,
    parts: Iterable[type] = (),
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads a folder of the library's own format; :func:`sparsedict.load` does so, and reads other things too.

    Args:
        path: The folder.
        latents: Which latents to read, in this order; all where left out. See :func:`sparsedict.load`.
        parts: Classes of your own that the dictionary is made of: activations, decoder norms, kinds of dictionaries.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; as they were saved where left out.

    Raises:
        FileNotFoundError: If the folder or a file in it is missing.
        StorageError: If a file is broken or from a newer version, or a class isn't known. It is a ``ValueError``.
    """
    folder = Path(path)
    own = own_classes(parts)
    description, digest = storage.read_description(folder)
    stored = storage.stored_tensors(folder, digest)
    _check_widths(description, stored, folder)
    n_latents = description.widths["n_latents"]
    rows = None if latents is None else chosen_latents(latents, n_latents)
    maker = Maker(description, own, str(folder / storage.DESCRIPTION))
    dictionary = maker.make(None if rows is None else len(rows))
    per_latent = frozenset() if rows is None else _per_latent(dictionary, stored, rows, n_latents, folder)
    _check_weights(dictionary, stored, dict.fromkeys(per_latent, n_latents), folder)
    weights = storage.read_weights(folder, digest, device, latents=rows, per_latent=per_latent)
    dictionary.load_state_dict(weights, assign=True)
    storage.check_finite(dict(dictionary.named_parameters()), str(folder / storage.WEIGHTS))
    dictionary.trained_on = dict(description.trained_on)
    if rows is not None:
        earlier = dictionary.trained_on.get("latents")
        dictionary.trained_on["latents"] = [earlier[row] for row in rows] if isinstance(earlier, list) else rows
    return dictionary.to(device=device, dtype=dtype).eval()


def chosen_latents(latents: Iterable[int] | Tensor, n_latents: int) -> list[int]:
    """Returns latents as a list of indices.

    Raises:
        TypeError: If they aren't integers.
        ValueError: If there are none, one lies outside of the dictionary, or one occurs twice.
    """
    rows = latents.tolist() if isinstance(latents, Tensor) else list(latents)
    wrong = next((row for row in rows if isinstance(row, bool) or not hasattr(row, "__index__")), None)
    if wrong is not None:
        hint = ": of a mask take `mask.nonzero().squeeze(-1)`" if isinstance(wrong, bool) else ""
        raise TypeError(f"`latents` must be indices of latents, got {wrong!r} of type {type(wrong).__name__}{hint}.")
    rows = [row.__index__() for row in rows]
    if not rows:
        raise ValueError("`latents` must name at least one latent, got none.")
    outside = next((row for row in rows if not 0 <= row < n_latents), None)
    if outside is not None:
        raise ValueError(f"`latents` must lie from 0 to {n_latents - 1}, got {outside}.")
    if len(set(rows)) < len(rows):
        raise ValueError("`latents` must name each latent once, got one twice.")
    return rows


def _check_widths(description: Description, stored: Mapping[str, StoredTensor], folder: Path) -> None:
    """Compares the widths with the stored weights before anything of that size is made."""
    widths = description.widths
    n_latents = widths["n_latents"]
    for name, wanted in (("encoder", (n_latents, widths["d_in"])), ("decoder", (n_latents, widths["d_out"]))):
        if name not in stored or stored[name].shape != wanted:
            found = f"of shape {stored[name].shape}" if name in stored else "missing"
            raise StorageError(f"{folder}: by the JSON's widths `{name}` must be of shape {wanted}, but it is {found}.")
    for name, value in description.kind.arguments.items():
        if value != widths.get(name, value):
            raise StorageError(f"{folder}: the kind's argument `{name}` is {value}, but the width is {widths[name]}.")
    dtype = str(stored["encoder"].dtype).removeprefix("torch.")
    if dtype != description.dtype:
        raise StorageError(f"{folder}: by the JSON `encoder` is of {description.dtype[:80]}, but it is of {dtype}.")


def _per_latent(
    dictionary: Dictionary, stored: Mapping[str, StoredTensor], rows: Sequence[int], n_latents: int, folder: Path
) -> frozenset[str]:
    """Returns the names of the weights of which the chosen rows are read.

    They are those that the dictionary names. A kind outside the library may leave out weights of its own: they have
    as many rows in the dictionary as were chosen, and as many in the file as there are latents.
    """
    told = dictionary.per_latent
    others = {name: weight for name, weight in dictionary.state_dict().items() if name not in told and weight.ndim}
    per_row = {
        name
        for name, weight in others.items()
        if name in stored and len(weight) == len(rows) and stored[name].shape == (n_latents, *weight.shape[1:])
    }
    if len(rows) < n_latents:
        return told | per_row
    kind = type(dictionary)
    is_silent = kind not in KINDS and kind.per_latent is Dictionary.per_latent
    if per_row and is_silent and list(rows) != sorted(rows):
        name = min(per_row)
        raise StorageError(
            f"{folder}: `{name}` has {n_latents} rows, as many as there are latents, and {kind.__name__} doesn't say "
            "whether they belong to latents, so all latents can't be read in another order. Override `per_latent` in "
            f"{kind.__name__}: `return super().per_latent | {{{name!r}}}`, or without this name."
        )
    return told


def _check_weights(
    dictionary: Dictionary, stored: Mapping[str, StoredTensor], n_rows: Mapping[str, int], folder: Path
) -> None:
    """Compares names, shapes and types with the file's header, before any weight is read.

    Args:
        dictionary: What is to be filled.
        stored: What the file holds.
        n_rows: Of the weights of which only some rows are read, how many there are in the file.
        folder: For errors.
    """
    wanted = dictionary.state_dict()
    for what, names in (("lack", wanted.keys() - stored.keys()), ("hold unexpected", stored.keys() - wanted.keys())):
        if names:
            shown = ", ".join(repr(name[:80]) for name in sorted(names)[:8])
            raise StorageError(f"{folder}: the weights {what} {shown}.")
    for name, empty in wanted.items():
        shape = (n_rows[name], *empty.shape[1:]) if name in n_rows else tuple(empty.shape)
        found = stored[name]
        if found.shape != shape or found.dtype.is_floating_point != empty.is_floating_point():
            raise StorageError(
                f"{folder}: `{name}` must be of shape {shape} and like {empty.dtype}, "
                f"got {found.shape} of {found.dtype}."
            )
