"""The JSON description of a saved dictionary, and its validation."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsedict.storage._json import MAX_BYTES, Reader, StorageError, parse_json
from sparsedict.storage._migrations import migrated
from sparsedict.storage._version import format_version, installed_version

FORMAT = "sparsedict dictionary"
FORMAT_VERSION = 2

_WIDTHS = ("d_in", "d_out", "n_latents")


@dataclass(frozen=True)
class Named:
    """A kind or a part: the name of its class, the package of the class, and its arguments.

    An argument is None, a bool, int, float or str, a part (a `Named`), or a tuple of these.
    """

    name: str
    package: str
    arguments: Mapping[str, Any]

    @classmethod
    def from_class(cls, kind: type, arguments: Mapping[str, Any]) -> Named:
        """Creates a description of a class and its constructor arguments.

        Raises:
            TypeError: If an argument changes when it is written to JSON and read again.
        """
        plain = {name: _plain(kind, name, value) for name, value in arguments.items()}
        return cls(kind.__name__, kind.__module__.partition(".")[0], plain)

    @classmethod
    def from_part(cls, part: object) -> Named:
        """Creates a description of a part and its fields.

        Raises:
            TypeError: If the part isn't a dataclass, or a field doesn't survive a round trip through JSON.
        """
        kind = type(part)
        if not dataclasses.is_dataclass(part):
            raise TypeError(
                f"{kind.__name__} must be a dataclass to be saved. Declare it with `@dataclass(frozen=True)`, so that "
                "its fields are its arguments."
            )
        return cls.from_class(kind, {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.init})


def _plain(kind: type, name: str, value: object) -> Any:
    """Converts an argument to JSON values, and parts to `Named`."""
    if isinstance(value, tuple):
        return tuple(_plain(kind, name, item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return Named.from_part(value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"`{name}` of {kind.__name__} must be None, a bool, int, float, str, a part that is a dataclass, or a tuple of "
        f"these to be saved, got a {type(value).__name__}. Store tensors in the dictionary: as parameters, as buffers, "
        "or in the activation's `initial_state`."
    )


def _number(value: object) -> Any:
    """Converts a NumPy number to a JSON value."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


@dataclass(frozen=True)
class Description:
    """The description of a saved dictionary.

    Attributes:
        kind: The class of the dictionary, with constructor arguments that aren't parts.
        parts: The parts by constructor argument: ``activation``, ``decoder_norm``, and others of a kind.
        widths: ``d_in``, ``d_out`` and ``n_latents``.
        dtype: Type of the encoder, such as ``"float32"``.
        trained_on: Metadata that training recorded.
        library_version: The version that saved the dictionary.
    """

    kind: Named
    parts: Mapping[str, Named]
    widths: Mapping[str, int]
    dtype: str
    trained_on: Mapping[str, Any]
    library_version: str = field(default_factory=installed_version)

    def to_json(self, digest: str) -> bytes:
        """Returns the JSON, which includes the digest of the weights.

        Raises:
            TypeError: If ``trained_on`` contains a type that JSON doesn't have.
            ValueError: If it contains NaN or infinity, or the JSON exceeds the size limit for reading.
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
                f"`trained_on` and the arguments of parts must be JSON values: {error}. "
                "Use finite numbers, strings, lists and dictionaries."
            ) from None
        encoded = f"{text}\n".encode(errors="surrogatepass")
        if len(encoded) > MAX_BYTES:
            raise ValueError(f"`trained_on` must fit into {MAX_BYTES:,} bytes of JSON, got {len(encoded):,}.")
        # Content that couldn't be read again is an error now, while the dictionary still exists.
        parse_json(encoded, "The JSON of `trained_on` and the arguments of parts")
        return encoded

    @classmethod
    def from_json(cls, encoded: bytes, source: str) -> tuple[Description, str]:
        """Reads and checks the JSON. Returns the description and the digest of the weights.

        Args:
            encoded: Content of the file.
            source: Name of the file, for error messages.

        Raises:
            StorageError: If it isn't the JSON of a dictionary, or is from a newer version.
        """
        document = parse_json(encoded, source)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise StorageError(
                f"{source} isn't the description of a sparsedict dictionary: its `format` isn't {FORMAT!r}."
            )
        version = format_version(document, FORMAT_VERSION, source)
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


def _named(read: Reader, key: str) -> Named:
    inner = read.inner(key)
    given = inner.inner("arguments")
    named = Named(inner.text("name"), inner.text("package"), {name: _argument(given, name) for name in given})
    inner.finish()
    return named


def _argument(read: Reader, name: str) -> Any:
    """Reads an argument. Parts are immutable, so a JSON array was a tuple, and a JSON object is a part."""
    value = read.value(name)
    if isinstance(value, dict):
        return _named(read, name)
    if isinstance(value, list):
        inner = Reader({str(index): item for index, item in enumerate(value)}, f"{read.source}, `{name[:80]}`")
        return tuple(_argument(inner, index) for index in inner)
    return value
