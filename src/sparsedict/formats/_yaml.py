"""Safe reading of small YAML files from untrusted sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsedict.storage import StorageError

MAX_BYTES = 256 * 2**10
MAX_EVENTS = 20_000
MAX_NESTED = 32


def read_yaml(file: Path) -> dict[str, Any]:
    """Reads a YAML mapping of plain values. References aren't allowed, because they can expand to huge documents.

    Raises:
        ImportError: If PyYAML isn't installed.
        StorageError: If the file is larger than 256 KiB, isn't valid YAML, is nested too deeply, contains references,
            or isn't a mapping.
    """
    try:
        import yaml
    except ImportError:
        raise ImportError(f"Reading {file} needs PyYAML. Install `sparsedict[formats]` or `pyyaml`.") from None
    with file.open("rb") as stream:
        text = stream.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise StorageError(f"{file} must have at most {MAX_BYTES:,} bytes, because it is a configuration.")
    try:
        _check(yaml, text)
        document = yaml.safe_load(text)
    # PyYAML doesn't catch the errors of invalid dates and numbers.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StorageError(f"{file} isn't valid YAML: {reason[:200]}.") from None
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise StorageError(f"{file} must contain a mapping of names, got {type(document).__name__}.")
    return document


def _check(yaml: Any, text: bytes) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError("it contains references")
        if number > MAX_EVENTS or depth > MAX_NESTED:
            raise ValueError("it is too long or nested too deeply")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > 10_000:
            raise ValueError("it contains a value of more than 10,000 characters")
