"""`IntruderScore`, whether the odd example can be told from the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis.scores._example_draws import draw_examples
from sparsedict.analysis.scores._representations import Representation
from sparsedict.analysis.scores._result import LatentScores
from sparsedict.analysis.scores._token_latents import TokenLatents
from sparsedict.analysis.scores._trials import by_quantile, represented, share_of_trials
from sparsedict.torch_state import in_own_state


@dataclass(frozen=True)
class IntruderScore:
    """How often the example on which a latent isn't active can be told from the others by a representation.

    A trial has four tokens on which the latent is active, from one quantile of its activations, and one random token on
    which it isn't, the intruder. The guess is the example with the smallest mean cosine to the other four. The score is
    the share of right guesses. Chance is 1/5. Nothing is fitted. In the source, people or a language model guess; here
    the representation does.

    The columns of the result are the scores of each quantile, from the weakest activations to the strongest.

    Attributes:
        represent: Representation of the examples that isn't the dictionary's own, such as `SiteStates` of a later
            layer or `TextEmbedding`.
        n_trials: Number of trials per latent.
        n_quantiles: Number of quantiles.
        seed: Random seed of the examples and the intervals.

    Raises:
        ValueError: If a number is too small.

    Source: Paulo and Belrose, "Evaluating SAE interpretability without explanations", arXiv 2507.08473, 2025.
    """

    represent: Representation
    n_trials: int = 50
    n_quantiles: int = 5
    seed: int = 0

    N_ACTIVE = 4

    def __post_init__(self) -> None:
        checks.set_at_least(self, "n_quantiles", 1)
        checks.set_at_least(self, "n_trials", self.n_quantiles)
        checks.set_at_least(self, "seed", 0)

    @in_own_state
    def __call__(self, text: TokenLatents, /) -> LatentScores:
        """Returns the scores of the latents that are active on at least ``4 * n_quantiles`` tokens.

        Args:
            text: Latents on text that the dictionary wasn't trained on.
        """
        return share_of_trials(
            "intruder",
            text,
            self._guesses(text),
            chance=1 / (self.N_ACTIVE + 1),
            seed=self.seed,
            columns=lambda table: by_quantile(table, self.n_quantiles),
        )

    def _guesses(self, text: TokenLatents) -> Iterator[tuple[Tensor, Tensor]]:
        draws = draw_examples(
            text,
            n_active=self.N_ACTIVE,
            n_inactive=1,
            n_trials=self.n_trials,
            n_quantiles=self.n_quantiles,
            seed=self.seed,
        )
        for latents, active, inactive in represented(text, list(draws), self.represent):
            shown = torch.cat([active, inactive], 2)
            cosines = shown @ shown.transpose(2, 3)
            to_others = cosines.sum(3) - cosines.diagonal(dim1=2, dim2=3)
            is_least = to_others <= to_others.amin(2, keepdim=True) + 1e-6
            # Equal examples share the guess.
            yield latents, is_least[:, :, -1] / is_least.sum(2)
