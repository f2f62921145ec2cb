"""`RuleTable`, many rules in flat tensors, and the tokens on which they hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparsedict.analysis.scores._rule_part import RulePart
from sparsedict.analysis.scores._token_latents import lookup, ranges

N_PAIRS = 2**22
"""Number of pairs of a rule and a token that are held at once."""
_SHIFT = 2**32


@dataclass(frozen=True, eq=False)
class RuleTable:
    """Rules, each a conjunction of clauses "a label has one of these values".

    Attributes:
        latent: Latent of each rule, ``[n_rules]``.
        rule: Rule of each clause, in ascending order, ``[n_clauses]``.
        labelling: Index of the labelling of each clause, ``[n_clauses]``.
        offsets: First value of each clause, and the number of values, ``[n_clauses + 1]``.
        values: Values of the clauses, in ascending order within a clause, ``[n_values]``.
    """

    latent: Int[Tensor, " n_rules"]
    rule: Int[Tensor, " n_clauses"]
    labelling: Int[Tensor, " n_clauses"]
    offsets: Int[Tensor, " n_clauses_and_one"]
    values: Int[Tensor, " n_values"]

    def __len__(self) -> int:
        return len(self.latent)

    @cached_property
    def first_clause(self) -> Int[Tensor, " n_rules_and_one"]:
        """First clause of each rule, and the number of clauses."""
        return torch.nn.functional.pad(torch.bincount(self.rule, minlength=len(self)).cumsum(0), (1, 0))

    @property
    def n_clauses(self) -> Int[Tensor, " n_rules"]:
        """Number of clauses of each rule."""
        return self.first_clause.diff()

    @property
    def n_values(self) -> Int[Tensor, " n_rules"]:
        """Number of values of each rule, over all of its clauses."""
        return self.offsets[self.first_clause].diff()

    @cached_property
    def clause_keys(self) -> Int[Tensor, " n_values"]:
        clause = torch.repeat_interleave(torch.arange(len(self.labelling), device="cpu"), self.offsets.diff())
        return clause * _SHIFT + self.values

    def select(self, rules: Int[Tensor, " n_chosen"]) -> RuleTable:
        """Returns some of the rules, in the given order."""
        counts = self.n_clauses[rules]
        clauses = ranges(self.first_clause[:-1][rules], counts)
        lengths = self.offsets.diff()[clauses]
        return RuleTable(
            self.latent[rules],
            torch.repeat_interleave(torch.arange(len(rules), device="cpu"), counts),
            self.labelling[clauses],
            torch.nn.functional.pad(lengths.cumsum(0), (1, 0)),
            self.values[ranges(self.offsets[:-1][clauses], lengths)],
        )

    def joined(self, other: RuleTable) -> RuleTable:
        """Returns the conjunction of each rule with the rule of the same index in another table."""
        both = concatenate([self, other])
        n = len(self)
        order = torch.arange(n, device="cpu").repeat_interleave(2) + torch.tensor([0, n], device="cpu").repeat(n)
        mixed = both.select(order)
        return RuleTable(
            self.latent, torch.div(mixed.rule, 2, rounding_mode="floor"), mixed.labelling, mixed.offsets, mixed.values
        )

    def holds(self, rule: Int[Tensor, " n"], token: Int[Tensor, " n"], part: RulePart) -> Bool[Tensor, " n"]:
        """Returns whether rules hold on tokens, pair by pair."""
        is_true = torch.ones(len(rule), dtype=torch.bool, device="cpu")
        n_clauses = self.n_clauses[rule]
        for number in range(int(self.n_clauses.max()) if len(self) else 0):
            asked = (is_true & (n_clauses > number)).nonzero().squeeze(1)
            clause = self.first_clause[:-1][rule[asked]] + number
            value = part.ids[self.labelling[clause], token[asked]].long()
            found = lookup(self.clause_keys, clause * _SHIFT + value)[0] & (value >= 0)
            is_true[asked] = found
        return is_true

    def matches(self, part: RulePart) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields pairs of a rule and a token on which it holds, in blocks of whole rules in ascending order."""
        starts, lengths, rarest = self._postings(part)
        per_rule = torch.zeros(len(self), dtype=torch.int64, device="cpu").index_add_(0, rarest, lengths)
        block = torch.div(per_rule.cumsum(0), N_PAIRS, rounding_mode="floor")
        flat = torch.cat([tokens for tokens, _ in part.postings])
        for number in block.unique().tolist():
            inside = block[rarest] == number
            rule = torch.repeat_interleave(rarest[inside], lengths[inside])
            token = flat[ranges(starts[inside], lengths[inside])]
            holds = self.holds(rule, token, part)
            yield rule[holds], token[holds]

    def _postings(self, part: RulePart) -> tuple[Tensor, Tensor, Tensor]:
        """Returns start, length and rule of the postings of each rule's rarest clause."""
        sizes = torch.tensor([0, *(len(tokens) for tokens, _ in part.postings)], device="cpu").cumsum(0)
        tables = [offsets for _, offsets in part.postings]
        n_known = torch.tensor([len(offsets) - 1 for offsets in tables], device="cpu")
        base = torch.nn.functional.pad((n_known + 1).cumsum(0), (1, 0))
        joined = torch.cat(tables)
        clause = torch.repeat_interleave(torch.arange(len(self.labelling), device="cpu"), self.offsets.diff())
        labelling = self.labelling[clause]
        # Values that don't occur in this part have no postings.
        value = torch.minimum(self.values, (n_known - 1).clamp(min=0)[labelling])
        lengths = (
            joined[base[labelling] + torch.minimum(value + 1, n_known[labelling])] - joined[base[labelling] + value]
        )
        lengths = torch.where(self.values < n_known[labelling], lengths, 0)
        starts = sizes[labelling] + joined[base[labelling] + value]
        total = torch.zeros(len(self.labelling), dtype=torch.int64, device="cpu").index_add_(0, clause, lengths)
        order = torch.argsort(self.rule * _SHIFT + total)
        rarest = torch.zeros(len(self.labelling), dtype=torch.bool, device="cpu")
        rarest[order[self.first_clause[:-1]]] = True
        chosen = rarest[clause]
        return starts[chosen], lengths[chosen], self.rule[clause[chosen]]


def concatenate(tables: Sequence[RuleTable]) -> RuleTable:
    """Returns the rules of several tables, one table after the other."""
    n_rules = n_values = 0
    rule, offsets = [], [torch.zeros(1, dtype=torch.int64, device="cpu")]
    for table in tables:
        rule.append(table.rule + n_rules)
        offsets.append(table.offsets[1:] + n_values)
        n_rules, n_values = n_rules + len(table), n_values + len(table.values)
    return RuleTable(
        torch.cat([table.latent for table in tables]),
        torch.cat(rule),
        torch.cat([table.labelling for table in tables]),
        torch.cat(offsets),
        torch.cat([table.values for table in tables]),
    )
