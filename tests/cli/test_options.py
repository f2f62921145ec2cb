from __future__ import annotations

import argparse
from datetime import timedelta
from pathlib import Path

import pytest

from sparsedict.cli import _train_options
from sparsedict.cli._options import count, every, folder, positive, share, whole
from sparsedict.studies import _recipe


@pytest.mark.parametrize("text", ["2000000", "2_000_000", "2,000,000", "2e6", "2M", "2m", "2000k", "0.002B"])
def test_ways_to_write_a_number(text: str) -> None:
    assert count(text) == 2_000_000


@pytest.mark.parametrize("text", ["", "k", "0", "-3", "1.5", "nan", "inf", "1e400", "many", "0.0001k"])
def test_values_that_are_no_counts_raise(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a positive integer"):
        count(text)


def test_folders() -> None:
    assert folder("a b") == Path("a b")
    for wrong in ("", " "):
        with pytest.raises(argparse.ArgumentTypeError, match="must be the path of a folder"):
            folder(wrong)


def test_shares() -> None:
    assert share("0.25") == 0.25
    for wrong in ("0", "1", "-0.1", "x", "nan"):
        with pytest.raises(argparse.ArgumentTypeError, match="between 0 and 1"):
            share(wrong)


def test_how_often() -> None:
    assert every("1_000") == 1000
    assert [every(text) for text in ("30s", "1.5m", "2h")] == [timedelta(seconds=n) for n in (30, 90, 7200)]
    for wrong in ("0", "-1", "0s", "5x", "m", "", "1e400s", "nanm"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be steps such as 1000, or a time"):
            every(wrong)


def test_numbers_in_a_range() -> None:
    assert (whole(0, 9)("7"), positive("0.5")) == (7, 0.5)
    for wrong in ("-1", "10", "x", "1.5"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be an integer from 0 to 9"):
            whole(0, 9)(wrong)
    for wrong in ("0", "-1", "nan", "inf", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be a positive number"):
            positive(wrong)


def test_the_defaults_that_help_shows_are_those_of_the_recipes() -> None:
    assert _recipe.BATCH_SIZE == _train_options.BATCH_SIZE
    assert _recipe.ACTIVATION.k == _train_options.K
