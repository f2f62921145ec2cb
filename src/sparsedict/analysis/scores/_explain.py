"""`explain`, descriptions of latents by a language model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsedict import checks
from sparsedict.analysis.scores._answers import Ask, answers, read_explanation
from sparsedict.analysis.scores._example_draws import draw_examples
from sparsedict.analysis.scores._excerpts import excerpts
from sparsedict.analysis.scores._token_latents import TokenLatents, checked_text

PROMPT = """\
Below are {n} excerpts of texts, one per line. A unit of a neural network is active on the tokens between << and >>. \
The symbol ⏎ is a line break. Later excerpts have stronger activations.

{excerpts}

Find what the marked tokens, or the tokens before them, have in common. Then write one last line of this form, with \
one short sentence:
EXPLANATION: <when the unit is active>
"""


@dataclass(frozen=True)
class Explainer:
    """Asks a language model for a sentence that says when each latent is active.

    The examples are drawn from every quantile of a latent's activations, on the half of the text on which
    `DetectionScore` and `FuzzingScore` with the same seed don't test.

    Attributes:
        ask: The language model: a function from a list of prompts to their answers.
        n_examples: Number of examples for each quantile.
        n_quantiles: Number of quantiles.
        before: Number of tokens before each example.
        after: Number of tokens after each example.
        seed: Random seed of the split and the examples.

    Source: Bills et al., "Language models can explain neurons in language models", OpenAI, 2023.
    """

    ask: Ask
    n_examples: int = 2
    n_quantiles: int = 5
    before: int = 16
    after: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n_examples", 1), ("n_quantiles", 1), ("before", 0), ("after", 0), ("seed", 0)):
            checks.set_at_least(self, name, least)

    def __call__(self, text: TokenLatents, /) -> tuple[str | None, ...]:
        """Returns an explanation of each latent; None where the latent fires too rarely or the answer can't be read.

        Args:
            text: Latents on text, with strings.
        """
        prompts = self.prompts(text)
        found: list[str | None] = [None] * text.n_latents
        for latent, answer in zip(prompts, answers(self.ask, list(prompts.values())), strict=True):
            found[latent] = read_explanation(answer)
        return tuple(found)

    def prompts(self, text: TokenLatents) -> dict[int, str]:
        """Returns the prompt of each latent that is active on at least ``n_examples * n_quantiles`` tokens."""
        first, _ = checked_text(text).halves(self.seed)
        draws = draw_examples(
            first,
            n_active=self.n_examples,
            n_inactive=0,
            n_trials=self.n_quantiles,
            n_quantiles=self.n_quantiles,
            seed=self.seed,
        )
        found = {}
        for own in draws:
            for latent, places in zip(own.latents.tolist(), own.active, strict=True):
                shown = excerpts(first, latent, places.flatten(), self.before, self.after)
                lines = "\n".join(f"{number}. {excerpt.marked}" for number, excerpt in enumerate(shown, 1))
                found[latent] = PROMPT.format(n=len(shown), excerpts=lines)
        return found


def latents_of(explanations: tuple[str | None, ...], n_latents: int) -> torch.Tensor:
    """Returns the latents that have an explanation.

    Raises:
        ValueError: If there isn't one entry for each latent.
    """
    if len(explanations) != n_latents:
        raise ValueError(
            f"`explanations` must have one entry for each latent, {n_latents}, got {len(explanations)}. Use None for "
            "a latent without an explanation."
        )
    return torch.tensor([latent for latent, words in enumerate(explanations) if words], dtype=torch.int64, device="cpu")
