"""What the JSON beside the weights says, and its checks."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsedict.storage._json import MAX_BYTES, Reader, StorageError, parse_json
from sparsedict.storage._migrations import migrated

FORMAT = "sparsedict dictionary"
FORMAT_VERSION = 2

_WIDTHS = ("d_in", "d_out", "n_latents")


def installed_version() -> str:
    """Returns the version of this library."""
    try:
        return importlib.metadata.version("sparsedict")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class Named:
    """A kind or a part: the name of its class, the package that the class is from, and its arguments.

    An argument is None, a bool, int, float or str, a part (again `Named`), or a tuple of these.
    """

    name: str
    package: str
    arguments: Mapping[str, Any]

    @classmethod
    def from_class(cls, kind: type, arguments: Mapping[str, Any]) -> Named:
        """Names a class, with the arguments that make one of it.

        Raises:
            TypeError: If an argument is something that JSON doesn't give back as it was.
        """
        plain = {name: _plain(kind, name, value) for name, value in arguments.items()}
        return cls(kind.__name__, kind.__module__.partition(".")[0], plain)

    @classmethod
    def from_part(cls, part: object) -> Named:
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
        return cls.from_class(kind, {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.init})


def _plain(kind: type, name: str, value: object) -> Any:
    """Returns an argument as JSON can say it, parts as `Named`."""
    if isinstance(value, tuple):
        return tuple(_plain(kind, name, item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return Named.from_part(value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{kind.__name__} can't be saved: `{name}` holds a {type(value).__name__}, and only None, bool, int, float, "
        "str, parts that are dataclasses, and tuples of them are saved. Keep tensors in the dictionary: in "
        "parameters, buffers or the activation's `initial_state`."
    )


def _number(value: object) -> Any:
    """Returns a NumPy number as JSON can say it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


@dataclass(frozen=True)
class Description:
    """What a saved dictionary is.

    Attributes:
        kind: The class of the dictionary and its constructor's arguments that aren't parts.
        parts: The parts, by the constructor's arguments: ``activation``, ``decoder_norm``, and others of a kind.
        widths: ``d_in``, ``d_out`` and ``n_latents``.
        dtype: Type of the encoder's entries, such as ``"float32"``.
        trained_on: Where it was trained: whatever training noted.
        library_version: The version that saved it.
    """

    kind: Named
    parts: Mapping[str, Named]
    widths: Mapping[str, int]
    dtype: str
    trained_on: Mapping[str, Any]
    library_version: str = field(default_factory=installed_version)

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
            text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False, default=_number)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"`trained_on` and the parts' arguments must hold what JSON can: {error}. "
                "Use finite numbers, strings, lists and dictionaries."
            ) from None
        encoded = f"{text}\n".encode(errors="surrogatepass")
        if len(encoded) > MAX_BYTES:
            raise ValueError(f"`trained_on` must fit into {MAX_BYTES:,} bytes of JSON, got {len(encoded):,}.")
        # What couldn't be read again is refused now, while the dictionary is still there.
        parse_json(encoded, "`trained_on` or the parts' arguments: what would be written")
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
        document = parse_json(encoded, source)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise StorageError(f"{source} doesn't describe a sparsedict dictionary: its `format` isn't {FORMAT!r}.")
        version = _check_version(document.get("format_version"), document.get("library_version"), source)
        read = Reader(migrated(document, version), source)
        read.text("format")
        read.integer("format_version")
        digest = read.text("weights")
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise StorageError(f"{source}: `weights` must be a digest of 64 hexadecimal digits, got {digest[:80]!r}.")
        parts, widths = read.inner("parts"), read.inner("widths")
        description = cls(
            kind=_named(read, "kind"),
            parts={role: _named(parts, role) for role in parts},
            widths={name: widths.integer(name) for name in _WIDTHS},
            dtype=read.text("dtype"),
            trained_on=read.mapping("trained_on"),
            library_version=read.text("library_version"),
        )
        widths.finish()
        read.finish()
        return description, digest


def _check_version(version: object, writer: object, source: str) -> int:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise StorageError(f"{source}: `format_version` must be a positive integer, got {version!r}.")
    if version > FORMAT_VERSION:
        raise StorageError(
            f"{source} has format version {version}, written by sparsedict {str(writer)[:40]}; this is "
            f"sparsedict {installed_version()}, which reads versions up to {FORMAT_VERSION}. Upgrade sparsedict to "
            "load it."
        )
    return version


def _named(read: Reader, key: str) -> Named:
    inner = read.inner(key)
    given = inner.inner("arguments")
    named = Named(inner.text("name"), inner.text("package"), {name: _argument(given, name) for name in given})
    inner.finish()
    return named


def _argument(read: Reader, name: str) -> Any:
    """Parts are immutable, so what JSON calls an array was a tuple; an object is a part again."""
    value = read.value(name)
    if isinstance(value, dict):
        return _named(read, name)
    if isinstance(value, list):
        inner = Reader({str(index): item for index, item in enumerate(value)}, f"{read.source}, `{name[:80]}`")
        return tuple(_argument(inner, index) for index in inner)
    return value
