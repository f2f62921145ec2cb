"""`token_class`, a coarse class of a token by its string."""

from __future__ import annotations

from sparsedict import checks


def token_class(string: str) -> str:
    """Returns a class of a token: white space, a number, a word by its case, a kind of punctuation, or mixed.

    Example:
        >>> [token_class(string) for string in (" the", "The", "FOO", "_x", "12", "\\n ", "  ", "(", "+=", "a1")]
        ['a lower-case word', 'a capitalised word', 'an upper-case word', 'a name with an underscore', 'a number', \
'a line break', 'white space', 'a bracket', 'punctuation', 'mixed characters']
    """
    checks.instance("string", string, str, "the text of a token")
    text = string.strip()
    if not text:
        return "a line break" if "\n" in string or "\r" in string else "white space"
    if text.isdigit():
        return "a number"
    if text.isalpha():
        return _case(text)
    if "_" in text and text.replace("_", "").isalnum():
        return "a name with an underscore"
    if any(character.isalnum() for character in text):
        return "mixed characters"
    if all(character in "()[]{}<>" for character in text):
        return "a bracket"
    return "a quotation mark" if all(character in "\"'`" for character in text) else "punctuation"


def _case(word: str) -> str:
    if word.isupper() and len(word) > 1:
        return "an upper-case word"
    if word[0].isupper() and word[1:] == word[1:].lower():
        return "a capitalised word"
    return "a lower-case word" if word.islower() else "a word of mixed case"
