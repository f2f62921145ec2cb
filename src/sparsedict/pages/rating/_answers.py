"""`AnswerFile`, the answers of one rater."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sparsedict.analysis import ratings
from sparsedict.analysis.ratings import GRADES, SKIP, RatingKey
from sparsedict.pages.rating._set import RatingSet
from sparsedict.storage import StorageError, read_json

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
NAME_RULE = "1 to 40 lower-case letters, digits, hyphens and underscores"


def check_rater(rater: object) -> str:
    """Returns the name of a rater.

    Raises:
        ValueError: If the name isn't valid.
    """
    if not isinstance(rater, str) or not NAME.fullmatch(rater):
        raise ValueError(f"`rater` must have {NAME_RULE}, got {rater!r:.80}.")
    return rater


class AnswerFile:
    """The file of the answers of one rater, in which every answer is written at once.

    Args:
        folder: The folder of the files.
        rater: Name of the rater: lower-case letters, digits, hyphens and underscores.
        rating_set: The latents.

    Attributes:
        path: The JSON file, ``ratings-<rater>.json``.
        grades: The answers by identifier, in the order in which they were given.

    Raises:
        ValueError: If the name isn't valid.
        StorageError: If the file is damaged or belongs to another set. It isn't changed.
    """

    def __init__(self, folder: Path, rater: str, rating_set: RatingSet) -> None:
        self.rater: str = check_rater(rater)
        self.path: Path = folder / f"ratings-{rater}.json"
        self.grades: dict[str, dict[str, Any]] = {}
        self._set = rating_set
        if self.path.exists():
            self.grades = _read(self.path, rater, rating_set.key)

    def answer(self, identifier: str, grade: int | str | None) -> None:
        """Records an answer, or removes it, and writes the file atomically.

        Args:
            identifier: Identifier of the latent.
            grade: A grade from 0 to 4, ``"skip"``, or ``None`` to remove the answer.

        Raises:
            ValueError: If there is no such latent or grade.
        """
        if identifier not in self._set.key.by_id:
            raise ValueError(f"`id` must be the identifier of a latent of this set, got {identifier!r:.80}.")
        is_grade = isinstance(grade, int) and not isinstance(grade, bool) and grade in GRADES
        if not (is_grade or grade == SKIP or grade is None):
            raise ValueError(f"`grade` must be an integer from 0 to {GRADES[-1]}, {SKIP!r} or null, got {grade!r:.80}.")
        changed = {name: row for name, row in self.grades.items() if name != identifier}
        if grade is not None:
            time = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            changed[identifier] = {"id": identifier, "grade": grade, "time": time}
        ratings.write_blind(self.path, self.rater, self._set.key, list(changed.values()))
        self.grades = changed


def _read(path: Path, rater: str, key: RatingKey) -> dict[str, dict[str, Any]]:
    found = ratings.read(path, key=key)
    if found.raters not in ((), (rater,)):
        raise StorageError(f"{path} must hold the ratings of {rater!r}, got those of {found.raters[0]!r}.")
    return {row["id"]: row for row in read_json(path)["ratings"]}
