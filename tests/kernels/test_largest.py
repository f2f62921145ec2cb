from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsedict.kernels._largest import is_searched, largest, largest_of_all, largest_stored, within_reach
from sparsedict.kernels._positions import positions_above, positions_where
from sparsedict.latents import Support
from sparsedict.selections import Largest


@given(
    n_tokens=st.integers(0, 9),
    n_latents=st.sampled_from([1, 5, 16, 64, 96, 97, 256, 509, 1024]),
    k=st.integers(1, 20),
    n_levels=st.sampled_from([1, 3, 10_000]),
    lowest_ties=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_the_tournament_finds_the_largest(
    n_tokens: int, n_latents: int, k: int, n_levels: int, lowest_ties: bool, seed: int
) -> None:
    k = min(k, n_latents)
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randint(-n_levels, n_levels + 1, (n_tokens, n_latents), generator=generator).float()
    indices, values = largest(pre, k, lowest_ties=lowest_ties)
    assert torch.equal(values, pre.gather(1, indices))
    assert torch.equal(values.sort(-1).values, pre.topk(k).values.sort(-1).values)
    assert (indices.sort(-1).values.diff(dim=-1) > 0).all()
    if lowest_ties:
        active = values > 0
        meant = Largest(k, lowest_ties=True).support(pre).latents.view(n_tokens, k)
        meant_active = pre.gather(1, meant) > 0
        for row in range(n_tokens):
            assert set(indices[row, active[row]].tolist()) == set(meant[row, meant_active[row]].tolist())


@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 2**20))
def test_as_many_entries_as_wanted_are_within_reach(n_latents: int, k: int, seed: int) -> None:
    pre = torch.randn(3, n_latents, generator=torch.Generator().manual_seed(seed))
    reach = within_reach(pre, k)
    assert (reach is not None) == is_searched(n_latents, k)
    if reach is not None:
        assert ((pre >= reach[:, None]).sum(-1) >= k).all()


def test_the_largest_of_all_come_ascending() -> None:
    values = torch.tensor([3.0, 9.0, 1.0, 7.0])
    assert largest_of_all(values, 2).tolist() == [1, 3]
    assert largest_of_all(values, 4).tolist() == [0, 1, 2, 3]


@given(st.integers(0, 9), st.integers(0, 40), st.sampled_from([0.0, 0.02, 0.5, 1.0]), st.integers(0, 2**20))
def test_positions_of_true_entries(n_rows: int, width: int, share: float, seed: int) -> None:
    values = torch.rand(n_rows, width, generator=torch.Generator().manual_seed(seed))
    where = (values > share).flatten().nonzero().flatten()
    assert torch.equal(positions_where(values > share), where)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(positions_above(values.to(dtype), torch.tensor(share)), where)


def test_nan_is_above_everything() -> None:
    values = torch.tensor([[1.0, torch.nan, 3.0]])
    for dtype in (torch.float32, torch.bfloat16):
        assert positions_above(values.to(dtype), torch.tensor(2.0)).tolist() == [1, 2]


def test_a_row_that_has_too_many_does_not_make_up_for_one_that_has_too_few() -> None:
    rows = torch.tensor([[torch.nan, 5.0, 4.0], [7.0, 7.0, 7.0], [1.0, 3.0, 2.0]])
    support = Support.from_mask(torch.ones(3, 3, dtype=torch.bool))
    indices, values = largest_stored(rows.flatten(), support, 2)
    assert indices.shape == (3, 2)
    assert set(indices[0].tolist()) == {0, 1}
    assert values[1].tolist() == [7.0, 7.0]
    assert len(set(indices[1].tolist())) == 2
    assert set(indices[2].tolist()) == {1, 2}


def test_nan_is_not_replaced_by_ties() -> None:
    values = torch.tensor([torch.nan, 5.0, 3.0, 3.0, 1.0, 1.0])
    support = Support.from_indices(torch.arange(6)[None], 6)
    indices, found = largest_stored(values, support, 3)
    assert set(indices[0].tolist()) in ({0, 1, 2}, {0, 1, 3})
    assert found.isnan().sum() == 1


@pytest.mark.parametrize("lowest_ties", [True, False])
def test_a_row_of_equal_entries_leaves_the_others_narrow(lowest_ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pre = torch.randn(40, 4096, generator=torch.Generator().manual_seed(0))
    pre[7] = 0.5
    widths = []
    partition = np.partition

    def watched(array: Any, *args: Any, **kwargs: Any) -> Any:
        widths.append(array.shape)
        return partition(array, *args, **kwargs)

    monkeypatch.setattr(np, "partition", watched)
    indices, values = largest(pre, 4, lowest_ties=lowest_ties)
    assert torch.equal(values, pre.gather(1, indices))
    assert torch.equal(values.sort(-1).values, pre.topk(4).values.sort(-1).values)
    assert all(rows == 1 or width <= 16 * 4 for rows, width in widths)
    if lowest_ties:
        assert set(indices[7].tolist()) == {0, 1, 2, 3}
