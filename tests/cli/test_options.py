from __future__ import annotations

import argparse

import pytest

from sparsedict.cli._options import count, share


@pytest.mark.parametrize("text", ["2000000", "2_000_000", "2,000,000", "2e6", "2M", "2m", "2000k", "0.002B"])
def test_ways_to_write_a_number(text: str) -> None:
    assert count(text) == 2_000_000


@pytest.mark.parametrize("text", ["", "k", "0", "-3", "1.5", "nan", "inf", "1e400", "many", "0.0001k"])
def test_refuses_what_is_no_count(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a positive whole number"):
        count(text)


def test_shares() -> None:
    assert share("0.25") == 0.25
    for wrong in ("0", "1", "-0.1", "x", "nan"):
        with pytest.raises(argparse.ArgumentTypeError, match="between 0 and 1"):
            share(wrong)
