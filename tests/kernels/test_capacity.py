"""Selection within a capacity, computed by Triton's kernels as on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import sparsedict as sd
from sparsedict import kernels
from sparsedict.kernels import Capacity, _embedding_bag, can_select_within, select_within
from sparsedict.kernels._capacity import MIN_CAPACITY
from sparsedict.selections import Above, Largest, LargestOfBatch, Selection

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _triton(_seed: None, interpreter: None) -> Iterator[None]:
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
    rule, capacity, pre = Above(threshold), Capacity(0.2), inputs @ rows.T + bias
    picked = select_within(capacity, inputs, rows, bias, rule)
    check_picked(picked, rule.support(pre), pre)
    support, values = picked
    assert (values[~support.is_stored] < threshold.flatten()[0].to(DEVICE)).all()
    assert capacity.was_sufficient()
    assert capacity.density == rule.support(pre).n_entries / pre.numel()


def test_nan_counts_as_greater() -> None:
    inputs, rows, bias = problem()
    inputs[2] = torch.nan
    capacity = Capacity(0.2)
    picked = select_within(capacity, inputs, rows, bias, Above(torch.tensor(1e9)))
    assert picked[0].offsets.tolist() == [0, 0, 0, 40, 40, 40]
    assert picked[1][:40].isnan().all()


def test_a_threshold_is_not_rounded_to_the_type_of_the_products() -> None:
    """As the activation compares: 1 + 2^-7 exceeds a threshold that bfloat16 rounds up to it."""
    inputs, rows = torch.ones(1, 1, device=DEVICE), torch.ones(2, 1, device=DEVICE)
    bias = torch.tensor([2.0**-7, 0.0], device=DEVICE)
    threshold = torch.full((2,), 1 + 0.9 * 2.0**-7, device=DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        picked = select_within(Capacity(0.1), inputs, rows, bias, Above(threshold))
    assert picked[0].offsets.tolist() == [0, 1]
    assert float(picked[1][0]) == 1 + 2.0**-7


def test_blocks_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsedict.kernels._capacity.BLOCK_ENTRIES", 80)
    inputs, rows, bias = problem()
    rule, pre = Above(torch.tensor(1.0)), inputs @ rows.T + bias
    picked = select_within(Capacity(0.3), inputs, rows, bias, rule)
    check_picked(picked, rule.support(pre), pre)


def test_entries_that_do_not_fit_are_reported_and_stay_within_their_memory() -> None:
    inputs, rows, bias = problem(30, 100)
    capacity, pre = Capacity(0.01), inputs @ rows.T + bias
    picked = select_within(capacity, inputs, rows, bias, Above(torch.tensor(-1.0)))
    assert picked[0].n_entries == MIN_CAPACITY < (pre > -1).sum()
    assert int(picked[0].offsets[-1]) == MIN_CAPACITY
    assert not capacity.was_sufficient()
    assert capacity.density == float((pre > -1).sum()) / pre.numel()


@pytest.mark.parametrize(
    ("capacity", "rule", "max_entries", "wanted"),
    [
        (Capacity(0.4), Above(torch.zeros(())), 100, True),
        (Capacity(0.41), Above(torch.zeros(())), 100, False),
        (Capacity(1.0), LargestOfBatch(3), 0, True),
        (Capacity(0.1), Largest(3), 100, False),
        (Capacity(0.1), None, 100, False),
        (None, Above(torch.zeros(())), 100, False),
    ],
)
def test_rules_that_select_within_a_capacity(
    capacity: Capacity | None, rule: Selection | None, max_entries: int, wanted: bool
) -> None:
    """A quarter more entries than in the step before are expected, of 200."""
    assert can_select_within(capacity, rule, torch.device(DEVICE), total=200, max_entries=max_entries) == wanted


def test_the_embedding_bag_selects_within_no_capacity() -> None:
    with kernels.using(_embedding_bag):
        assert not can_select_within(
            Capacity(0.1), Above(torch.zeros(())), torch.device("cpu"), total=200, max_entries=100
        )


@pytest.mark.parametrize("guess", [None, torch.nan, 0.5, 2.0])
def test_largest_of_a_batch(guess: float | None) -> None:
    inputs, rows, bias = problem(n_latents=41)
    pre = inputs @ rows.T + bias
    rule = LargestOfBatch(3, None if guess is None else torch.tensor(guess, device=DEVICE))
    capacity = Capacity(1.0)
    picked = select_within(capacity, inputs, rows, bias, rule)
    n_above = int((pre > (0.0 if guess is None or guess != guess else 0.8 * guess)).sum())
    assert capacity.was_sufficient() == (15 <= n_above <= 30)
    if 15 <= n_above <= 30:
        check_picked(picked, rule.support(pre), pre)
    assert capacity.density == 1.0


def test_fewer_positive_entries_than_wanted_are_all_of_them() -> None:
    inputs, rows, bias = problem()
    bias -= 6.5
    rule, capacity, pre = LargestOfBatch(3), Capacity(1.0), inputs @ rows.T + bias
    picked = select_within(capacity, inputs, rows, bias, rule)
    assert capacity.was_sufficient()
    assert 0 < rule.support(pre).n_entries < 15
    check_picked(picked, rule.support(pre), pre)
    assert (picked[1][~picked[0].is_stored] <= 0).all()
