from collections.abc import Iterator

import pytest
import torch

from sparsedict.kernels._positions import MIN_WORDS, WORD, positions_above, positions_where


@pytest.fixture(params=[1, 2], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Words are looked at with several threads alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("density", [0.0, 0.001, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (MIN_WORDS, WORD), (MIN_WORDS, WORD + 1), (64, 2 * MIN_WORDS)])
def test_positions_are_those_of_true_entries_whether_found_by_words_or_one_by_one(
    shape: tuple[int, ...], density: float
):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density
    assert torch.equal(positions_where(mask), mask.flatten().nonzero().flatten())


def test_a_mask_that_is_a_view_is_searched_as_it_looks():
    mask = torch.rand(2 * WORD, 2 * MIN_WORDS, generator=torch.Generator().manual_seed(0)) < 0.01
    shifted = mask.view(-1)[1 : 1 - WORD]
    for view in (mask.T, mask[:, 1:], mask[:, ::2], mask[1:], shifted):
        assert torch.equal(positions_where(view), view.flatten().nonzero().flatten())


def test_nan_is_above_every_threshold():
    entries = torch.zeros(4, 2 * MIN_WORDS * WORD)
    entries[1, 3], entries[2, 5], entries[3, 7] = torch.nan, torch.inf, 0.5
    flat = positions_above(entries, torch.tensor(0.5))
    assert torch.equal(flat, torch.tensor([entries.shape[1] + 3, 2 * entries.shape[1] + 5]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_may_have_thresholds_of_their_own(dtype: torch.dtype):
    entries = torch.rand(8, MIN_WORDS * WORD // 4, generator=torch.Generator().manual_seed(0), dtype=dtype)
    thresholds = torch.linspace(0.9, 1.0, 8, dtype=dtype)[:, None]
    assert torch.equal(positions_above(entries, thresholds), (entries > thresholds).flatten().nonzero().flatten())
