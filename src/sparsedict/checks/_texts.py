"""Validator of functions from token ids to text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sparsedict.checks._objects import function

TEXTS = "a function from token ids to text, as `sparsedict.pages.token_strings` returns it"


def token_texts(name: str, value: Any) -> Callable[[Sequence[int]], list[str]]:
    """Returns a function that calls ``value`` and checks that it returns one text for each token id.

    Args:
        name: Name of the argument.
        value: The function.
    """
    if isinstance(value, _TokenTexts):
        return value
    function(name, value, TEXTS)
    return _TokenTexts(name, value)


@dataclass(frozen=True)
class _TokenTexts:
    name: str
    function: Callable[[Sequence[int]], Any]

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """Returns the text of each id.

        Raises:
            TypeError: If the function returns something else than a list of texts.
            ValueError: If the list has another length.
        """
        found = self.function(ids)
        if isinstance(found, str) or not isinstance(found, Iterable):
            raise TypeError(f"`{self.name}` must return a list of one text for each id, got {found!r:.80}.")
        texts = list(found)
        for token, text in zip(ids, texts, strict=False):
            if not isinstance(text, str):
                raise TypeError(f"`{self.name}` must return one text for each id, got {text!r:.80} for id {token}.")
        if len(texts) != len(ids):
            raise ValueError(f"`{self.name}` must return one text for each id, got {len(texts)} for {len(ids)} ids.")
        return texts
