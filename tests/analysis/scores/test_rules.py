"""The search for rules, against dense references and rules that are planted."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsedict.analysis.scores import Affix, ClassAt, Labels, PositionInSequence, RuleScore, TokenLatents, TokensAt
from sparsedict.analysis.scores._rule_fit import measure
from sparsedict.analysis.scores._rule_part import RulePart, part_of
from sparsedict.analysis.scores._rule_search import _counts, search
from sparsedict.analysis.scores._rule_sets import best_sets
from sparsedict.analysis.scores._rule_table import RuleTable

from ._planted import before, planted, planted_text, strings, words

TOKENS = words(160, 48)
POSITION = torch.arange(TOKENS.shape[1]).expand_as(TOKENS)
STRINGS = [string.strip() for string in strings(range(48))]
IS_NUMBER = torch.tensor([string.isdigit() for string in STRINGS])
ENDS = torch.tensor([string.endswith("7") for string in STRINGS])
STARTS = torch.tensor([string.startswith("d") for string in STRINGS])

RULES = {
    "the token is ' self'": TOKENS == 10,
    "the token is ' word20', ' word31' or ' word42'": torch.isin(TOKENS, torch.tensor([20, 31, 42])),
    "the previous token is ' def'": before(TOKENS) == 1,
    "the token 2 places before is ' ('": before(TOKENS, 2) == 4,
    "the token 3 places before is ' the'": before(TOKENS, 3) == 0,
    "the token starts with 'd'": STARTS[TOKENS],
    "the token ends with '7'": ENDS[TOKENS],
    "the token is a number": IS_NUMBER[TOKENS],
    "the position in the sequence is 0, 1 or 2": POSITION < 3,
    "the position in the sequence is 16 to 31": (POSITION >= 16) & (POSITION < 32),
    "the previous token is ' (' and the token starts with 'w'": (before(TOKENS) == 4) & (TOKENS >= 16),
}


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[float, str | None]]:
    scores = RuleScore()(planted(torch.stack(list(RULES.values()), -1), TOKENS))
    assert scores.words is not None
    return dict(zip(RULES, zip(scores.value.tolist(), scores.words, strict=True), strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_planted_rule_is_found_in_words(rule: str, found: dict[str, tuple[float, str | None]]) -> None:
    value, said = found[rule]
    assert value > 0.99
    assert said is not None
    assert unordered(said) == unordered(rule)


def unordered(rule: str) -> list[str]:
    """The parts of a rule's words. Values of equal frequency may come in any order."""
    return sorted(rule.replace(",", "").replace(" or", "").split())


def test_ngram_is_found() -> None:
    tokens = words(160, 48) % 16
    scores = RuleScore()(planted(((before(tokens) == 1) & (tokens == 10)).unsqueeze(-1), tokens))
    assert scores.words == ("the last 2 tokens are ' def self'",)
    assert scores.value[0] == 1.0


def test_strict_conjunction_needs_two_clauses() -> None:
    rule = RULES["the previous token is ' (' and the token starts with 'w'"].unsqueeze(-1)
    one = RuleScore(max_clauses=1)(planted(rule, TOKENS))
    two = RuleScore(max_clauses=2)(planted(rule, TOKENS))
    assert two.value[0] == 1.0 > one.value[0]
    assert (one.columns["n_clauses"][0], two.columns["n_clauses"][0]) == (1, 2)


def test_three_clauses() -> None:
    tokens = words(400, 48)
    even = tokens % 2 == 0
    rule = (tokens < 24) & (before(tokens) >= 24) & (before(tokens, 2) >= 0) & even
    labels = [(tokens < 24), (before(tokens) >= 24), even]
    labellings = [Labels(own.long(), ["no", "yes"].__getitem__, f"label {i} is {{}}") for i, own in enumerate(labels)]
    rule = labels[0] & labels[1] & labels[2]
    scores = RuleScore(max_clauses=3, labellings=labellings)(planted(rule.unsqueeze(-1), tokens))
    assert scores.words is not None
    assert set((scores.words[0] or "").split(" and ")) == {"label 0 is yes", "label 1 is yes", "label 2 is yes"}


def test_grades_are_the_number_of_thresholds_that_f1_reaches() -> None:
    tokens = words(600, 48)
    random = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1))
    fires = torch.stack([(tokens == 20) & (random < share) for share in (1.0, 0.6, 0.35, 0.2, 0.05)], -1)
    scores = RuleScore()(planted(fires, tokens))
    grade = (scores.value.unsqueeze(1) >= torch.tensor([0.2, 0.4, 0.6, 0.8])).sum(1)
    assert torch.equal(scores.columns["grade"], grade.float())
    assert grade[0] == 4
    assert grade[-1] == 0
    assert (grade.diff() <= 0).all()


