from __future__ import annotations

import pytest

import cases
from sparsedict.types import EncoderDecoder


@pytest.mark.parametrize("kind", cases.KINDS)
def test_dictionaries_encode_and_decode(kind: str) -> None:
    assert isinstance(cases.make(kind), EncoderDecoder)
