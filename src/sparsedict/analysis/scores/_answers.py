"""Answers of a language model: asking, reading, and saving them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sparsedict import checks
from sparsedict.torch_state import callers_state

Ask = Callable[[list[str]], list[str]]
"""A language model: from prompts to answers, in the same order."""

N_AT_ONCE = 64
"""Number of prompts that are passed at once."""

_LIST = re.compile(r"\[([\d\s,]*)\]")
_PLAIN = re.compile(r"\d+(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s+)\d+)*\.?")
_EXPLANATION = re.compile(r"explanation\s*:\s*(.+)", re.IGNORECASE)


def answers(ask: Ask, prompts: list[str]) -> list[str | None]:
    """Asks in blocks. An answer that isn't text is None.

    Raises:
        TypeError: If ``ask`` can't be called, or doesn't return a list.
        ValueError: If it returns another number of answers than prompts.
    """
    if not callable(ask):
        raise TypeError(f"`ask` must be a function from a list of prompts to their answers, got {type(ask).__name__}.")
    found: list[str | None] = []
    for start in range(0, len(prompts), N_AT_ONCE):
        block = prompts[start : start + N_AT_ONCE]
        with callers_state():
            given = ask(block)
        if not isinstance(given, list | tuple):
            raise TypeError(f"`ask` must return a list of answers, got {type(given).__name__}.")
        if len(given) != len(block):
            raise ValueError(f"`ask` must return one answer for each prompt, {len(block)}, got {len(given)}.")
        found += [answer if isinstance(answer, str) else None for answer in given]
    return found


def read_numbers(answer: str | None, n: int) -> frozenset[int] | None:
    """Reads an answer that lists numbers from 1 to ``n``. Returns None if it can't be read.

    The last list in brackets counts. Without brackets, the whole answer must be numbers or the word none.

    Example:
        >>> sorted(read_numbers("Excerpts 2 and 3 fit, so [2, 3]", 5)), read_numbers("none", 5)
        ([2, 3], frozenset())
        >>> read_numbers("[2, 9]", 5), read_numbers("I can't tell 1 from 2", 5)
        (None, None)
    """
    if answer is None:
        return None
    lists = _LIST.findall(answer)
    plain = answer.strip()
    if lists:
        listed = lists[-1]
    elif plain.rstrip(".").lower() == "none":
        listed = ""
    elif _PLAIN.fullmatch(plain):
        listed = plain
    else:
        return None
    numbers = [int(number) for number in re.findall(r"\d+", listed)]
    valid = all(1 <= number <= n for number in numbers) and len(set(numbers)) == len(numbers)
    return frozenset(numbers) if valid else None


def read_explanation(answer: str | None) -> str | None:
    """Reads the line after the last ``EXPLANATION:``. Returns None if there is none.

    Example:
        >>> read_explanation("All follow def.\\nEXPLANATION: names of functions\\n")
        'names of functions'
    """
    found = _EXPLANATION.findall(answer or "")
    return found[-1].strip() or None if found else None


@dataclass(frozen=True)
class SavedAnswers:
    """A language model whose answers are saved, so that an interrupted run resumes without asking again.

    Pass it as ``ask``. Prompts depend only on the text and the seed, so the same run asks the same questions. The file
    has one JSON object per line, with a hash of the prompt and the answer. Answers that aren't text aren't saved.

    Attributes:
        ask: The language model.
        path: File of the answers. It is created if it doesn't exist, and extended if it does.

    Raises:
        ValueError: If a line of the file can't be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "answers.jsonl"
        >>> SavedAnswers(lambda prompts: [prompt.upper() for prompt in prompts], path)(["a", "b"])
        ['A', 'B']
        >>> SavedAnswers(lambda prompts: ["never asked"], path)(["b"])
        ['B']
    """

    ask: Ask
    path: str | os.PathLike[str]

    def __call__(self, prompts: list[str], /) -> list[str]:
        """Returns the answers. Only prompts without a saved answer are asked."""
        path = checks.path("path", self.path, "a file for the answers")
        known = _read(path)
        missing = list(dict.fromkeys(prompt for prompt in prompts if _key(prompt) not in known))
        if missing:
            new = answers(self.ask, missing)
            pairs = [(_key(prompt), answer) for prompt, answer in zip(missing, new, strict=True) if answer is not None]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"prompt": key, "answer": answer}) + "\n" for key, answer in pairs)
            known |= dict(pairs)
        # A missing answer can't be read, so it is counted.
        return [known.get(_key(prompt), "") for prompt in prompts]


def _key(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            found[entry["prompt"]] = entry["answer"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"`path` must be a file of saved answers, but line {number} of {path} can't be read. If the run was "
                "interrupted while writing it, delete this line."
            ) from error
    return found
