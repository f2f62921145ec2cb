"""Makes a saved dictionary again."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict import activations, norms, storage
from sparsedict.activations import Activation
from sparsedict.dictionaries._autoencoder import SparseAutoencoder
from sparsedict.dictionaries._dictionary import Dictionary
from sparsedict.dictionaries._distiller import SparseDistiller
from sparsedict.norms import DecoderNorm
from sparsedict.storage import Description, Named, StorageError

_LIBRARY = {
    Dictionary: (SparseAutoencoder, SparseDistiller),
    Activation: tuple(getattr(activations, name) for name in activations.__all__ if name != "State"),
    DecoderNorm: tuple(getattr(norms, name) for name in norms.__all__),
}
_NOT_ARGUMENTS = {"activation", "decoder_norm", "device", "dtype", "generator"}


def read(
    path: str | os.PathLike[str],
    *,
    parts: Iterable[type] = (),
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """Reads a folder of the library's own format; :func:`sparsedict.load` does so, and reads other things too.

    Nothing that the files name is imported or run: a class that isn't the library's own is taken from ``parts``.

    Args:
        path: The folder.
        parts: Classes of your own that the dictionary is made of: activations, decoder norms, kinds of dictionaries.
        device: Where to put the weights; the CPU where left out.
        dtype: Type to convert them to; as they were saved where left out.

    Raises:
        FileNotFoundError: If the folder or a file in it is missing.
        StorageError: If a file is broken or from a newer version, or a class isn't known. It is a ``ValueError``.
    """
    folder = Path(path)
    own = _own_classes(parts)
    description, digest = storage.read_description(folder)
    file = str(folder / "dictionary.json")
    kind = _find(Dictionary, "kind", description.kind, own, file)
    activation = _make(_find(Activation, "activation", description.activation, own, file), description.activation, file)
    norm = _make(
        _find(DecoderNorm, "decoder norm", description.decoder_norm, own, file), description.decoder_norm, file
    )
    _check_widths(description, storage.weight_shapes(folder, digest), folder)
    parts_made = {"activation": activation, "decoder_norm": norm}
    all_known = not {kind, type(activation), type(norm)} & set(own)
    dictionary = _empty(kind, description.kind, parts_made, file, all_known)
    _check_arguments(dictionary, description, file)
    _fill(dictionary, storage.read_weights(folder, digest, device), folder)
    dictionary.trained_on = dict(description.trained_on)
    return dictionary.to(device=device, dtype=dtype).eval()


def _own_classes(parts: Iterable[type]) -> list[type]:
    own = list(parts)
    for part in own:
        if not isinstance(part, type):
            raise TypeError(f"`parts` must hold classes, such as `parts=[MyActivation]`, got {part!r}.")
        if not issubclass(part, tuple(_LIBRARY)):
            raise TypeError(f"`parts` must hold activations, decoder norms or dictionaries, got {part.__name__}.")
    return own


def _find(base: type, role: str, named: Named, own: list[type], file: str) -> type:
    """Finds a class by name among the library's own or those that the caller passed."""
    known = _LIBRARY[base] if named.package == "sparsedict" else own
    found = [
        known_class
        for known_class in known
        if issubclass(known_class, base) and not inspect.isabstract(known_class) and known_class.__name__ == named.name
    ]
    if len(found) > 1:
        raise StorageError(
            f"{file}: the {role} is {named.name!r}, and `parts` holds {len(found)} classes of that name."
        )
    if found:
        return found[0]
    if named.package == "sparsedict":
        names = sorted({c.__name__ for c in known if not inspect.isabstract(c)})
        raise StorageError(f"{file}: {role} {named.name!r} isn't one of sparsedict's: {', '.join(names)}.")
    raise StorageError(
        f"{file}: the {role} is {named.name!r} from {named.package!r}, which isn't part of sparsedict. "
        f"Pass the class: `sd.load(path, parts=[{named.name}])`."
    )


def _make(part: type, named: Named, file: str, **others: Any) -> Any:
    try:
        return part(**named.arguments, **others)
    except (TypeError, ValueError) as error:
        raise StorageError(f"{file}: {part.__name__} refuses its arguments {dict(named.arguments)}: {error}") from error


def _check_widths(description: Description, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Compares the widths with the stored weights before anything of that size is made."""
    widths = description.widths
    n_latents = widths["n_latents"]
    for name, wanted in (("encoder", (n_latents, widths["d_in"])), ("decoder", (n_latents, widths["d_out"]))):
        if shapes.get(name) != wanted:
            found = "missing" if name not in shapes else f"of shape {shapes[name]}"
            raise StorageError(f"{folder}: by the JSON's widths `{name}` must be of shape {wanted}, but it is {found}.")
    for name, value in description.kind.arguments.items():
        if value != widths.get(name, value):
            raise StorageError(f"{folder}: the kind's argument `{name}` is {value}, but the width is {widths[name]}.")


def _empty(kind: type[Dictionary], named: Named, parts: Mapping[str, Any], file: str, all_known: bool) -> Dictionary:
    forbidden = _NOT_ARGUMENTS & set(named.arguments)
    if forbidden:
        raise StorageError(f"{file}: `kind` has arguments that no file may set: {', '.join(sorted(forbidden))}.")
    # A class of the caller's own may look at numbers while it is made, which tensors without storage don't have.
    with torch.random.fork_rng(devices=[]), torch.device("meta" if all_known else "cpu"):
        return _make(kind, named, file, **parts)


def _check_arguments(dictionary: Dictionary, description: Description, file: str) -> None:
    made = {"d_in": dictionary.d_in, "d_out": dictionary.d_out, "n_latents": dictionary.n_latents}
    if made != dict(description.widths):
        raise StorageError(
            f"{file}: the arguments make a dictionary of {made}, but the widths are {description.widths}."
        )


def _fill(dictionary: Dictionary, weights: Mapping[str, Tensor], folder: Path) -> None:
    wanted = dictionary.state_dict()
    for what, names in (("lack", wanted.keys() - weights.keys()), ("hold unexpected", weights.keys() - wanted.keys())):
        if names:
            raise StorageError(f"{folder}: the weights {what} {', '.join(map(repr, sorted(names)[:8]))}.")
    for name, empty in wanted.items():
        weight = weights[name]
        if weight.shape != empty.shape or weight.is_floating_point() != empty.is_floating_point():
            raise StorageError(
                f"{folder}: `{name}` must be of shape {tuple(empty.shape)} and like {empty.dtype}, "
                f"got {tuple(weight.shape)} of {weight.dtype}."
            )
    dictionary.load_state_dict(dict(weights), assign=True)
