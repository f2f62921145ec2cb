"""Precision, recall, F1 and correlation of rules on a part of the text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.analysis._bootstrap import row_intervals
from sparsedict.analysis.scores._rule_part import RulePart
from sparsedict.analysis.scores._rule_table import RuleTable


@dataclass(frozen=True, eq=False)
class RuleFit:
    """How well rules predict their latents.

    Attributes:
        hits: Number of active tokens on which each rule holds, by group of sequences, ``[n_rules, n_groups]``.
        predicted: Number of tokens on which each rule holds, ``[n_rules, n_groups]``.
        active: Number of active tokens of the latent of each rule, ``[n_rules, n_groups]``.
        correlation: Pearson correlation of each rule with the value of its latent, ``[n_rules]``.
    """

    hits: Float[Tensor, "n_rules n_groups"]
    predicted: Float[Tensor, "n_rules n_groups"]
    active: Float[Tensor, "n_rules n_groups"]
    correlation: Float[Tensor, " n_rules"]

    @property
    def precision(self) -> Float[Tensor, " n_rules"]:
        """Share of the tokens on which the rule holds that are active; 0 if it never holds."""
        return self.hits.sum(1) / self.predicted.sum(1).clamp(min=1)

    @property
    def recall(self) -> Float[Tensor, " n_rules"]:
        """Share of the active tokens on which the rule holds."""
        return self.hits.sum(1) / self.active.sum(1)

    @property
    def f1(self) -> Float[Tensor, " n_rules"]:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits.sum(1) / (self.predicted + self.active).sum(1)

    def f1_interval(self, seed: int) -> tuple[Tensor, Tensor]:
        """Returns the 95 % interval of F1 over resamples of groups of sequences."""
        both = self.predicted + self.active
        return row_intervals(lambda weights: 2 * (self.hits @ weights) / (both @ weights), both.shape[1], seed=seed)


def measure(rules: RuleTable, part: RulePart) -> RuleFit:
    """Measures rules on a part of the text.

    Args:
        rules: The rules.
        part: The part of the text.
    """
    n_rules, n_groups = len(rules), part.n_groups
    hits, predicted = torch.zeros(2, n_rules * n_groups, dtype=torch.float32, device="cpu")
    value_sum = torch.zeros(n_rules, dtype=torch.float64, device="cpu")
    for rule, token in rules.matches(part):
        cell = rule * n_groups + part.group[token]
        predicted += torch.bincount(cell, minlength=len(predicted))
        latent = rules.latent[rule]
        hits += torch.bincount(cell[part.is_active(latent, token)], minlength=len(hits))
        value_sum.index_add_(0, rule, part.values_at(latent, token).double())
    by_latent = torch.bincount(part.owner * n_groups + part.group[part.token], minlength=part.n_latents * n_groups)
    active = by_latent.view(-1, n_groups)[rules.latent].float()
    predicted = predicted.view(n_rules, n_groups)
    correlation = _correlation(predicted.sum(1).double(), value_sum, part.sums[:, rules.latent], part.n_tokens)
    return RuleFit(hits.view(n_rules, n_groups), predicted, active, correlation)


def _correlation(n_true: Tensor, value_sum: Tensor, sums: Tensor, n: int) -> Tensor:
    """Returns the correlation of an indicator with values, from sums over ``n`` tokens; 0 if either is constant."""
    covariance = value_sum / n - n_true / n * sums[0] / n
    variance = (n_true / n * (1 - n_true / n)) * (sums[1] / n - (sums[0] / n).square())
    return torch.where(variance > 0, covariance / variance.clamp(min=1e-300).sqrt(), 0.0).float()
