"""`RatingKey`, the latents behind the identifiers of a blind rating."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property

from sparsedict import checks
from sparsedict.storage import Reader, StorageError, read_document, write_document

FORMAT = "sparsedict-rating-key"


@dataclass(frozen=True)
class KeyItem:
    """A latent of a blind rating.

    Attributes:
        id: Identifier in the page and in the files of raters. It doesn't depend on the dictionary or the latent.
        dictionary: Name of the dictionary.
        latent: Index of the latent.
        kind: Kind of the latent within its dictionary, such as ``simulator``. Empty if kinds aren't distinguished.
        maximum: Largest activation of the latent on the text of the examples. ``None`` if it is unknown.
    """

    id: str
    dictionary: str
    latent: int
    kind: str = ""
    maximum: float | None = None


@dataclass(frozen=True)
class RatingKey:
    """The latents of a blind rating by identifier. Raters must not see it before they finish.

    Attributes:
        set: Identifier of the set of latents, which the files of raters repeat.
        items: The latents, in the order in which raters see them.

    Raises:
        ValueError: If two items have the same identifier, or are the same latent.
    """

    set: str
    items: tuple[KeyItem, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        identifiers = Counter[object](item.id for item in self.items)
        latents = Counter[object]((item.dictionary, item.latent) for item in self.items)
        for name, counts in (("identifier", identifiers), ("latent", latents)):
            twice = [value for value, count in counts.items() if count > 1]
            if twice:
                raise ValueError(f"`items` must contain each {name} once, got {twice[0]!r} twice.")

    @cached_property
    def by_id(self) -> dict[str, KeyItem]:
        """The items by identifier."""
        return {item.id: item for item in self.items}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the key to a JSON file."""
        content = {"set": self.set, "items": [asdict(item) for item in self.items]}
        write_document(checks.path("path", path), FORMAT, content)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RatingKey:
        """Reads a key.

        Raises:
            FileNotFoundError: If the file doesn't exist.
            StorageError: If the file isn't a key.
        """
        file = checks.path("path", path)
        reader = read_document(file, FORMAT)
        found = reader.text("set")
        items = tuple(_item(item, f"{file}, item {number}") for number, item in enumerate(reader.rows("items")))
        reader.finish()
        try:
            return cls(found, items)
        except ValueError as error:
            raise StorageError(f"{file} isn't a key of ratings: {error}") from None


def _item(value: object, source: str) -> KeyItem:
    if not isinstance(value, dict):
        raise StorageError(f"{source} must be an object, got {value!r:.80}.")
    reader = Reader(value, source)
    maximum = reader.value("maximum")
    if maximum is not None and (isinstance(maximum, bool) or not isinstance(maximum, int | float)):
        raise StorageError(f"{source}: `maximum` must be a number or null, got {maximum!r:.80}.")
    item = KeyItem(reader.text("id"), reader.text("dictionary"), reader.integer("latent"), reader.text("kind"), maximum)
    reader.finish()
    return item
