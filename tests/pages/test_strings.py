from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedict import zoo
from sparsedict.pages import token_strings
from sparsedict.pages._strings import visible


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


@pytest.mark.as_installed
def test_rejects_other_things() -> None:
    for wrong in ("abc", 3, [1, 2]):
        with pytest.raises(TypeError, match=r"`source` must be a tokenizer, a list of strings"):
            token_strings(wrong)
