"""What the JSON beside the weights says, and its checks."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT = "sparsedict dictionary"
FORMAT_VERSION = 1
MAX_BYTES = 4 * 2**20
"""Largest JSON that is written or read."""

_WIDTHS = ("d_in", "d_out", "n_latents")


class StorageError(ValueError):
    """A saved dictionary is broken, or isn't one that this version can read."""


def _library_version() -> str:
    try:
        return importlib.metadata.version("sparsedict")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class Named:
    """A kind or a part: the name of its class, the package that the class is from, and its arguments."""

    name: str
    package: str
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, kind: type, arguments: Mapping[str, Any]) -> Named:
        """Names a class, with the arguments that make one of it.

        Raises:
            TypeError: If an argument is something that JSON doesn't give back as it was.
        """
        for name, value in arguments.items():
            _check_argument(kind, name, value)
        return cls(kind.__name__, kind.__module__.partition(".")[0], dict(arguments))

    @classmethod
    def of_part(cls, part: object) -> Named:
        """Names a part with its fields.

        Raises:
            TypeError: If the part isn't a dataclass, or a field is something that JSON doesn't give back as it was.
        """
        kind = type(part)
        if not dataclasses.is_dataclass(part):
            raise TypeError(
                f"{kind.__name__} can't be saved: make it a frozen dataclass (`@dataclass(frozen=True)`), "
                "so that its fields are its arguments."
            )
        return cls.of(kind, {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.init})


def _check_argument(kind: type, name: str, value: object) -> None:
    if isinstance(value, tuple):
        for item in value:
            _check_argument(kind, name, item)
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise TypeError(
            f"{kind.__name__} can't be saved: `{name}` holds a {type(value).__name__}, and only None, bool, int, "
            "float, str and tuples of them are saved. Keep tensors in the dictionary: in parameters, buffers or the "
            "activation's `initial_state`."
        )


@dataclass(frozen=True)
class Description:
    """What a saved dictionary is.

    Attributes:
        kind: The class of the dictionary and its constructor's arguments that aren't parts.
        activation: The activation.
        decoder_norm: The constraint on decoder rows.
        widths: ``d_in``, ``d_out`` and ``n_latents``.
        dtype: Type of the encoder's entries, such as ``"float32"``.
        trained_on: Where it was trained: whatever training noted.
        library_version: The version that saved it.
    """

    kind: Named
    activation: Named
    decoder_norm: Named
    widths: Mapping[str, int]
    dtype: str
    trained_on: Mapping[str, Any]
    library_version: str = field(default_factory=_library_version)

    def to_json(self, digest: str) -> bytes:
        """Returns the JSON, which names the digest of the weights that it belongs to.

        Raises:
            TypeError: If ``trained_on`` holds something that JSON doesn't have.
            ValueError: If it holds NaN or infinity, or the JSON is too large to be read again.
        """
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "weights": digest,
            **dataclasses.asdict(self),
        }
        try:
            text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"`trained_on` and the parts' arguments must hold what JSON can: {error}. "
                "Use finite numbers, strings, lists and dictionaries."
            ) from None
        encoded = f"{text}\n".encode()
        if len(encoded) > MAX_BYTES:
            raise ValueError(f"`trained_on` must fit into {MAX_BYTES:,} bytes of JSON, got {len(encoded):,}.")
        return encoded

    @classmethod
    def from_json(cls, encoded: bytes, source: str) -> tuple[Description, str]:
        """Reads and checks the JSON: what it says, and the digest of its weights.

        Args:
            encoded: The file's content.
            source: Its name, for errors.

        Raises:
            StorageError: If it isn't the JSON of a dictionary, or of a newer version.
        """
        document = _parse(encoded, source)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise StorageError(f"{source} doesn't describe a sparsedict dictionary: its `format` isn't {FORMAT!r}.")
        _check_version(document.get("format_version"), document.get("library_version"), source)
        read = _Reader(document, source)
        digest = read.text("weights")
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise StorageError(f"{source}: `weights` must be a digest of 64 hexadecimal digits, got {digest[:80]!r}.")
        description = cls(
            kind=read.named("kind"),
            activation=read.named("activation"),
            decoder_norm=read.named("decoder_norm"),
            widths=read.widths(),
            dtype=read.text("dtype"),
            trained_on=read.mapping("trained_on"),
            library_version=read.text("library_version"),
        )
        read.finish({"format", "format_version"})
        return description, digest


def _check_version(version: object, library_version: object, source: str) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise StorageError(f"{source}: `format_version` must be a positive integer, got {version!r}.")
    if version > FORMAT_VERSION:
        raise StorageError(
            f"{source} has format version {version}, written by sparsedict {library_version}; this is sparsedict "
            f"{_library_version()}, which reads versions up to {FORMAT_VERSION}. Upgrade sparsedict to load it."
        )


def _parse(encoded: bytes, source: str) -> Any:
    def refuse_constant(text: str) -> None:
        raise ValueError(f"{text} is not a JSON number")

    def integer(text: str) -> int:
        if len(text) > 20:  # Python's conversion of long digit strings takes quadratic time
            raise ValueError(f"an integer of {len(text)} digits")
        return int(text)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("an object holds one key twice")
        return dict(pairs)

    try:
        return json.loads(encoded, parse_constant=refuse_constant, parse_int=integer, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise StorageError(f"{source} isn't valid JSON: {reason}.") from None


class _Reader:
    """Takes keys out of a JSON object, checking each."""

    def __init__(self, document: dict[str, Any], source: str) -> None:
        self._document = document
        self._source = source
        self._taken: set[str] = set()

    def _take(self, key: str, kind: type, what: str) -> Any:
        if key not in self._document:
            raise StorageError(f"{self._source} lacks the key `{key}`.")
        value = self._document[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise StorageError(f"{self._source}: `{key}` must be {what}, got {str(value)[:80]!r}.")
        self._taken.add(key)
        return value

    def text(self, key: str) -> str:
        return self._take(key, str, "a string")

    def mapping(self, key: str) -> dict[str, Any]:
        return self._take(key, dict, "an object")

    def named(self, key: str) -> Named:
        inner = _Reader(self.mapping(key), f"{self._source}, `{key}`")
        arguments = {name: _tuples(value) for name, value in inner.mapping("arguments").items()}
        named = Named(inner.text("name"), inner.text("package"), arguments)
        inner.finish(set())
        return named

    def widths(self) -> dict[str, int]:
        inner = _Reader(self.mapping("widths"), f"{self._source}, `widths`")
        widths = {name: inner._take(name, int, "an integer") for name in _WIDTHS}
        inner.finish(set())
        return widths

    def finish(self, others: set[str]) -> None:
        extra = sorted(set(self._document) - self._taken - others)
        if extra:
            raise StorageError(f"{self._source} has unexpected keys: {', '.join(map(repr, extra[:8]))}.")


def _tuples(value: Any) -> Any:
    """Parts are immutable, so what JSON calls a list was a tuple."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
