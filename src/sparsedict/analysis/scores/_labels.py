"""Labels of tokens, which rules and probes use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis.scores._token_latents import TokenLatents
from sparsedict.display import Displayed

N_SHOWN = 6
"""Largest number of values that the words of a rule list."""


@dataclass(frozen=True, eq=False, repr=False)
class Labels(Displayed):
    """A label of every token of a text, which is one of several values. Labels of your own are a `Labelling` too.

    Attributes:
        ids: Value at each token, counted from 0, ``[n_sequences, n_positions]``; -1 where it has none.
        name: Function that returns the name of a value.
        template: Text with ``{}`` for the names, such as ``"the previous token is {}"``.
        is_ordered: Whether values are numbers, which are listed in ascending order.

    Example:
        >>> import torch
        >>> languages = Labels(torch.tensor([[0, -1, 1]]), ["Python", "C"].__getitem__, "the language is {}")
        >>> languages.words([1, 0])
        'the language is C or Python'
    """

    ids: Int[Tensor, "n_sequences n_positions"]
    name: Callable[[int], str]
    template: str
    is_ordered: bool = False

    def words(self, values: Sequence[int]) -> str:
        """Returns the statement that the label is one of some values, the most important first, in words."""
        values = sorted(values) if self.is_ordered else values
        n_left = len(values) - N_SHOWN
        names = [self.name(value) for value in (values if n_left <= 1 else values[:N_SHOWN])]
        if n_left > 1:
            names = [*names, f"{n_left} others"]
        listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
        return self.template.replace("{}", listed)

    def __call__(self, text: TokenLatents, /) -> Labels:
        """Returns the labels themselves.

        Raises:
            ValueError: If the text has another shape.
        """
        checks.same_shape("ids", self.ids, "text.tokens", text.tokens)
        return self


@runtime_checkable
class Labelling(Protocol):
    """Interface of functions that label the tokens of a text. Rules say that a label has one of some values."""

    def __call__(self, text: TokenLatents, /) -> Labels | None:
        """Returns the labels, or None if the text lacks something, such as the strings of its tokens."""
        ...


def labelled(labelling: Labelling, text: TokenLatents) -> Labels | None:
    """Returns the labels of a text by a labelling.

    Raises:
        TypeError: If it isn't a function, or returns something else than labels.
        ValueError: If the labels have another shape than the tokens.
    """
    if not callable(labelling):
        raise TypeError(f"A labelling must be a function from TokenLatents to Labels, got {labelling!r:.80}.")
    found = labelling(text)
    if found is None:
        return None
    if not isinstance(found, Labels):
        raise TypeError(f"A labelling must return Labels or None, got {type(found).__name__} from {labelling!r:.80}.")
    return found(text)
