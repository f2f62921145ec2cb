"""Properties of every score, including one that is defined here alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from sparsedict.analysis.scores import (
    DetectionScore,
    ExampleEmbeddingScore,
    FuzzingScore,
    IntruderScore,
    LatentScores,
    RuleScore,
    Score,
    TokenLatents,
    stability,
)

from ._planted import oracle, planted_text, states


@dataclass(frozen=True)
class FirstWordShare:
    """A score of a user: the share of a latent's active tokens that are its most frequent word."""

    seed: int = 0

    def __call__(self, text: TokenLatents, /) -> LatentScores:
        words = text.tokens.flatten()[text.positions]
        table = torch.zeros(text.n_latents, 64).index_put_((text.owner, words), torch.ones(len(words)), accumulate=True)
        return LatentScores("first word", table.amax(1) / text.counts, torch.full((text.n_latents,), 0.05))


@dataclass(frozen=True)
class Case:
    """A score by its seed, the least score of planted latents, and the largest distance of the null from chance."""

    make: Callable[[int], Score]
    high: float
    slack: float = 0.05


SCORES = {
    "rule": Case(lambda seed: RuleScore(seed=seed), 0.99),
    "intruder": Case(lambda seed: IntruderScore(states, seed=seed), 0.95, 0.06),
    "example embedding": Case(lambda seed: ExampleEmbeddingScore(states, n_quantiles=2, seed=seed), 0.99, 0.08),
    "detection": Case(lambda seed: DetectionScore(oracle, seed=seed), 0.99, 0.1),
    "fuzzing": Case(lambda seed: FuzzingScore(oracle, seed=seed), 0.99, 0.1),
    "first word": Case(FirstWordShare, 0.99),
}


@pytest.fixture(scope="module")
def text() -> TokenLatents:
    return planted_text()


@pytest.fixture(params=SCORES, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def found(name: str, text: TokenLatents) -> LatentScores:
    return SCORES[name].make(0)(text)


def test_planted_latents_score_high(name: str, found: LatentScores) -> None:
    assert found.name == name
    assert found.value[:12].min() >= SCORES[name].high - 0.15
    assert found.mean.value >= SCORES[name].high


def test_shuffled_activations_score_at_chance(name: str, text: TokenLatents) -> None:
    null = SCORES[name].make(0)(text.shuffled(3))
    assert null.n_scored == 12
    assert null.mean.value == pytest.approx(null.mean_chance, abs=SCORES[name].slack)


def test_latent_that_never_fires_has_no_score(found: LatentScores) -> None:
    assert found.scored.tolist() == [True] * 12 + [False]
    assert found.n_scored == found.mean.n == 12


def test_intervals_hold_the_value_or_are_absent(found: LatentScores) -> None:
    """There is no interval where all resamples are equal, such as for latents with the best possible score."""
    values = found.value[found.scored]
    if len(values.unique()) > 1:
        assert found.mean.low <= found.mean.value <= found.mean.high
    else:
        assert math.isnan(found.mean.low)
    if found.low is not None and found.high is not None:
        low, high = found.low[found.scored], found.high[found.scored]
        known = ~low.isnan()
        assert torch.equal(known, ~high.isnan())
        assert (low[known] <= values[known] + 1e-6).all()
        assert (values[known] <= high[known] + 1e-6).all()
        assert found.low[~found.scored].isnan().all()


def test_scores_are_deterministic_given_a_seed(name: str, text: TokenLatents, found: LatentScores) -> None:
    again = SCORES[name].make(0)(text)
    for key, column in found.per_latent.items():
        assert torch.equal(column.nan_to_num(-1), again.per_latent[key].nan_to_num(-1))
    assert found.words == again.words


def test_scores_leave_random_state_alone(name: str, text: TokenLatents) -> None:
    before = torch.get_rng_state()
    SCORES[name].make(1)(text)
    assert torch.equal(before, torch.get_rng_state())


def test_results_are_json_and_short(found: LatentScores) -> None:
    kept = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert kept["n_scored"] == 12
    assert kept["per_latent"][found.name][-1] is None
    assert kept["mean"]["value"] == found.mean.value
    assert len(repr(found)) < 120
    assert repr(found).startswith(f"LatentScores('{found.name}': ")
    assert all(len(column) == 13 for column in found.per_latent.values())
    assert "scored latents" in found._repr_html_()


def test_scores_are_those_of_the_protocol(name: str) -> None:
    assert isinstance(SCORES[name].make(0), Score)


@pytest.mark.parametrize("name", ["rule", "detection", "fuzzing"])
def test_scores_that_hold_out_text_need_several_sequences(name: str, text: TokenLatents) -> None:
    with pytest.raises(ValueError, match=r"`text` must have at least \d sequences"):
        SCORES[name].make(0)(text.sequences(torch.tensor([0])))


def test_text_without_activations_has_no_scores(name: str, text: TokenLatents) -> None:
    silent = text.entries_where(torch.zeros(len(text.values), dtype=torch.bool))
    assert SCORES[name].make(0)(silent).n_scored == 0


def test_columns_of_another_length_raise() -> None:
    with pytest.raises(ValueError, match=r"`precision` must be a tensor of shape \(3,\)"):
        LatentScores("mine", torch.zeros(3), torch.zeros(3), columns={"precision": torch.zeros(2)})
    with pytest.raises(ValueError, match="`words` must have one entry for each latent, 3, got 1"):
        LatentScores("mine", torch.zeros(3), torch.zeros(3), words=("a",))


def test_stability_is_calibrated() -> None:
    pytest.importorskip("scipy")
    rows = torch.randn(40, 16)
    order = torch.randperm(40)
    same = stability(rows, rows[order] + 0.02 * torch.randn(40, 16))
    assert same.mean.value == 1.0
    assert same.mean_chance < 0.1
    assert torch.equal(order[same.columns["partner"].long()], torch.arange(40))
    null = stability(rows, torch.randn(40, 16))
    assert null.mean.value == pytest.approx(null.mean_chance, abs=0.1)
    assert torch.equal(null.columns["null cosine"], stability(rows, torch.randn(40, 16)).columns["null cosine"])


def test_scores_of_no_latent_say_why() -> None:
    text = TokenLatents.from_dense(torch.ones(8, 16, 3), torch.ones(8, 16).long())
    found = IntruderScore(lambda text, tokens: torch.randn(len(tokens), 4))(text)
    assert found.n_scored == 0
    for shown in (repr(found), found._repr_html_()):
        assert "pass above=0.0 to `record`" in shown
