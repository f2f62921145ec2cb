"""Code of the documentation and of examples, made to run on fewer tokens."""

from __future__ import annotations

import re

LONG = 4_000
"""Numbers of tokens from which a run is made shorter."""
SHORT = "2_048"


def shorter(code: str) -> str:
    """Returns code in which every ``n_tokens`` of at least `LONG` is `SHORT`.

    The README's code trains on all of its tokens, and its results are checked. The other pages and examples train the
    same kinds of dictionaries, so a short run finds the same errors.
    """
    return re.sub(r"(?<=\bn_tokens=)\d[\d_]*", lambda n: SHORT if int(n[0].replace("_", "")) >= LONG else n[0], code)
