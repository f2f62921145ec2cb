"""Reading of dictionaries in the library's own format."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparsedict import checks, storage
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
    """Reads a folder of the library's own format. :func:`sparsedict.load` reads other formats too.

    Args:
        path: The folder.
        latents: Indices of the latents to read, in this order; all by default. See :func:`sparsedict.load`.
        parts: The caller's classes that the dictionary uses: activations, decoder norms, kinds of dictionaries.
        device: Device of the weights; the CPU by default.
        dtype: Dtype to convert the weights to; the saved dtype by default.

    Raises:
        FileNotFoundError: If the folder or a file in it is missing.
        StorageError: If a file is damaged or of a newer version, or a class is unknown. It is a ``ValueError``.
    """
    folder = Path(path)
    own = own_classes(parts)
    description, digest = storage.read_description(folder)
    stored = storage.stored_tensors(folder, digest)
    _check_widths(description, stored, folder)
    n_latents = description.widths["n_latents"]
    rows = None if latents is None else chosen_latents(latents, n_latents)
    maker = Maker(description, own, str(folder / storage.DESCRIPTION))
    dictionary = maker.make(rows)
    by_name: dict[str, list[int]] = {}
    if rows is not None:
        by_name = dict.fromkeys(_per_latent(dictionary, stored, rows, n_latents, folder), rows)
        by_name |= _rows_of_blocks(dictionary, stored, rows)
    _check_weights(dictionary, stored, {name: stored[name].shape[0] for name in by_name if name in stored}, folder)
    weights = storage.read_weights(folder, digest, device, rows=by_name)
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
        TypeError: If an index isn't an integer.
        ValueError: If the list is empty, or an index is out of range or occurs twice.
    """
    checks.instance("latents", latents, Iterable, "a list of indices of latents")
    rows = latents.tolist() if isinstance(latents, Tensor) else list(latents)
    wrong = next((row for row in rows if isinstance(row, bool) or not hasattr(row, "__index__")), None)
    if wrong is not None:
        hint = "; convert a mask by `mask.nonzero().squeeze(-1)`" if isinstance(wrong, bool) else ""
        raise TypeError(f"`latents` must be indices of latents, got {wrong!r} of type {type(wrong).__name__}{hint}.")
    rows = [row.__index__() for row in rows]
    if not rows:
        raise ValueError("`latents` must name at least one latent, got none.")
    outside = next((row for row in rows if not 0 <= row < n_latents), None)
    if outside is not None:
        raise ValueError(f"`latents` must lie from 0 to {n_latents - 1}, got {outside}.")
    if len(set(rows)) < len(rows):
        twice = Counter(rows).most_common(1)[0][0]
        raise ValueError(f"`latents` must name each latent once, got {twice} twice.")
    return rows


def _check_widths(description: Description, stored: Mapping[str, StoredTensor], folder: Path) -> None:
    """Compares the widths with the stored weights before memory of that size is allocated."""
    widths = description.widths
    n_latents, d_out = widths["n_latents"], widths["d_out"]
    shapes: dict[str, tuple[int, ...]] = {"encoder_bias": (n_latents,), "decoder_bias": (d_out,)}
    if not _has_blocks(stored):
        shapes = {"encoder": (n_latents, widths["d_in"]), "decoder": (n_latents, d_out)} | shapes
    for name, wanted in shapes.items():
        if name not in stored or stored[name].shape != wanted:
            found = f"of shape {stored[name].shape}" if name in stored else "missing"
            raise StorageError(f"{folder}: by the JSON's widths `{name}` must be of shape {wanted}, but it is {found}.")
    for name, value in description.kind.arguments.items():
        if value != widths.get(name, value) and not isinstance(value, tuple):
            raise StorageError(f"{folder}: the kind's argument `{name}` is {value}, but the width is {widths[name]}.")
    name = "encoder_bias" if _has_blocks(stored) else "encoder"
    dtype = str(stored[name].dtype).removeprefix("torch.")
    if dtype != description.dtype:
        raise StorageError(f"{folder}: by the JSON `{name}` is of {description.dtype[:80]}, but it is of {dtype}.")


def _has_blocks(stored: Mapping[str, StoredTensor]) -> bool:
    """Returns whether the matrices are stored by blocks of latents."""
    return "encoder" not in stored and "encoder_0" in stored


def _rows_of_blocks(
    dictionary: Dictionary, stored: Mapping[str, StoredTensor], rows: Sequence[int]
) -> dict[str, list[int]]:
    """Returns the rows to read of the matrices that a dictionary has for each block of latents."""
    found: dict[str, list[int]] = {}
    start = 0
    for names in dictionary.per_block:
        # The constructor has checked that the rows are in the order of the blocks.
        n_stored = stored[names[0]].shape[0] if names[0] in stored else 0
        own = [row - start for row in rows if start <= row < start + n_stored]
        found |= dict.fromkeys(names, own)
        start += n_stored
    return found


def _per_latent(
    dictionary: Dictionary, stored: Mapping[str, StoredTensor], rows: Sequence[int], n_latents: int, folder: Path
) -> frozenset[str]:
    """Returns the names of the weights of which the chosen rows are read.

    These are the weights that `Dictionary.per_latent` names. A kind outside the library may omit some: weights with one
    row per chosen latent in the dictionary and one row per latent in the file are added.
    """
    named = dictionary.per_latent
    others = {name: weight for name, weight in dictionary.state_dict().items() if name not in named and weight.ndim}
    per_row = {
        name
        for name, weight in others.items()
        if name in stored and len(weight) == len(rows) and stored[name].shape == (n_latents, *weight.shape[1:])
    }
    if len(rows) < n_latents:
        return named | per_row
    kind = type(dictionary)
    is_unspecified = kind not in KINDS and kind.per_latent is Dictionary.per_latent
    if per_row and is_unspecified and list(rows) != sorted(rows):
        name = min(per_row)
        raise StorageError(
            f"{folder}: `{name}` has {n_latents} rows, the number of latents, and {kind.__name__} doesn't state "
            "whether they belong to latents, so the latents can't be reordered. Override `per_latent` in "
            f"{kind.__name__}: `return super().per_latent | {{{name!r}}}`, or without this name."
        )
    return named


def _check_weights(
    dictionary: Dictionary, stored: Mapping[str, StoredTensor], n_rows: Mapping[str, int], folder: Path
) -> None:
    """Compares names, shapes and types with the file's header, before any weight is read.

    Args:
        dictionary: The dictionary to load weights into.
        stored: Header of the file.
        n_rows: Number of rows in the file, for the weights of which only some rows are read.
        folder: Folder of the file, for errors.
    """
    wanted = dictionary.state_dict()
    for what, names in (("lack", wanted.keys() - stored.keys()), ("contain unexpected", stored.keys() - wanted.keys())):
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
