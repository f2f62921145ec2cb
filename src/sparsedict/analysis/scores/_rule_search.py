"""The search for the best rule of each latent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.analysis.scores._rule_part import RulePart
from sparsedict.analysis.scores._rule_sets import Counts, best_sets
from sparsedict.analysis.scores._rule_table import RuleTable, concatenate
from sparsedict.seeds import generator

N_NEGATIVES = 500
"""Largest number of inactive tokens per latent among which the next clause is searched."""
BETAS = (1.0, 8.0)
"""Weights of recall. The best rules by each are narrowed by a further clause: one that is good as it is, and one that
holds on nearly all active tokens."""
COST_OF_DOUBLING = 0.01
"""Score that a rule with twice as many values must gain."""
_NEGATIVES = int.from_bytes(b"negs", "big")


@dataclass(frozen=True, eq=False)
class Candidates:
    """Rules with the score by which they were found.

    Attributes:
        rules: The rules.
        score: Score of each rule on the part that it was found on, ``[n_rules]``.
    """

    rules: RuleTable
    score: Float[Tensor, " n_rules"]

    def best(self, n: int) -> Candidates:
        """Returns the ``n`` best rules of each latent. Among equal ones, the earlier comes first."""
        order = torch.argsort(-self.score, stable=True)
        order = order[torch.argsort(self.rules.latent[order], stable=True)]
        latent = self.rules.latent[order]
        first = torch.searchsorted(latent, latent)
        chosen = order[torch.arange(len(order), device="cpu") - first < n]
        return Candidates(self.rules.select(chosen), self.score[chosen])


def search(part: RulePart, *, max_clauses: int, n_finalists: int, seed: int) -> RuleTable:
    """Finds rules for each latent: the best ones of one clause, and greedy conjunctions of up to ``max_clauses``.

    Args:
        part: The text to search on.
        max_clauses: Largest number of clauses of a rule.
        n_finalists: Number of rules of each length to return for each latent.
        seed: Random seed of the inactive tokens among which further clauses are searched.
    """
    counts = list(_counts(part))
    found = [_all_sets(counts, part, beta) for beta in BETAS]
    finalists = [found[0].best(n_finalists).rules]
    for number in range(1, max_clauses):
        bases = concatenate([own.best(1).rules for own in found])
        if not len(bases):
            break
        found = _refined(bases, part, seed + number)
        finalists.append(found[0].best(n_finalists).rules)
    return concatenate(finalists)


def _counts(part: RulePart) -> Iterator[Counts]:
    """Yields the counts of each labelling."""
    for ids in part.ids:
        value = ids[part.token].long()
        known = value >= 0
        n = int(ids.max()) + 1 if ids.numel() else 0
        keys, active = (part.owner[known] * max(n, 1) + value[known]).unique(return_counts=True)
        total = torch.bincount(ids[ids >= 0].long(), minlength=n)
        latent, value = torch.div(keys, max(n, 1), rounding_mode="floor"), keys % max(n, 1)
        yield Counts(latent, value, active.double(), total[value].double() if n else active.double())


def _all_sets(counts: list[Counts], part: RulePart, beta: float) -> Candidates:
    return _candidates([best_sets(own, part.n_active, labelling, beta) for labelling, own in enumerate(counts)])


def _candidates(found: list[tuple[RuleTable, Tensor]]) -> Candidates:
    rules = concatenate([rules for rules, _ in found])
    return Candidates(rules, torch.cat([score for _, score in found]) - cost(rules))


def cost(rules: RuleTable) -> Float[Tensor, " n_rules"]:
    """Returns the amount to subtract from the score of each rule, so that of equal rules the simplest is preferred."""
    return COST_OF_DOUBLING * rules.n_values.double().log2()


def _refined(bases: RuleTable, part: RulePart, seed: int) -> list[Candidates]:
    """Finds the best clauses to add to each rule, by each of the weights of recall."""
    rule, token, is_active, weight = _sampled(bases, part, seed)
    n_active = part.n_active[bases.latent]
    found: list[list[tuple[RuleTable, Tensor]]] = [[] for _ in BETAS]
    for labelling in range(len(part.ids)):
        # A second set of the same labelling would only take values away from the first.
        is_new = ~_uses(bases, labelling)[rule]
        own = _weighted(rule[is_new], part.ids[labelling][token[is_new]].long(), is_active[is_new], weight[is_new])
        for beta, results in zip(BETAS, found, strict=True):
            clauses, score = best_sets(own, n_active, labelling, beta)
            results.append((bases.select(clauses.latent).joined(clauses), score))
    return [_candidates(results) for results in found]


def _uses(rules: RuleTable, labelling: int) -> Tensor:
    used = torch.zeros(len(rules), dtype=torch.bool, device="cpu")
    used[rules.rule[rules.labelling == labelling]] = True
    return used


def _sampled(base: RuleTable, part: RulePart, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the tokens on which rules hold: all active ones, and a weighted sample of the inactive ones."""
    random = generator(seed, _NEGATIVES)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for rule, token in base.matches(part):
        is_active = part.is_active(base.latent[rule], token)
        n_inactive = torch.bincount(rule[~is_active], minlength=len(base)).double()
        share = (N_NEGATIVES / n_inactive.clamp(min=1)).clamp(max=1)[rule]
        drawn = is_active | (torch.rand(len(rule), generator=random, dtype=torch.float64, device="cpu") < share)
        weight = torch.where(is_active, 1.0, 1 / share)
        found.append((rule[drawn], token[drawn], is_active[drawn], weight[drawn]))
    rule, token, is_active, weight = (torch.cat(parts) for parts in zip(*found, strict=True))
    return rule, token, is_active, weight


def _weighted(rule: Tensor, value: Tensor, is_active: Tensor, weight: Tensor) -> Counts:
    """Counts values per rule. Inactive tokens count by their weight."""
    known = value >= 0
    rule, value, is_active, weight = rule[known], value[known], is_active[known], weight[known]
    n = int(value.max()) + 1 if len(value) else 1
    keys, index = (rule * n + value).unique(return_inverse=True)
    active = torch.zeros(len(keys), dtype=torch.float64, device="cpu").index_add_(0, index, is_active.double())
    total = torch.zeros(len(keys), dtype=torch.float64, device="cpu").index_add_(0, index, weight)
    return Counts(torch.div(keys, n, rounding_mode="floor"), keys % n, active, total)