def test_measures_are_those_of_the_dense_rule() -> None:
    text = planted_text()
    noisy = planted((torch.rand(96, 48, 2) < 0.05) | (text.tokens == 20).unsqueeze(-1), text.tokens)
    scores = RuleScore(level=0.0, labellings=(TokensAt((0,)),))(noisy)
    assert scores.words == ("the token is ' word20'",) * 2
    _, second = noisy.halves(0)
    rule = (second.tokens == 20).flatten().double()
    for latent in range(2):
        dense = torch.zeros(second.tokens.numel(), dtype=torch.float64)
        own = slice(*second.offsets[latent : latent + 2].tolist())
        dense[second.positions[own]] = second.values[own].double()
        hits = float((rule * (dense > 0)).sum())
        precision, recall = hits / float(rule.sum()), hits / float((dense > 0).sum())
        assert float(scores.columns["precision"][latent]) == pytest.approx(precision)
        assert float(scores.columns["recall"][latent]) == pytest.approx(recall)
        assert float(scores.value[latent]) == pytest.approx(2 * precision * recall / (precision + recall))
        correlation = torch.corrcoef(torch.stack([rule, dense]))[0, 1]
        assert float(scores.columns["correlation"][latent]) == pytest.approx(float(correlation), abs=1e-5)
        share = float((dense > 0).double().mean())
        assert float(scores.chance[latent]) == pytest.approx(2 * share / (1 + share))


def test_weak_activations_dont_count_as_active() -> None:
    tokens = words(96, 48)
    weak = 0.1 * (torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.3)
    latents = torch.where(tokens == 20, 1.0, weak).unsqueeze(-1)
    text = TokenLatents.from_dense(latents, tokens, strings=strings)
    assert RuleScore()(text).value[0] == 1.0
    assert RuleScore(level=0.0)(text).value[0] < 0.5


def test_negative_values_are_active() -> None:
    text = planted_text()
    turned = TokenLatents(text.tokens, text.kept, text.offsets, text.positions, -text.values, strings)
    scores = RuleScore()(turned)
    assert torch.equal(scores.value[:12], torch.ones(12))
    assert (scores.columns["correlation"][:12] < -0.9).all()


def test_excluded_tokens_and_padding_count_nowhere() -> None:
    tokens = words(96, 48).masked_fill(torch.arange(48) >= 40, -1)
    kept = (tokens >= 0) & (tokens != 20)
    fires = torch.stack([tokens == 20, tokens == 21, before(tokens) == 20], -1)
    scores = RuleScore()(planted(fires, tokens, kept=kept))
    assert scores.scored.tolist() == [False, True, True]
    assert scores.words is not None
    assert scores.words[1:] == ("the token is ' word21'", "the previous token is ' word20'")


def test_later_tokens_are_found_only_on_request() -> None:
    tokens = words(160, 48)
    follows = torch.nn.functional.pad(tokens[:, 1:], (0, 1), value=-1) == 20
    text = planted(follows.unsqueeze(-1), tokens)
    assert RuleScore()(text).value[0] < 0.15
    scores = RuleScore(labellings=(TokensAt((0,)), TokensAt((1,))))(text)
    assert scores.words == ("the next token is ' word20'",)


def test_labels_without_strings_still_find_tokens() -> None:
    text = planted_text()
    unnamed = TokenLatents(text.tokens, text.kept, text.offsets, text.positions, text.values)
    scores = RuleScore()(unnamed)
    assert scores.words is not None
    assert scores.words[0] == "the token is '[20]'"
    with pytest.raises(ValueError, match="`labellings` must have one that labels this text"):
        RuleScore(labellings=(ClassAt(), Affix(1)))(unnamed)


