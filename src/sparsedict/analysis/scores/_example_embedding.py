"""`ExampleEmbeddingScore`, whether an active example is nearer to active examples than an inactive one."""

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
class ExampleEmbeddingScore:
    r"""How often an active example is nearer to the active examples than an inactive example is.

    A trial has ten active examples :math:`P` and an active query :math:`q_+` from one quantile of the latent's
    activations, ten random inactive examples :math:`N` and an inactive query :math:`q_-`. With cosines of a
    representation,

    .. math::
        \Delta_\pm = \frac{1}{|P|} \sum_{p \in P} \cos(q_\pm, p) - \frac{1}{|N|} \sum_{n \in N} \cos(q_\pm, n).

    The score is the share of trials with :math:`\Delta_+ > \Delta_-`, an area under the ROC curve of pairs with the
    same examples. Chance is 1/2. Nothing is fitted.

    The columns of the result are the scores of each quantile, from the weakest activations to the strongest.

    Attributes:
        represent: Representation of the examples that isn't the dictionary's own, such as `SiteStates` of a later
            layer or `TextEmbedding`.
        n_trials: Number of trials per latent.
        n_examples: Number of active and of inactive examples.
        n_quantiles: Number of quantiles.
        seed: Random seed of the examples and the intervals.

    Raises:
        ValueError: If a number is too small.

    Source: Paulo and Belrose, "Evaluating SAE interpretability without explanations", arXiv 2507.08473, 2025.
    """

    represent: Representation
    n_trials: int = 50
    n_examples: int = 10
    n_quantiles: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        checks.set_at_least(self, "n_examples", 1)
        checks.set_at_least(self, "n_quantiles", 1)
        checks.set_at_least(self, "n_trials", self.n_quantiles)
        checks.set_at_least(self, "seed", 0)

    @in_own_state
    def __call__(self, text: TokenLatents, /) -> LatentScores:
        """Returns the scores of the latents that are active on at least ``(n_examples + 1) * n_quantiles`` tokens.

        Args:
            text: Latents on text that the dictionary wasn't trained on.
        """
        return share_of_trials(
            "example embedding",
            text,
            self._comparisons(text),
            chance=0.5,
            seed=self.seed,
            columns=lambda table: by_quantile(table, self.n_quantiles),
        )

    def _comparisons(self, text: TokenLatents) -> Iterator[tuple[Tensor, Tensor]]:
        draws = draw_examples(
            text,
            n_active=self.n_examples + 1,
            n_inactive=self.n_examples + 1,
            n_trials=self.n_trials,
            n_quantiles=self.n_quantiles,
            seed=self.seed,
        )
        for latents, active, inactive in represented(text, list(draws), self.represent):
            direction = active[:, :, 1:].mean(2) - inactive[:, :, 1:].mean(2)
            queries = torch.stack([active[:, :, 0], inactive[:, :, 0]])
            positive, negative = (queries * direction).sum(-1)
            yield latents, (positive > negative) + 0.5 * (positive == negative)
