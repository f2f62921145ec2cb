"""Training on two gloo ranks gives the result of one process; errors, signals and checkpoints are common to all ranks.

The ranks are started once, and run all cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sparsedict as sd
from parallel._cases import DATA, DIVIDED, SAME, alone, new, run_rank
from parallel._cases import _checkpointed as checkpointed
from ranks import run_ranks
from sparsedict.parallel import Alone, DataParallel, order_of_parts

Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> Results:
    """The results of all cases on each of two ranks."""
    checkpointed(Alone(), folder / "from_one", 5)
    # The forked ranks have the modules, and the functions with checks, that this process makes at first use.
    for name in (*SAME, *DATA):
        alone(name)
    run_ranks(2, run_rank, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from leaves(inner, f"{path}.{name}")
        else:
            yield f"{path}.{name}", inner


def assert_same(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    found, expected = dict(leaves(found)), dict(leaves(expected))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", SAME)
def test_two_ranks_compute_what_one_process_computes(name: str, ranks: Results) -> None:
    for found in ranks:
        assert_same(found[name], alone(name))


@pytest.mark.parametrize("name", DATA)
def test_ranks_divide_all_forms_of_data(name: str, ranks: Results) -> None:
    expected = dict(alone(name))
    n_positions = expected.pop("n_positions", None)
    own = [found[name].pop("n_positions", None) for found in ranks]
    for found in ranks:
        assert_same(found[name], expected)
    if n_positions is not None:
        # Each rank runs the model on its own sequences only, apart from a few tokens by which a site is inspected.
        assert n_positions <= sum(own) < n_positions + 20
        assert max(own) < 0.75 * n_positions


def test_collectives(ranks: Results) -> None:
    found = [own["collectives"] for own in ranks]
    for own in found:
        assert own["rows"] == [0, 1, 2, 3, 4]
        assert own["uneven"] == [0, 1, 2]
        assert own["exchange"] == [(0, 7), (1, 7)]
        assert own["share"] == {"rank": 0}
        assert own["sum"] == [2, 1]
    # Of the equal values 2, that at the first position is among the largest: it is on rank 1.
    assert [own["largest"] for own in found] == [[True, False, False], [True, True]]
    assert all(all(own["fewer"]) for own in found)
    assert found[0]["failed"][0] == "ZeroDivisionError"
    assert found[1]["failed"][0] == "RankError"
    assert "Rank 0 failed: ZeroDivisionError" in found[1]["failed"][1]


def test_a_signal_to_one_rank_stops_all_after_a_checkpoint(ranks: Results) -> None:
    for own in ranks:
        assert own["stopped"]["stopped"][0] == "Terminated"
        assert "Stopped after step 6" in own["stopped"]["stopped"][1]
        assert own["stopped"]["steps"] == [4, 6]


def test_a_resumed_run_is_bit_identical(ranks: Results) -> None:
    for own in ranks:
        assert_same(own["stopped"]["resumed"], own["stopped"]["whole"], tolerance=0.0)


def test_any_number_of_ranks_resumes(ranks: Results, folder: Path) -> None:
    whole = ranks[0]["stopped"]["whole"]
    with pytest.warns(UserWarning, match="different environment: `ranks`"):
        assert_same(checkpointed(Alone(), folder / "for_others"), whole)
    for own in ranks:
        assert own["for_others"][0][0] == "Terminated"
        assert_same(own["for_others"][1], whole)


def test_nan_on_one_rank_restores_the_last_good_state_of_all(ranks: Results) -> None:
    (message, weights), (_, others) = (own["nan"] for own in ranks)
    assert "became NaN or infinite at step 4" in message
    assert "state after step 4" in message
    assert_same({"weights": others}, {"weights": weights}, tolerance=0.0)
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("other_call", ("Rank 1 failed: ValueError", "on rank 1, compared with rank 0, `optimizer.groups[0].lr` was")),
        ("disk", ("`checkpoint` must be a folder", "Rank 0 failed: NotADirectoryError")),
        ("small", ("`batch_size` must be at least the number of ranks, 2", "at least the number of ranks, 2")),
        ("differing", ("Rank 1 must have the same weights", "`encoder` differs after step 4")),
    ],
)
def test_errors_are_raised_on_all_ranks(name: str, texts: tuple[str, str], ranks: Results) -> None:
    for own, text in zip(ranks, texts, strict=True):
        assert text in own[name][1]


def test_callbacks_run_on_rank_0(ranks: Results) -> None:
    assert [own["callback"][0] for own in ranks] == [3, 0]
    assert ranks[0]["callback"][1] == ("RuntimeError", "no connection")
    assert "Rank 0 failed: RuntimeError: no connection" in ranks[1]["callback"][1][1]


def test_a_failed_rank_ends_all(ranks: Results) -> None:
    (first, then), (own, _) = (found["failed"] for found in ranks)
    assert own == ("ValueError", "this rank can't")
    assert first[0] == "RankError"
    assert "Rank 1 failed: ValueError: this rank can't" in first[1]
    assert "resume=True" in first[1]
    assert "a rank of it failed" in then[1]


@pytest.mark.parametrize(("sizes", "order"), [((3, 2), [0, 3, 1, 4, 2]), ((1, 4), [0, 1, 2, 3, 4]), ((2,), [0, 1])])
def test_the_order_of_parts(sizes: tuple[int, ...], order: list[int]) -> None:
    assert order_of_parts(sizes).tolist() == order


def test_data_parallel_needs_a_process_group() -> None:
    with pytest.raises(RuntimeError, match="torchrun"):
        DataParallel()
    with pytest.raises(RuntimeError, match="RANK, WORLD_SIZE"):
        DataParallel.from_environment()


def test_parallel_must_be_a_parallel() -> None:
    with pytest.raises(TypeError, match="parallel"):
        sd.fit(new(), torch.zeros(4, 6), n_tokens=4, parallel="ddp")  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_four_ranks_compute_what_one_process_computes(tmp_path: Path) -> None:
    run_ranks(4, partial(run_rank, names=DIVIDED), tmp_path)
    for rank in range(4):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for name in DIVIDED:
            for own in ("weights", "history"):
                assert_same(found[name][own], alone(name)[own])
