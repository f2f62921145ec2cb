"""`token_class`, a coarse class of a token by its string."""

from __future__ import annotations

import string as ascii_characters
from unicodedata import category

from sparsedict import checks

_QUOTES = frozenset("\"'`\N{DOUBLE LOW-9 QUOTATION MARK}\N{SINGLE LOW-9 QUOTATION MARK}")


def token_class(string: str) -> str:
    """Returns a class of a token: white space, a number, a word by its case, a kind of punctuation, or mixed.

    Words of scripts without case have their own class. Combining marks and invisible characters count only in a token
    that has nothing else.

    Example:
        >>> [token_class(string) for string in (" the", "The", "FOO", "_x", "12", "\\n ", "  ", "(", "+=", "a1")]
        ['a lower-case word', 'a capitalised word', 'an upper-case word', 'a name with an underscore', 'a number', \
'a line break', 'white space', 'a bracket', 'punctuation', 'mixed characters']
        >>> [token_class(string) for string in ("日本", "😀", "«")]
        ['a word without case', 'a symbol', 'a quotation mark']
    """
    checks.instance("string", string, str, "the text of a token")
    visible = string.strip()
    if not visible:
        return "a line break" if "\n" in string or "\r" in string else "white space"
    text = "".join(character for character in visible if not _is_extra(character)).strip()
    if not text:
        is_mark = any(category(character).startswith("M") for character in visible)
        return "a combining mark" if is_mark else "an invisible character"
    if text.isalpha():
        return _case(text)
    if text.isnumeric():
        return "a number"
    if "_" in text and text.replace("_", "").isalnum():
        return "a name with an underscore"
    if any(character.isalnum() for character in text):
        return "mixed characters"
    return _punctuation(text)


def _is_extra(character: str) -> bool:
    """Returns whether a character is drawn on the preceding one or not at all."""
    return category(character)[0] == "M" or category(character) in ("Cc", "Cf")


def _case(word: str) -> str:
    if word.lower() == word.upper():
        return "a word without case"
    if word.isupper() and len(word) > 1:
        return "an upper-case word"
    if word[0].istitle() and word[1:] == word[1:].lower():
        return "a capitalised word"
    return "a lower-case word" if word.islower() else "a word of mixed case"


def _punctuation(text: str) -> str:
    pairs = [(character, category(character)) for character in text]
    if all(c in _QUOTES or own in ("Pi", "Pf") for c, own in pairs):
        return "a quotation mark"
    if all(c in "<>" or own in ("Ps", "Pe") for c, own in pairs):
        return "a bracket"
    is_symbol = any(own[0] in "SC" and c not in ascii_characters.punctuation for c, own in pairs)
    return "a symbol" if is_symbol else "punctuation"
