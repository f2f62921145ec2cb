"""Construction of the objects that a description names, from the library's classes and the caller's classes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch

from sparsedict import activations, norms
from sparsedict.activations import Activation
from sparsedict.dictionaries._autoencoder import SparseAutoencoder
from sparsedict.dictionaries._cross_layer import CrossLayerDistiller
from sparsedict.dictionaries._crosscoder import Crosscoder
from sparsedict.dictionaries._dictionary import Dictionary
from sparsedict.dictionaries._distiller import SparseDistiller
from sparsedict.dictionaries._layout import LaterLayers, NextLayers, TiedDecoders
from sparsedict.norms import DecoderNorm
from sparsedict.storage import Description, Named, StorageError

KINDS = (SparseAutoencoder, SparseDistiller, CrossLayerDistiller, Crosscoder)
_PARTS = (
    *(
        found
        for room in (activations, norms)
        for name in room.__all__
        if isinstance(found := getattr(room, name), type) and is_dataclass(found)
    ),
    LaterLayers,
    NextLayers,
    TiedDecoders,
)
_ROLES = {"activation": ("activation", Activation), "decoder_norm": ("decoder norm", DecoderNorm)}
"""The parts of every kind: name in errors, and base class."""

_NEVER_SET = {"device", "dtype", "generator"}


class Maker:
    """Constructs the dictionary of a description, without weights.

    Args:
        description: Description of the dictionary.
        own: The caller's classes.
        file: File of the description, for errors.

    Raises:
        StorageError: If a class is unknown, or a part raises an error for its arguments.
    """

    def __init__(self, description: Description, own: Sequence[type], file: str) -> None:
        self._file = file
        self._own = own
        self._used_own = False
        self._widths = description.widths
        self._kind = self._find("kind", Dictionary, description.kind, KINDS)
        self._arguments = dict(description.kind.arguments)
        self._check_roles(description.parts)
        self._parts: dict[str, Any] = {}
        for role, named in description.parts.items():
            what, base = _ROLES.get(role, (role, object))
            self._parts[role] = self._part(what, base, named)

    def make(self, latents: Sequence[int] | None = None) -> Dictionary:
        """Returns the dictionary, on the meta device if all classes are the library's.

        Args:
            latents: The latents to keep; all by default.
        """
        arguments, parts = dict(self._arguments), dict(self._parts)
        n_latents = None if latents is None else len(latents)
        if latents is not None:
            if "n_latents" not in arguments:
                raise StorageError(
                    f"{self._file}: a {self._kind.__name__} can't be loaded with some of its latents only. Load it "
                    "without `latents`."
                )
            given = {"n_latents": arguments["n_latents"], "activation": parts["activation"], "latents": latents}
            arguments["n_latents"], parts["activation"] = self._call(self._kind.for_subset, given)
        # The constructor of a caller's class may read values, which tensors on the meta device don't have.
        with torch.random.fork_rng(devices=[]), torch.device("cpu" if self._used_own else "meta"):
            dictionary: Dictionary = self._call(self._kind, self._values(arguments) | parts)
        wanted = {**self._widths, "n_latents": n_latents or self._widths["n_latents"]}
        widths = {"d_in": dictionary.d_in, "d_out": dictionary.d_out, "n_latents": dictionary.n_latents}
        if widths != wanted:
            raise StorageError(
                f"{self._file}: the constructor's arguments give the widths {widths}, but the file states {wanted}."
            )
        if not self._used_own:
            self._check_arguments(dictionary.arguments(), arguments)
        return dictionary

    def _check_roles(self, parts: Mapping[str, Named]) -> None:
        missing = _ROLES.keys() - parts.keys()
        if missing:
            raise StorageError(f"{self._file}: `parts` lacks {', '.join(map(repr, sorted(missing)))}.")
        given = self._arguments.keys()
        forbidden = (given & (_NEVER_SET | parts.keys())) | (parts.keys() & _NEVER_SET)
        if forbidden:
            raise StorageError(f"{self._file}: `kind` must not set the arguments {', '.join(sorted(forbidden))}.")

    def _check_arguments(self, made: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        for name, value in given.items():
            if isinstance(value, Named):
                continue
            if name in made and (made[name] != value or type(made[name]) is not type(value)):
                raise StorageError(
                    f"{self._file}: {self._kind.__name__} doesn't accept `{name}` {str(value)[:80]!r}: the "
                    f"constructor changes it to {made[name]!r}."
                )

    def _part(self, role: str, base: type, named: Named) -> Any:
        return self._call(self._find(role, base, named, _PARTS), self._values(named.arguments))

    def _values(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._value(name, value) for name, value in arguments.items()}

    def _value(self, name: str, value: Any) -> Any:
        if isinstance(value, Named):
            return self._part(name, object, value)
        return tuple(self._value(name, item) for item in value) if isinstance(value, tuple) else value

    def _find(self, role: str, base: type, named: Named, library: Sequence[type]) -> type:
        """Returns the class of this name among the library's or the caller's classes."""
        known = library if named.package == "sparsedict" else self._own
        known = [c for c in known if issubclass(c, base) and not inspect.isabstract(c)]
        found = [c for c in known if c.__name__ == named.name]
        if len(found) > 1:
            raise StorageError(
                f"{self._file}: the {role} is {named.name!r}, and `parts` contains {len(found)} classes of that name. "
                "Pass one of them."
            )
        if not found and named.package == "sparsedict":
            names = ", ".join(sorted(c.__name__ for c in known))
            raise StorageError(f"{self._file}: {role} {named.name[:80]!r} isn't a class of sparsedict: {names}.")
        if not found:
            raise StorageError(
                f"{self._file}: the {role} is {named.name[:80]!r} from {named.package[:80]!r}, which isn't part of "
                f"sparsedict. Pass the class: `sd.load(path, parts=[{named.name[:80]}])`."
            )
        self._used_own |= found[0] in self._own
        return found[0]

    def _call(self, made: Any, arguments: Mapping[str, Any]) -> Any:
        try:
            return made(**arguments)
        except (TypeError, ValueError, OverflowError) as error:
            name = getattr(made, "__qualname__", type(made).__name__)
            shown = str({name: value for name, value in arguments.items() if name not in self._parts})[:200]
            raise StorageError(f"{self._file}: {name} doesn't accept the arguments {shown}: {error}") from error


def own_classes(parts: Any) -> list[type]:
    """Returns the caller's classes after checking that each is a part or a kind.

    Raises:
        TypeError: If an item isn't a class, or is neither a kind of dictionary nor a dataclass.
    """
    own = list(parts)
    for part in own:
        if not isinstance(part, type):
            raise TypeError(f"`parts` must contain classes, such as `parts=[MyActivation]`, got {part!r}.")
        if not (issubclass(part, Dictionary) or is_dataclass(part)):
            raise TypeError(
                "`parts` must contain kinds of dictionaries or parts (dataclasses such as activations and decoder "
                f"norms), got {part.__name__}."
            )
    return own
