from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsedict as sd


@given(k=st.integers(1, 5), size=st.integers(1, 6), seed=st.integers(0, 1000))
def test_each_group_gives_its_largest(k: int, size: int, seed: int) -> None:
    pre = torch.randn(7, k * size, generator=torch.Generator().manual_seed(seed))
    support = sd.GroupMax(k).support(pre, {}, training=False)
    chosen = support.latents.view(7, k)
    assert torch.equal(chosen // size, torch.arange(k).expand(7, k))
    assert torch.equal(pre.gather(1, chosen), pre.view(7, k, size).amax(-1))


def test_of_equal_ones_the_first_is_taken() -> None:
    support = sd.GroupMax(2).support(torch.ones(3, 8), {}, training=False)
    assert support.latents.tolist() == [0, 4] * 3


def test_groups_must_be_of_one_size() -> None:
    with pytest.raises(ValueError, match="`k` must divide `n_latents`, got k=5 for 12"):
        sd.SparseAutoencoder(4, 12, activation=sd.GroupMax(5), decoder_norm=sd.UnitNorm())
