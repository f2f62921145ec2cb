"""`plan`, the cost of scores by a language model, before anything is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparsedict import checks
from sparsedict.analysis.scores._explain import Explainer
from sparsedict.analysis.scores._judged import LanguageModelScore
from sparsedict.analysis.scores._token_latents import TokenLatents

_PLACEHOLDER = "The unit is active on tokens of a certain kind that follow other tokens of a certain kind."
CHARACTERS_PER_TOKEN = 3
EXPLANATION_TOKENS, JUDGEMENT_TOKENS = 40, 12
"""Estimated lengths of answers."""


@dataclass(frozen=True)
class Plan:
    """Number and length of the prompts of some scores.

    Attributes:
        n_prompts: Number of prompts.
        n_prompt_tokens: Number of tokens of all prompts.
        n_answer_tokens: Estimated number of tokens of all answers.
        is_counted: Whether tokens were counted by a tokenizer. Otherwise, three characters are one token.
    """

    n_prompts: int
    n_prompt_tokens: int
    n_answer_tokens: int
    is_counted: bool

    def cost(self, per_million_prompt_tokens: float, per_million_answer_tokens: float) -> float:
        """Returns the cost in the currency of the prices."""
        prompt = checks.in_range("per_million_prompt_tokens", per_million_prompt_tokens, 0)
        answer = checks.in_range("per_million_answer_tokens", per_million_answer_tokens, 0)
        return (self.n_prompt_tokens * prompt + self.n_answer_tokens * answer) / 1e6

    def __str__(self) -> str:
        about = "" if self.is_counted else "about "
        return (
            f"{self.n_prompts:,} prompts, {about}{self.n_prompt_tokens:,} tokens in, about {self.n_answer_tokens:,} "
            "tokens out"
        )


def plan(
    text: TokenLatents,
    *scores: Explainer | LanguageModelScore,
    count_tokens: Callable[[str], int] | None = None,
) -> Plan:
    """Counts the tokens that scores by a language model will take. Nothing is asked.

    Args:
        text: The latents that the scores will be called with.
        scores: The scores. One without explanations also explains, which is counted.
        count_tokens: Function that returns the number of tokens of a text, such as ``lambda text:
            len(tokenizer(text).input_ids)``.

    Raises:
        TypeError: If a score isn't one by a language model.
        ValueError: If there are no scores.
    """
    if not scores:
        raise ValueError("`scores` must be at least one score by a language model, got none.")
    for score in scores:
        kind = "scores by a language model, such as `DetectionScore(ask)`"
        checks.instance("scores", score, Explainer | LanguageModelScore, kind)
    prompts: list[str] = []
    n_answer_tokens = 0
    for score in scores:
        explanations = None if isinstance(score, Explainer) else score.explanations
        if explanations is None:
            explainer = score if isinstance(score, Explainer) else score.explainer
            asked = explainer.prompts(text)
            prompts += asked.values()
            n_answer_tokens += EXPLANATION_TOKENS * len(asked)
            explanations = tuple(_PLACEHOLDER if i in asked else None for i in range(text.n_latents))
        if not isinstance(score, Explainer):
            questions = score.questions(text, explanations)
            prompts += [question.prompt for question in questions]
            n_answer_tokens += JUDGEMENT_TOKENS * len(questions)
    count = count_tokens or (lambda prompt: -(-len(prompt) // CHARACTERS_PER_TOKEN))
    return Plan(len(prompts), sum(map(count, prompts)), n_answer_tokens, count_tokens is not None)
