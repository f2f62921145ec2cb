"""Conversion of token ids to text, with visible white space."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

from sparsedict import checks

TokenStrings = Callable[[Sequence[int]], list[str]]
"""Returns the text of each token id."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
MAX_DOTS = 12


def token_strings(source: Any = None) -> TokenStrings:
    """Returns a function that converts token ids to the text of each token.

    Args:
        source: A Hugging Face tokenizer, a list of the strings of a vocabulary, such a function, or ``None`` to show
            tokens as numbers. The results of a function are checked at each call.

    Raises:
        TypeError: If ``source`` has another type.

    Example:
        >>> token_strings(["a", "<0x0A>"])([1, 0, 7])
        ['\\n', 'a', '[7]']
    """
    return strings_of("source", source)


def strings_of(name: str, source: Any) -> TokenStrings:
    """Returns the function of `token_strings`.

    Args:
        name: Name of the argument, for messages.
        source: See `token_strings`.

    Raises:
        TypeError: If ``source`` has another type.
    """
    if source is None:
        return lambda ids: [f"[{token}]" for token in ids]
    if hasattr(source, "convert_ids_to_tokens") and hasattr(source, "decode"):
        # Decoding takes microseconds for each token, and pages show the same tokens many times.
        decoded = cache(partial(_decoded, source))
        return lambda ids: [decoded(int(token)) for token in ids]
    if isinstance(source, Sequence) and not isinstance(source, str) and all(isinstance(item, str) for item in source):
        vocabulary = [_from_byte(item) for item in source]
        return lambda ids: [vocabulary[i] if 0 <= i < len(vocabulary) else f"[{i}]" for i in ids]
    if callable(source) and not isinstance(source, type):
        return checks.token_texts(name, source)
    raise TypeError(
        f"`{name}` must be a tokenizer, a list of strings by token id, a function or None, got {type(source).__name__}."
    )


def visible(text: str) -> str:
    """Replaces invisible characters by symbols: line breaks, tabs, control characters and trailing spaces.

    Characters that change the direction of text, join others or have no width are shown as their number, as are lone
    surrogates. A mark at the beginning, which would be drawn on the preceding token, gets a dotted circle.

    Example:
        >>> visible("\\n    "), visible(" the"), visible(""), visible("\\u200b")
        ('↵····', ' the', '∅', '\\\\u{200b}')
    """
    if not text:
        return "∅"
    shown = "".join(_MARKS.get(character, character) for character in text)
    shown = "".join(c if c.isprintable() and c not in _BLANK else _number(c) for c in shown)
    if unicodedata.category(shown[0]) in ("Mn", "Mc", "Me"):
        shown = f"\N{DOTTED CIRCLE}{shown}"
    # A leading space is visible as a gap before the word. Trailing spaces aren't visible.
    return re.sub(r" +$|(?<=[↵→]) +", lambda spaces: _dots(len(spaces[0])), shown)


_MARKS = {"\n": "↵", "\t": "→", "\r": "␍", "\N{NO-BREAK SPACE}": "⍽"}

_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10))))
"""Characters that count as printable, but have no width or no ink."""


def _number(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{{{code:x}}}"


def _dots(n: int) -> str:
    return "·" * n if n <= MAX_DOTS else f"·\N{MULTIPLICATION SIGN}{n}"


def _from_byte(token: str) -> str:
    byte = _BYTE.fullmatch(token)
    return chr(int(byte[1], 16)) if byte and int(byte[1], 16) < 128 else token


def _decoded(tokenizer: Any, token: int) -> str:
    raw = tokenizer.convert_ids_to_tokens(token)
    if not isinstance(raw, str):
        return f"[{token}]"
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    if "\N{REPLACEMENT CHARACTER}" in text:
        # The token is a part of a character, so the bytes of the vocabulary are shown.
        return _from_byte(raw)
    # Decoding a single token drops the leading space of SentencePiece.
    return f" {text}" if raw.startswith("▁") and not text.startswith(" ") else text
