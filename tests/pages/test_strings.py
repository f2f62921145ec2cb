from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsedict import pages, zoo
from sparsedict.analysis import LatentRecords, collect, scores
from sparsedict.pages import token_strings
from sparsedict.pages._strings import visible
from sparsedict.sites import Site


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_visible_strings_are_printable(text: str) -> None:
    shown = visible(text)
    assert shown
    assert shown.isprintable()
    assert not shown.endswith(" ")


def test_a_tokenizers_strings_join_to_the_text() -> None:
    tokenizer = zoo.load_tokenizer()
    text = "def f(x):\n\treturn  x + 1  # done\n"
    assert "".join(token_strings(tokenizer)(tokenizer(text, add_special_tokens=False)["input_ids"])) == text


def test_a_part_of_a_character_is_not_a_question_mark() -> None:
    tokenizer = zoo.load_tokenizer()
    strings = token_strings(tokenizer)(tokenizer("\N{SNOWMAN}", add_special_tokens=False)["input_ids"])
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(strings)


class SentencePieceLike:
    def convert_ids_to_tokens(self, token: int) -> str | None:
        return ["▁the", "re", "<0x0A>"][token] if token < 3 else None

    def decode(self, tokens: list[int], **_: object) -> str:
        return ["the", "re", "\n"][tokens[0]]


def test_the_space_of_a_words_beginning_is_kept() -> None:
    assert token_strings(SentencePieceLike())([0, 1, 2, 3]) == [" the", "re", "\n", "[3]"]


class Texts:
    def __call__(self, ids: Sequence[int]) -> list[str]:
        return [f"t{token}" for token in ids]


@pytest.mark.parametrize("source", [Texts(), Texts().__call__, partial(lambda _, ids: Texts()(ids), 1)])
def test_anything_that_can_be_called_is_a_function(source: Any) -> None:
    assert token_strings(source)([3, 1]) == ["t3", "t1"]


WRONG: dict[str, tuple[Any, str]] = {
    "too few": (lambda ids: ["x"], r"`{}` must return one text for each id, got 1 for \d+ ids"),
    "None": (lambda ids: [None] * len(ids), r"`{}` must return one text for each id, got None for id \d+"),
    "text": (lambda ids: "x" * len(ids), r"`{}` must return a list of one text for each id, got 'x+"),
}
CALLS: dict[str, tuple[str, Callable[[Any, Path], object]]] = {
    "token_strings": ("source", lambda f, _: token_strings(f)([1, 2])),
    "write": ("tokenizer", lambda f, path: _write(path / "pages", f)),
    "latent": ("strings", lambda f, _: pages.latent(_records(), 3, strings=f)),
    "rating_set": ("strings", lambda f, _: pages.rating.rating_set({"a": _records()}, strings=f, min_examples=1)),
    "write_parquet": (
        "strings",
        lambda f, path: pages.exports.write_parquet(path / "a.parquet", {"a": _records()}, strings=f),
    ),
    "record": (
        "strings",
        lambda f, _: scores.record(_site(), _site().neurons, torch.ones(1, 4).long(), strings=f).strings([1, 2]),
    ),
}


@cache
def _site() -> Site:
    return Site(zoo.load_model(), "transformer.h.0.mlp")


@cache
def _records() -> LatentRecords:
    tokens = zoo.tokens("evaluation", n_tokens=256)
    return collect(_site(), {"neurons": _site().neurons}, tokens, progress=False)["neurons"]


def _write(path: Path, tokenizer: Any) -> None:
    pages.write(path, _site(), {"a": _site().neurons}, records={"a": _records()}, tokenizer=tokenizer, progress=False)


@pytest.mark.as_installed
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("call", CALLS)
def test_a_function_that_returns_other_things_is_an_error(call: str, wrong: str, tmp_path: Path) -> None:
    name, run = CALLS[call]
    given, message = WRONG[wrong]
    with pytest.raises((TypeError, ValueError), match=message.replace("{}", name)):
        run(given, tmp_path)


@pytest.mark.as_installed
def test_a_latent_takes_a_vocabulary() -> None:
    assert "word7" in pages.latent(_records(), 3, strings=[f"word{i}" for i in range(5000)]).html  # type: ignore[arg-type]


@pytest.mark.as_installed
def test_rejects_other_things() -> None:
    for wrong in ("abc", 3, [1, 2]):
        with pytest.raises(TypeError, match=r"`source` must be a tokenizer, a list of strings"):
            token_strings(wrong)
