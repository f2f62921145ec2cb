"""`read` and `write`, the JSON files of ratings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparsedict import checks
from sparsedict.analysis.ratings._key import RatingKey
from sparsedict.analysis.ratings._rating import GRADES, Rating, Ratings
from sparsedict.storage import MAX_DOCUMENT, Reader, StorageError, parse_document, read_json, write_document

FORMAT = "sparsedict-ratings"
SKIP = "skip"
"""The grade of a skipped latent in a file."""


def read(*paths: str | os.PathLike[str], key: RatingKey | str | os.PathLike[str] | None = None) -> Ratings:
    """Reads the files of one or several raters.

    Args:
        paths: JSON files of ratings. Each file has the ratings of one rater.
        key: The key of a blind rating, or its file. Files that `write` wrote need no key.

    Raises:
        FileNotFoundError: If a file doesn't exist.
        StorageError: If a file has another format, needs a key, or belongs to another key.
        ValueError: If no file is given, or two files have the same rater and latent.
    """
    if not paths:
        raise ValueError("`paths` must name at least one file of ratings, got none.")
    files = [checks.path("paths", path) for path in paths]
    if missing := [file for file in files if not file.is_file()]:
        raise FileNotFoundError(f"`paths` must be files of ratings, but {missing[0]} isn't a file.")
    if key is not None and not isinstance(key, RatingKey):
        key = RatingKey.read(key)
    documents = {str(file): read_json(file, MAX_DOCUMENT) for file in files}
    return parse(documents, key=key)


def parse(documents: Mapping[str, Any], *, key: RatingKey | None = None) -> Ratings:
    """Returns the ratings of parsed JSON documents, like `read`.

    Args:
        documents: The documents by name. The names appear in error messages.
        key: The key of a blind rating.

    Raises:
        StorageError: If a document has another format, needs a key, or belongs to another key.
        ValueError: If two documents have the same rater and latent.
    """
    checks.instance("documents", documents, Mapping, "a mapping of names to documents")
    return Ratings(tuple(rating for name, value in documents.items() for rating in _ratings(name, value, key)))


def write(ratings: Ratings, path: str | os.PathLike[str]) -> None:
    """Writes the ratings of one rater with the names of dictionaries, so that no key is needed.

    Args:
        ratings: Ratings of one rater.
        path: The JSON file.

    Raises:
        ValueError: If there are ratings of several raters.
    """
    checks.instance("ratings", ratings, Ratings, "`Ratings`, as `ratings.read` returns them")
    if len(ratings.raters) != 1:
        raise ValueError(
            f"`ratings` must have one rater for each file, got {len(ratings.raters)} raters. "
            "Write `ratings.by(name)` for each rater."
        )
    rows = [
        {
            "dictionary": r.dictionary,
            "latent": r.latent,
            "kind": r.kind,
            "maximum": r.maximum,
            "grade": SKIP if r.grade is None else r.grade,
            "time": r.time,
        }
        for r in ratings
    ]
    write_document(
        checks.file_path("path", path, "a JSON file"), FORMAT, {"rater": ratings.raters[0], "set": "", "ratings": rows}
    )


def write_blind(path: str | os.PathLike[str], rater: str, key: RatingKey, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes blind ratings, which only name the identifiers of a key.

    Args:
        path: The JSON file. It is replaced atomically.
        rater: Name of the rater.
        key: The key of the blind rating.
        rows: For each rating the ``id``, the ``grade`` (0 to 4, or ``"skip"``) and the ``time``.
    """
    content = {"rater": rater, "set": key.set, "ratings": [dict(row) for row in rows]}
    write_document(checks.path("path", path), FORMAT, content)


def _ratings(file: str, value: Any, key: RatingKey | None) -> list[Rating]:
    reader = parse_document(value, FORMAT, file)
    rater, found = reader.text("rater"), reader.text("set")
    rows = reader.rows("ratings")
    reader.finish()
    if not rater.strip():
        raise StorageError(f"{file}: `rater` must be the name of the rater, got {rater!r}.")
    rating = _blind(file, found, key) if found else _named
    return [_checked(rating, rater, row, f"{file}, rating {number}") for number, row in enumerate(rows)]


def _checked(rating: Callable[..., Rating], rater: str, row: object, source: str) -> Rating:
    if not isinstance(row, dict):
        raise StorageError(f"{source} must be an object, got {row!r:.80}.")
    reader = Reader(row, source)
    made = rating(reader, {"rater": rater, "grade": _grade(reader), "time": reader.text("time")})
    reader.finish()
    return made


def _grade(reader: Reader) -> int | None:
    grade = reader.value("grade")
    if grade == SKIP:
        return None
    if isinstance(grade, bool) or not isinstance(grade, int) or grade not in GRADES:
        raise StorageError(
            f"{reader.source}: `grade` must be an integer from 0 to {GRADES[-1]}, or {SKIP!r}, got {grade!r:.80}."
        )
    return grade


def _named(reader: Reader, fields: dict[str, Any]) -> Rating:
    return Rating(
        dictionary=reader.text("dictionary"),
        latent=reader.integer("latent"),
        kind=reader.text("kind"),
        maximum=reader.number_or_null("maximum"),
        **fields,
    )


def _blind(file: str, found: str, key: RatingKey | None) -> Callable[[Reader, dict[str, Any]], Rating]:
    if key is None:
        raise StorageError(f"{file} holds blind ratings, which need the key of their set {found!r}. Pass `key=`.")
    if key.set != found:
        raise StorageError(f"{file} belongs to the set {found!r:.80}, and `key` to the set {key.set!r}. Pass its key.")
    items = key.by_id

    def rating(reader: Reader, fields: dict[str, Any]) -> Rating:
        identifier = reader.text("id")
        if identifier not in items:
            raise StorageError(f"{reader.source}: `key` has no item {identifier!r:.80}.")
        item = items[identifier]
        return Rating(dictionary=item.dictionary, latent=item.latent, kind=item.kind, maximum=item.maximum, **fields)

    return rating
