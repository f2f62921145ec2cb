"""Every token has a class that describes it, in any script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedict.analysis.scores import token_class


@pytest.mark.parametrize(
    ("expected", "strings"),
    [
        ("a word without case", ["日本", " שלום", "हिन्दी", "三", "ไทย"]),
        ("a lower-case word", [" e\u0301te", "straße", "\u202eabc"]),
        ("a capitalised word", ["Über", "\u01c5en", "Привет"]),
        ("an upper-case word", ["ΑΒΓ"]),
        ("a word of mixed case", ["iPhone"]),
        ("a number", ["½", "٣"]),
        ("a symbol", ["😀", "😀\ufe0f", "→", "€", "\ufffd", "\ue000"]),
        ("a combining mark", ["\u0301", "\ufe0f"]),
        ("an invisible character", ["\u200b", "\x00"]),
        ("a quotation mark", ["“", "«", "„", "'"]),
        ("a bracket", ["\N{FULLWIDTH LEFT PARENTHESIS}", "【", "<>"]),
        ("punctuation", ["。", "...", "+=", "_", "$"]),
    ],
)
def test_tokens_of_other_scripts_have_the_class_of_their_kind(expected: str, strings: list[str]) -> None:
    assert {string: token_class(string) for string in strings} == dict.fromkeys(strings, expected)


@given(st.text(st.characters(categories=["Lo", "Mn", "Lm"]), min_size=1, max_size=6))
def test_words_without_case_have_no_class_of_case(text: str) -> None:
    if text.upper() == text.lower():
        assert token_class(text) not in ("a word of mixed case", "a lower-case word", "punctuation")
