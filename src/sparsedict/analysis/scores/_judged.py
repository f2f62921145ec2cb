"""Questions to a language model about explanations, and the share of right answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsedict import checks
from sparsedict.analysis._bootstrap import row_intervals
from sparsedict.analysis.scores._answers import Ask, answers, read_numbers
from sparsedict.analysis.scores._example_draws import draw_examples
from sparsedict.analysis.scores._excerpts import Excerpt, excerpts
from sparsedict.analysis.scores._explain import Explainer, latents_of
from sparsedict.analysis.scores._result import LatentScores
from sparsedict.analysis.scores._token_latents import TokenLatents, checked_text
from sparsedict.torch_state import in_own_state


@dataclass(frozen=True)
class Question:
    """A prompt with numbered excerpts, some of which fit.

    Attributes:
        latent: The latent.
        prompt: The prompt.
        fits: Whether each excerpt fits.
    """

    latent: int
    prompt: str
    fits: tuple[bool, ...]


@dataclass(frozen=True)
class LanguageModelScore(ABC):
    """Base class of scores that ask a language model which of some excerpts fit an explanation.

    A subclass defines the name and the questions. The score is the balanced accuracy of the answers: the mean of the
    share of right answers among excerpts that fit and among excerpts that don't. Chance is 1/2. Answers that can't be
    read are left out and counted in the notes and in the column ``unread answers``. Explanations are made on one half
    of the text and tested on the other. `plan` returns the cost.

    Attributes:
        ask: The language model: a function from a list of prompts to their answers.
        explanations: Explanation of each latent, None for latents to leave out. By default, `Explainer` asks the same
            model.
        n_questions: Number of questions per latent.
        n_excerpts: Number of excerpts in a question, half of which fit.
        n_quantiles: Largest number of quantiles of the activations, from which the questions take excerpts in turn.
        before: Number of tokens before each example.
        after: Number of tokens after each example.
        seed: Random seed of the split, the excerpts and the intervals.

    Raises:
        ValueError: If a number is too small.
    """

    ask: Ask
    explanations: tuple[str | None, ...] | None = None
    n_questions: int = 5
    n_excerpts: int = 10
    n_quantiles: int = 5
    before: int = 16
    after: int = 4
    seed: int = 0

    name: ClassVar[str]
    """Name of the score."""

    def __post_init__(self) -> None:
        least = {"n_questions": 1, "n_excerpts": 2, "n_quantiles": 1, "before": 0, "after": 0, "seed": 0}
        for name, minimum in least.items():
            checks.set_at_least(self, name, minimum)

    @abstractmethod
    def questions(self, text: TokenLatents, explanations: tuple[str | None, ...]) -> list[Question]:
        """Returns the questions about each latent with an explanation."""

    @property
    def explainer(self) -> Explainer:
        """The explainer of latents if no explanations are passed."""
        return Explainer(self.ask, before=self.before, after=self.after, seed=self.seed)

    @in_own_state
    def __call__(self, text: TokenLatents, /) -> LatentScores:
        """Returns the scores of the latents with an explanation.

        Args:
            text: Latents on text that the dictionary wasn't trained on, with strings.

        Raises:
            ValueError: If the number of explanations isn't that of the latents, or the text has no strings.
        """
        text = checked_text(text)
        explanations = self.explainer(text) if self.explanations is None else self.explanations
        questions = self.questions(text, explanations)
        given = answers(self.ask, [asked.prompt for asked in questions])
        return _judged(self.name, questions, given, explanations, self.seed)

    def examples(
        self, text: TokenLatents, explanations: tuple[str | None, ...], n: int
    ) -> Iterator[tuple[int, list[Excerpt], list[Excerpt]]]:
        """Yields the latent, ``n`` active and ``n`` inactive excerpts for each question, from the held-out half.

        An inactive excerpt of a frequent latent may have active tokens besides the one that was drawn, see
        `Excerpt.has_latent`.
        """
        latents = latents_of(explanations, text.n_latents)
        _, second = text.halves(self.seed)
        draws = draw_examples(
            second.latents(latents),
            n_active=n,
            n_inactive=n,
            n_trials=self.n_questions,
            n_quantiles=min(self.n_quantiles, self.n_questions),
            min_quantiles=1,
            context=(self.before, self.after),
            seed=self.seed,
        )
        for own in draws:
            for latent, active, inactive in zip(latents[own.latents].tolist(), own.active, own.inactive, strict=True):
                for places in zip(active, inactive, strict=True):
                    found = [excerpts(second, latent, side, self.before, self.after) for side in places]
                    yield latent, found[0], found[1]


def question(
    latent: int, template: str, explanation: str | None, shown: list[tuple[str, bool]], random: torch.Generator
) -> Question:
    """Returns a question with excerpts in random order, each with whether it fits."""
    shown = [shown[i] for i in torch.randperm(len(shown), generator=random, device="cpu").tolist()]
    lines = "\n".join(f"{number}. {excerpt}" for number, (excerpt, _) in enumerate(shown, 1))
    # The parts are put in at once, because an excerpt may contain braces.
    prompt = template.format(explanation=explanation, excerpts=lines, n=len(shown))
    return Question(latent, prompt, tuple(fits for _, fits in shown))


def _judged(
    name: str,
    questions: list[Question],
    given: list[str | None],
    explanations: tuple[str | None, ...],
    seed: int,
) -> LatentScores:
    """Returns the balanced accuracy of each latent. Answers that can't be read are counted."""
    n_latents, n_asked = len(explanations), Counter(asked.latent for asked in questions)
    n_questions = max(n_asked.values(), default=1)
    # Right answers and excerpts: those that don't fit, and those that do.
    right, shown = torch.zeros(2, 2, n_latents, n_questions, device="cpu", dtype=torch.float32)
    unread, number = torch.zeros(n_latents, device="cpu", dtype=torch.float32), Counter[int]()
    for asked, answer in zip(questions, given, strict=True):
        chosen, own = read_numbers(answer, len(asked.fits)), number[asked.latent]
        number[asked.latent] += 1
        if chosen is None:
            unread[asked.latent] += 1
            continue
        for place, fits in enumerate(asked.fits, 1):
            shown[int(fits), asked.latent, own] += 1
            right[int(fits), asked.latent, own] += (place in chosen) == fits
    value = (right.sum(2) / shown.sum(2)).mean(0)
    low, high = row_intervals(lambda weights: ((right @ weights) / (shown @ weights)).mean(0), n_questions, seed=seed)
    return LatentScores(
        name=name,
        value=value,
        chance=torch.full((n_latents,), 0.5, device="cpu", dtype=torch.float32),
        low=low,
        high=high,
        columns={
            "hits": right[1].sum(1) / shown[1].sum(1),
            "correct rejections": right[0].sum(1) / shown[0].sum(1),
            "unread answers": unread,
        },
        words=explanations,
        notes={
            "n_questions": len(questions),
            "n_unread": float(unread.sum()),
            "n_unexplained": float(sum(words is None for words in explanations)),
        },
        seed=seed,
    )
