"""`RuleScore`, how well one simple rule about tokens predicts a latent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis.scores._labellings import DEFAULT_LABELLINGS
from sparsedict.analysis.scores._labels import Labelling, Labels, labelled
from sparsedict.analysis.scores._result import LatentScores
from sparsedict.analysis.scores._rule_fit import RuleFit, measure
from sparsedict.analysis.scores._rule_part import RulePart, part_of
from sparsedict.analysis.scores._rule_search import Candidates, cost, search
from sparsedict.analysis.scores._rule_table import RuleTable
from sparsedict.analysis.scores._token_latents import TokenLatents, checked_text
from sparsedict.torch_state import in_own_state

GRADES = (0.2, 0.4, 0.6, 0.8)
"""F1 from which on a latent has grade 1, 2, 3 and 4."""
MIN_ACTIVE = 10
NEAR_MAXIMUM = 10
"""The tenth largest value is used instead of the maximum, which depends on the amount of text."""
_SELECTION = 1 / 3


@dataclass(frozen=True)
class RuleScore:
    r"""Finds the best simple rule about tokens for each latent, and measures it on held-out text.

    A rule says that a label of the token or of tokens before it has one of at most 16 values, or it is a
    conjunction of such clauses, such as "the previous token is 'def' and the token starts with '_'". A latent is
    *active* where its magnitude is at least ``level`` times its tenth largest magnitude. The score is F1:

    .. math::
        F_1 = \frac{2 \, |\text{rule} \wedge \text{active}|}{|\text{rule}| + |\text{active}|}

    Rules are searched on half of the sequences. Candidates are found by counting on two thirds of this half. The rule
    with the best F1 on the other third is chosen, less 0.01 for each doubling of its number of values. Precision,
    recall, F1 and correlation are measured on the other half of the sequences.

    The columns of the result are ``precision``, ``recall``, ``correlation`` (Pearson, of the rule with the latent's
    values), ``grade``, ``n_clauses`` and ``n_values``. The words are the rules. The grade from 0 to 4 is the number of
    the thresholds 0.2, 0.4, 0.6 and 0.8 that F1 reaches: 0 for no rule, 4 for one clear rule. Chance is the F1 of
    the rule that always holds, :math:`2p / (1 + p)` for a latent that is active on a share :math:`p` of the tokens.

    Latents that are active on fewer than ten tokens of either half have no score.

    Attributes:
        level: Share of the near-maximum from which on a latent is active; 0 for all tokens on which it fires.
        max_clauses: Largest number of clauses of a rule.
        labellings: Labels that rules are made of. Add your own in one function; see `Labelling`.
        seed: Random seed of the split, the search and the intervals.

    Raises:
        ValueError: If an attribute is out of range.

    Example:
        >>> import torch
        >>> tokens = torch.randint(50, (64, 32), generator=torch.Generator().manual_seed(0))
        >>> follows = torch.nn.functional.pad(tokens[:, :-1] == 7, (1, 0)).float()
        >>> scores = RuleScore()(TokenLatents.from_dense(follows.unsqueeze(-1), tokens))
        >>> scores.words, scores.columns["grade"].tolist()
        (("the previous token is '[7]'",), [4.0])
    """

    level: float = 0.25
    max_clauses: int = 2
    labellings: Sequence[Labelling] = DEFAULT_LABELLINGS
    seed: int = 0

    def __post_init__(self) -> None:
        checks.set_in_range(self, "level", 0.0, 1.0)
        checks.set_at_least(self, "max_clauses", 1)
        checks.set_at_least(self, "seed", 0)
        if callable(self.labellings) or not isinstance(self.labellings, Iterable):
            raise TypeError(f"`labellings` must be a list of labellings, got {self.labellings!r:.80}.")
        object.__setattr__(self, "labellings", tuple(self.labellings))
        if not self.labellings:
            raise ValueError("`labellings` must hold at least one labelling, got none.")

    @in_own_state
    def __call__(self, text: TokenLatents, /) -> LatentScores:
        """Returns the scores of the latents.

        Args:
            text: Latents on text that the dictionary wasn't trained on.

        Raises:
            ValueError: If there are fewer than 4 sequences.
        """
        text = checked_text(text)
        if len(text.tokens) < 4:
            raise ValueError(
                f"`text` must have at least 4 sequences, got {len(text.tokens)}. Record more text, or cut it into "
                "shorter sequences."
            )
        labels = [own for labelling in self.labellings if (own := labelled(labelling, text)) is not None]
        if not labels:
            raise ValueError("`labellings` must have one that labels this text, but all returned None.")
        fitting, held_out = text.split(self.seed)
        thresholds = self.level * near_maxima(text.sequences(fitting))
        chosen = self._find(text, labels, fitting, thresholds)
        part = part_of(text, labels, held_out, thresholds)
        enough = part.n_active[chosen.latent] >= MIN_ACTIVE
        chosen = chosen.select(enough.nonzero().squeeze(1))
        return _scores(chosen, measure(chosen, part), part, labels, self.seed)

    def _find(self, text: TokenLatents, labels: Sequence[Labels], fitting: Tensor, thresholds: Tensor) -> RuleTable:
        """Returns the rule of each latent that is active often enough on the fitting half."""
        selecting, searching = (fitting[part] for part in text.sequences(fitting).split(self.seed, _SELECTION))
        part = part_of(text, labels, searching, thresholds)
        selection = part_of(text, labels, selecting, thresholds)
        found = search(part, max_clauses=self.max_clauses, n_finalists=3, seed=self.seed)
        often = (part.n_active + selection.n_active)[found.latent] >= MIN_ACTIVE
        found = found.select(often.nonzero().squeeze(1))
        score = measure(found, selection).f1.nan_to_num(0.0).double() - cost(found)
        return Candidates(found, score).best(1).rules


def near_maxima(text: TokenLatents) -> Float[Tensor, " n_latents"]:
    """Returns the tenth largest magnitude of each latent, or the smallest one if it fires on fewer tokens."""
    if not len(text.values):
        return torch.full((text.n_latents,), torch.inf, device="cpu", dtype=torch.float32)
    order = torch.argsort(text.owner.double() - text.values.abs().double() / (2 * text.maxima.max().clamp(min=1e-30)))
    ranked = text.values.abs()[order]
    index = text.offsets[:-1] + (text.counts - 1).clamp(0, NEAR_MAXIMUM - 1)
    return torch.where(text.counts > 0, ranked[index.clamp(max=len(ranked) - 1)], torch.inf)


def _scores(rules: RuleTable, fit: RuleFit, part: RulePart, labels: Sequence[Labels], seed: int) -> LatentScores:
    def spread(values: Tensor) -> Tensor:
        everywhere = torch.full((part.n_latents,), torch.nan, device="cpu", dtype=torch.float32)
        everywhere[rules.latent] = values.float()
        return everywhere

    low, high = fit.f1_interval(seed)
    share = part.n_active / max(part.n_tokens, 1)
    grade = (fit.f1.unsqueeze(1) >= torch.tensor(GRADES, device="cpu", dtype=torch.float32)).sum(1)
    columns = {
        "precision": fit.precision,
        "recall": fit.recall,
        "correlation": fit.correlation,
        "grade": grade,
        "n_clauses": rules.n_clauses,
        "n_values": rules.n_values,
    }
    words: list[str | None] = [None] * part.n_latents
    for number, latent in enumerate(rules.latent.tolist()):
        words[latent] = _words(rules, number, part, labels)
    return LatentScores(
        name="rule",
        value=spread(fit.f1),
        chance=2 * share / (1 + share),
        low=spread(low),
        high=spread(high),
        columns={name: spread(column) for name, column in columns.items()},
        words=tuple(words),
        notes={"n_tokens": part.n_tokens},
        seed=seed,
    )


def _words(rules: RuleTable, number: int, part: RulePart, labels: Sequence[Labels]) -> str:
    """Returns a rule in words. Values with more active tokens come first."""
    first, last = rules.first_clause[number : number + 2].tolist()
    begin, end = torch.searchsorted(part.owner, rules.latent[number] + torch.arange(2, device="cpu")).tolist()
    clauses = []
    for clause in range(first, last):
        labelling = int(rules.labelling[clause])
        values = rules.values[rules.offsets[clause] : rules.offsets[clause + 1]]
        on_active = part.ids[labelling, part.token[begin:end]]
        order = torch.argsort((on_active == values.unsqueeze(1)).sum(1), descending=True, stable=True)
        clauses.append(labels[labelling].words(values[order].tolist()))
    return " and ".join(clauses)
