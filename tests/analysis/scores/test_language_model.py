"""Scores by a language model, with a scripted one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sparsedict.analysis.scores import (
    DetectionScore,
    Explainer,
    FuzzingScore,
    LanguageModelScore,
    SavedAnswers,
    TokenLatents,
    plan,
)
from sparsedict.analysis.scores._answers import read_explanation, read_numbers

from ._planted import oracle, planted, planted_text, strings, words

BOTH = [DetectionScore, FuzzingScore]


@pytest.fixture(scope="module")
def text() -> TokenLatents:
    return planted_text()


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("[1, 3]", {1, 3}),
        ("[]", set()),
        ("[ ]", set()),
        ("Excerpts [1] and [2] look alike, so: [2, 5]", {2, 5}),
        ("1, 3", {1, 3}),
        ("1 and 3.", {1, 3}),
        ("2, 3, and 4", {2, 3, 4}),
        ("4", {4}),
        ("none", set()),
        ("None.", set()),
        ("[3,1]\n", {1, 3}),
        ("", None),
        ("[0]", None),
        ("[6]", None),
        ("[1, 1]", None),
        ("[one]", None),
        ("I think 1 but not 2", None),
        ("yes", None),
        ("-1", None),
        ("[1", None),
        ("1.5", None),
        (None, None),
    ],
)
def test_answers_are_read_or_refused(answer: str | None, read: set[int] | None) -> None:
    assert read_numbers(answer, 5) == read


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("EXPLANATION: numbers", "numbers"),
        ("thoughts\nExplanation :  numbers \nbye", "numbers"),
        ("EXPLANATION: a\nEXPLANATION: b", "b"),
        ("EXPLANATION:", None),
        ("EXPLANATION:   \n", None),
        ("numbers", None),
        (None, None),
    ],
)
def test_explanations_are_read_or_refused(answer: str | None, read: str | None) -> None:
    assert read_explanation(answer) == read


def test_explanations_name_the_planted_words(text: TokenLatents) -> None:
    explanations = Explainer(oracle)(text)
    assert explanations == (*(f"the word word{20 + i}" for i in range(12)), None)


@pytest.mark.parametrize("kind", BOTH)
def test_good_explanation_scores_high_and_a_wrong_one_at_chance(
    kind: type[LanguageModelScore], text: TokenLatents
) -> None:
    right = (*tuple(f"the word word{20 + i}" for i in range(12)), None)
    wrong = (*tuple(f"the word word{20 + (i + 1) % 12}" for i in range(12)), None)
    assert kind(oracle, right)(text).mean.value > 0.8
    assert abs(kind(oracle, wrong)(text).mean.value - 0.5) < 0.1


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("answer", "value"), [("[]", 0.5), ("[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]", 0.5), ("no idea", float("nan"))]
)
def test_constant_answers_score_at_chance_or_not_at_all(
    kind: type[LanguageModelScore], answer: str, value: float, text: TokenLatents
) -> None:
    explanations = ("the word word20",) + (None,) * 12
    scores = kind(lambda prompts: [answer] * len(prompts), explanations)(text)
    assert scores.value[:1].tolist() == pytest.approx([value], nan_ok=True)
    assert scores.n_scored == (value == 0.5)
    n_unread = 0 if value == 0.5 else scores.notes["n_questions"]
    assert scores.notes["n_unread"] == scores.columns["unread answers"].sum() == n_unread


@pytest.mark.parametrize("kind", BOTH)
def test_answers_that_cant_be_read_are_counted_and_left_out(kind: type[LanguageModelScore], text: TokenLatents) -> None:
    explanations = (*tuple(f"the word word{20 + i}" for i in range(12)), None)

    def unsteady(prompts: list[str]) -> list[str]:
        return [answer if len(prompt) % 3 else "sorry" for prompt, answer in zip(prompts, oracle(prompts), strict=True)]

    straight, scores = kind(oracle, explanations)(text), kind(unsteady, explanations)(text)
    assert 0 < scores.notes["n_unread"] < scores.notes["n_questions"]
    assert scores.mean.value == pytest.approx(straight.mean.value, abs=0.05)


@pytest.mark.parametrize("kind", BOTH)
def test_explanations_are_tested_on_other_text(kind: type[LanguageModelScore], text: TokenLatents) -> None:
    shown: list[str] = []

    def ask(prompts: list[str]) -> list[str]:
        shown.extend(prompts)
        return oracle(prompts)

    kind(ask)(text)
    explaining = {line for prompt in shown if "EXPLANATION:" in prompt for line in excerpts_of(prompt)}
    testing = {line for prompt in shown if "EXPLANATION:" not in prompt for line in excerpts_of(prompt)}
    assert len(explaining) > 50
    assert len(testing) > 100
    assert not explaining & testing


def excerpts_of(prompt: str) -> list[str]:
    lines = re.findall(r"^\d+\. (.*)$", prompt, re.MULTILINE)
    return [line.replace("<<", "").replace(">>", "") for line in lines]


def test_excerpts_fit_half_of_the_time(text: TokenLatents) -> None:
    explanations = ("the word word20",) + (None,) * 12
    for kind in BOTH:
        for asked in kind(oracle, explanations).questions(text, explanations):
            assert (sum(asked.fits), len(asked.fits)) == (5, 10)
    for asked in DetectionScore(oracle, explanations).questions(text, explanations):
        lines = excerpts_of(asked.prompt)
        assert [" word20 " in f"{line} " for line in lines] == list(asked.fits)
        assert "<<" not in asked.prompt


@pytest.mark.parametrize("before", [0, 3, 47])
def test_excerpts_of_a_frequent_latent_are_judged_by_their_own_tokens(before: int) -> None:
    """It is active on a third of the tokens, so few windows are free of it, and long ones only where a text begins."""
    tokens = words()
    text = planted((tokens % 3 == 0).unsqueeze(-1), tokens)
    score = DetectionScore(lambda prompts: ["[]"] * len(prompts), ("multiples of three",), before=before, after=0)
    ids = {name: i for i, name in enumerate(strings(range(48)))}
    n_fits = []
    for asked in score.questions(text, ("multiples of three",)):
        for line, fits in zip(excerpts_of(asked.prompt), asked.fits, strict=True):
            shown = [ids[f" {word}"] for word in line.split() if f" {word}" in ids]
            assert fits == any(i % 3 == 0 for i in shown)
        n_fits.append(sum(asked.fits))
    assert all(n == 5 if before == 0 else 5 <= n <= 10 for n in n_fits)
    assert score(text).n_scored == 1


def test_braces_in_the_text_are_no_placeholders() -> None:
    text = planted_text()
    odd = TokenLatents(
        text.tokens, text.kept, text.offsets, text.positions, text.values, lambda ids: [" {x} {0}" for _ in ids]
    )
    explanations = ("{explanation} {y}",) + (None,) * 12
    prompt = DetectionScore(oracle, explanations).questions(odd, explanations)[0].prompt
    assert "{explanation} {y}" in prompt
    assert " {x} {0} {x}" in prompt
    assert " {x} {0}" in next(iter(Explainer(oracle).prompts(odd).values()))


@pytest.mark.parametrize(
    "scores", [(Explainer,), (DetectionScore,), (FuzzingScore,), (Explainer, DetectionScore, FuzzingScore)]
)
def test_plans_count_the_prompts_that_are_asked(
    scores: tuple[Callable[..., Explainer | LanguageModelScore], ...], text: TokenLatents
) -> None:
    asked: list[str] = []

    def ask(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return oracle(prompts)

    parts = [make(ask) for make in scores]
    cost = plan(text, *parts, count_tokens=lambda prompt: len(prompt.split()))
    assert asked == []
    for part in parts:
        part(text)
    assert cost.n_prompts == len(asked)
    # The explanations are unknown before they are made.
    assert cost.n_prompt_tokens == pytest.approx(sum(len(prompt.split()) for prompt in asked), abs=18 * len(asked))
    assert cost.cost(2.0, 10.0) == pytest.approx((2 * cost.n_prompt_tokens + 10 * cost.n_answer_tokens) / 1e6)
    assert str(cost).startswith(f"{len(asked):,} prompts, ")


def test_plans_say_if_tokens_are_estimated(text: TokenLatents) -> None:
    cost = plan(text, Explainer(oracle))
    assert not cost.is_counted
    assert "prompts, about " in str(cost)
    with pytest.raises(ValueError, match="`scores` must be at least one score by a language model"):
        plan(text)


def test_saved_answers_are_not_asked_again(text: TokenLatents, tmp_path: Path) -> None:
    asked: list[int] = []

    def ask(prompts: list[str]) -> list[str]:
        asked.append(len(prompts))
        if len(asked) == 2:
            raise ConnectionError
        return oracle(prompts)

    explanations = (*tuple(f"the word word{20 + i}" for i in range(12)), None)
    score = DetectionScore(SavedAnswers(ask, tmp_path / "a" / "answers.jsonl"), explanations, n_questions=12)
    with pytest.raises(ConnectionError):
        score(text)
    again = score(text)
    assert sum(asked) - asked[1] == again.notes["n_questions"]
    assert torch.equal(again.value[:12], DetectionScore(oracle, explanations, n_questions=12)(text).value[:12])
    with (tmp_path / "a" / "answers.jsonl").open("a") as file:
        file.write('{"prompt": "x"')
    with pytest.raises(ValueError, match=r"line \d+ of .* can't be read"):
        score(text)


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda prompts: prompts[:-1], ValueError, "`ask` must return one answer for each prompt"),
        (lambda prompts: "yes", TypeError, "`ask` must return a list of answers, got str"),
        ("gpt", TypeError, "`ask` must be a function from a list of prompts to their answers, got str"),
    ],
)
def test_bad_models_raise(ask: Callable, error: type[Exception], message: str, text: TokenLatents) -> None:
    with pytest.raises(error, match=message):
        DetectionScore(ask)(text)


@pytest.mark.as_installed
def test_answers_that_arent_text_are_counted(text: TokenLatents) -> None:
    explanations = ("the word word20",) + (None,) * 12
    scores = DetectionScore(lambda prompts: [None] * len(prompts), explanations)(text)  # pyright: ignore[reportArgumentType]
    assert scores.notes["n_unread"] == scores.notes["n_questions"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_questions": 0}, "`n_questions` must be at least 1"),
        ({"n_excerpts": 1}, "`n_excerpts` must be at least 2"),
        ({"before": -1}, "`before` must be at least 0"),
    ],
)
@pytest.mark.parametrize("kind", BOTH)
def test_bad_settings_raise(kind: type[LanguageModelScore], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(oracle, **options)  # pyright: ignore[reportArgumentType]


def test_explanations_of_another_number_of_latents_raise(text: TokenLatents) -> None:
    with pytest.raises(ValueError, match="`explanations` must have one entry for each latent, 13, got 1"):
        DetectionScore(oracle, ("a",))(text)
    nameless = TokenLatents(text.tokens, text.kept, text.offsets, text.positions, text.values)
    with pytest.raises(ValueError, match=r"`text\.strings` must be passed"):
        Explainer(oracle)(nameless)