def test_order_of_latents_does_not_matter() -> None:
    text = planted(torch.stack(list(RULES.values()), -1), TOKENS)
    order = torch.randperm(len(RULES))
    straight, turned = RuleScore()(text), RuleScore()(text.latents(order))
    assert torch.equal(straight.value[order], turned.value)
    assert straight.n_scored == len(RULES)
    assert straight.words is not None
    assert tuple(straight.words[i] for i in order.tolist()) == turned.words


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RuleScore(level=2.0), r"`level` must lie in \[0.0, 1.0\], got 2.0"),
        (lambda: RuleScore(max_clauses=0), "`max_clauses` must be at least 1, got 0"),
        (lambda: RuleScore(labellings=()), "`labellings` must hold at least one labelling"),
        (lambda: TokensAt(()), "`offsets` must be one to three offsets in ascending order"),
        (lambda: TokensAt((0, -1)), "`offsets` must be one to three offsets in ascending order"),
        (lambda: Affix(0), "`n` must be positive for a prefix or negative for a suffix"),
    ],
)
def test_bad_settings_raise(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


def test_labels_of_another_text_raise() -> None:
    labels = Labels(torch.zeros(2, 3, dtype=torch.int64), str, "{}")
    with pytest.raises(ValueError, match=r"`ids` and `text\.tokens` must have the same shape"):
        RuleScore(labellings=(labels,))(planted_text())


def test_position_groups() -> None:
    tokens = torch.zeros(1, 40, dtype=torch.int64)
    text = planted(torch.ones(1, 40, 1, dtype=torch.bool), tokens)
    labels = PositionInSequence()(text)
    names = [labels.name(value) for value in labels.ids[0].tolist()]
    assert names[:10] == ["0", "1", "2", "3", "4", "5", "6", "7", "8 to 15", "8 to 15"]
    assert (names[15], names[16], names[31], names[32]) == ("8 to 15", "16 to 31", "16 to 31", "32 to 63")
    padded = planted(torch.ones(1, 40, 1, dtype=torch.bool), tokens.masked_fill(torch.arange(40) < 5, -1))
    assert PositionInSequence()(padded).ids[0, :7].tolist() == [-1] * 5 + [0, 1]


def random_part(seed: int, n_latents: int = 3) -> RulePart:
    """A part of random labels with few values, and latents that are random but for one value."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(6, (6, 20), generator=random)
    fires = (torch.rand(6, 20, n_latents, generator=random) < 0.2) | (tokens == seed % 6).unsqueeze(-1)
    ids = torch.randint(-1, 4, (6, 20), generator=random)
    labels = [Labels(tokens, str, "{}"), Labels(ids, str, "{}")]
    return part_of(planted(fires, tokens), labels, torch.arange(6), torch.zeros(n_latents))


def dense_active(part: RulePart) -> Tensor:
    active = torch.zeros(part.n_latents, part.n_tokens, dtype=torch.bool)
    active[part.owner, part.token] = True
    return active


@given(st.integers(0, 50), st.sampled_from([1.0, 8.0]))
def test_best_set_of_values_is_the_best_of_all_sets(seed: int, beta: float) -> None:
    part = random_part(seed)
    active = dense_active(part)
    for labelling, counts in enumerate(_counts(part)):
        rules, score = best_sets(counts, part.n_active, labelling, beta)
        ids = part.ids[labelling]
        usual = {latent: [v for v in range(6) if int((active[latent] & (ids == v)).sum()) >= 2] for latent in range(3)}
        for rule, latent in enumerate(rules.latent.tolist()):
            best = max(
                f_beta(torch.isin(ids, torch.tensor(values, dtype=ids.dtype)), active[latent], beta)
                for n in range(1, 7)
                for values in itertools.combinations(usual[latent], n)
            )
            # Shrinking the precision changes the order of values of nearly equal precision.
            assert best - 0.05 <= float(score[rule]) <= best + 1e-9


def f_beta(rule: Tensor, active: Tensor, beta: float) -> float:
    hits = float((rule & active).sum())
    return (1 + beta**2) * hits / (beta**2 * float(active.sum()) + float(rule.sum()))


@given(st.integers(0, 30))
def test_matches_and_measures_are_those_of_dense_rules(seed: int) -> None:
    part = random_part(seed)
    rules = search(part, max_clauses=2, n_finalists=2, seed=0)
    dense = torch.stack([dense_rule(rules, rule, part) for rule in range(len(rules))])
    matched = torch.zeros_like(dense)
    for rule, token in rules.matches(part):
        matched[rule, token] = True
    assert torch.equal(matched, dense)
    active = dense_active(part)[rules.latent]
    fit = measure(rules, part)
    assert torch.equal(fit.hits.sum(1), (dense & active).sum(1).float())
    assert torch.equal(fit.predicted.sum(1), dense.sum(1).float())
    assert torch.equal(fit.active.sum(1), active.sum(1).float())


def dense_rule(rules: RuleTable, rule: int, part: RulePart) -> Tensor:
    holds = torch.ones(part.n_tokens, dtype=torch.bool)
    for clause in (rules.rule == rule).nonzero().flatten().tolist():
        values = rules.values[rules.offsets[clause] : rules.offsets[clause + 1]]
        holds &= torch.isin(part.ids[rules.labelling[clause]].long(), values)
    return holds
