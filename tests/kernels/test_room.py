"""Steps that don't know how many entries they store are computed with Triton's kernels, as on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import sparsedict as sd
from sparsedict import kernels
from sparsedict.kernels import Room, select_in_room
from sparsedict.kernels._room import LEAST_ROOM
from sparsedict.selections import Above, LargestOfBatch

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _triton(_seed: None) -> Iterator[None]:
    with kernels.using(kernels.triton_backend()):
        yield


def problem(n_tokens: int = 5, n_latents: int = 40, d: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64).to(DEVICE)

    return random(n_tokens, d), random(n_latents, d), random(n_latents)


def check_picked(picked: tuple[sd.Support, Tensor], wanted: sd.Support, pre: Tensor) -> None:
    support, values = picked
    n = wanted.n_entries
    assert support.has_padding
    assert torch.equal(support.offsets, wanted.offsets)
    assert torch.equal(support.latents[:n], wanted.latents)
    torch.testing.assert_close(values[:n], pre[wanted.tokens, wanted.latents])


@pytest.mark.parametrize("per_latent", [False, True])
def test_entries_above_a_threshold(per_latent: bool) -> None:
    inputs, rows, bias = problem()
    threshold = torch.rand(40, dtype=torch.float64).to(DEVICE) + 2 if per_latent else torch.tensor(2.5)
    inputs[0, 0], bias[0] = 0.0, -1000.0
    rule, room, pre = Above(threshold), Room(0.2), inputs @ rows.T + bias
    with room.used():
        picked = select_in_room(inputs, rows, bias, rule, most=200)
    assert picked is not None
    check_picked(picked, rule.support(pre), pre)
    support, values = picked
    assert (values[~support.is_stored] < threshold.flatten()[0].to(DEVICE)).all()
    assert room.sufficed()
    assert room.density == rule.support(pre).n_entries / pre.numel()


def test_nan_counts_as_greater() -> None:
    inputs, rows, bias = problem()
    inputs[2] = torch.nan
    room = Room(0.2)
    with room.used():
        picked = select_in_room(inputs, rows, bias, Above(torch.tensor(1e9)), most=200)
    assert picked is not None
    assert picked[0].offsets.tolist() == [0, 0, 0, 40, 40, 40]
    assert picked[1][:40].isnan().all()


def test_a_threshold_is_not_rounded_to_the_type_of_the_products() -> None:
    """As the activation compares: 1 + 2^-7 exceeds a threshold that bfloat16 rounds up to it."""
    inputs, rows = torch.ones(1, 1, device=DEVICE), torch.ones(2, 1, device=DEVICE)
    bias = torch.tensor([2.0**-7, 0.0], device=DEVICE)
    threshold = torch.full((2,), 1 + 0.9 * 2.0**-7, device=DEVICE)
    with Room(0.1).used(), torch.autocast(DEVICE, torch.bfloat16):
        picked = select_in_room(inputs, rows, bias, Above(threshold), most=2)
    assert picked is not None
    assert picked[0].offsets.tolist() == [0, 1]
    assert float(picked[1][0]) == 1 + 2.0**-7


def test_blocks_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsedict.kernels._room.BLOCK_ENTRIES", 80)
    inputs, rows, bias = problem()
    rule, pre = Above(torch.tensor(1.0)), inputs @ rows.T + bias
    with Room(0.3).used():
        picked = select_in_room(inputs, rows, bias, rule, most=200)
    assert picked is not None
    check_picked(picked, rule.support(pre), pre)


def test_entries_that_do_not_fit_are_told_and_stay_within_their_memory() -> None:
    inputs, rows, bias = problem(30, 100)
    room, pre = Room(0.01), inputs @ rows.T + bias
    with room.used():
        picked = select_in_room(inputs, rows, bias, Above(torch.tensor(-1.0)), most=3000)
    assert picked is not None
    assert picked[0].n_entries == LEAST_ROOM < (pre > -1).sum()
    assert int(picked[0].offsets[-1]) == LEAST_ROOM
    assert not room.sufficed()
    assert room.density == float((pre > -1).sum()) / pre.numel()


def test_many_entries_are_left_to_dense_products() -> None:
    with Room(0.9).used():
        assert select_in_room(*problem(), Above(torch.zeros(())), most=100) is None


def test_without_room_nothing_is_chosen() -> None:
    assert select_in_room(*problem(), Above(torch.zeros(())), most=200) is None


@pytest.mark.parametrize("guess", [None, torch.nan, 0.5, 2.0])
def test_largest_of_a_batch(guess: float | None) -> None:
    inputs, rows, bias = problem(n_latents=41)
    pre = inputs @ rows.T + bias
    rule = LargestOfBatch(3, None if guess is None else torch.tensor(guess, device=DEVICE))
    room = Room(1.0)
    with room.used():
        picked = select_in_room(inputs, rows, bias, rule, most=0)
    assert picked is not None
    n_above = int((pre > (0.0 if guess is None or guess != guess else 0.8 * guess)).sum())
    assert room.sufficed() == (15 <= n_above <= 30)
    if 15 <= n_above <= 30:
        check_picked(picked, rule.support(pre), pre)
    assert room.density == 1.0


def test_fewer_positive_entries_than_wanted_are_all_of_them() -> None:
    inputs, rows, bias = problem()
    bias -= 6.5
    rule, room, pre = LargestOfBatch(3), Room(1.0), inputs @ rows.T + bias
    with room.used():
        picked = select_in_room(inputs, rows, bias, rule, most=0)
    assert picked is not None
    assert room.sufficed()
    assert 0 < rule.support(pre).n_entries < 15
    check_picked(picked, rule.support(pre), pre)
    assert (picked[1][~picked[0].is_stored] <= 0).all()
