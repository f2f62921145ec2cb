from __future__ import annotations

import pytest
import torch

from sparsedict.data import SyntheticFeatures


def test_activations_are_sparse_sums_of_unit_features() -> None:
    truth = SyntheticFeatures(8, 32, 2, seed=1)
    batch, codes = truth.sample(4000, seed=2)
    assert torch.allclose(batch.inputs, codes @ truth.reads, atol=1e-5)
    assert torch.allclose(batch.outputs, codes @ truth.writes, atol=1e-5)
    for directions in (truth.reads, truth.writes):
        assert torch.allclose(directions.norm(dim=-1), torch.ones(32))
    assert (codes > 0).sum(-1).float().mean().item() == pytest.approx(2, abs=0.1)


def test_seeds_decide_features_and_rows_apart() -> None:
    a, b = SyntheticFeatures(4, 8, 1, seed=0), SyntheticFeatures(4, 8, 1, seed=1)
    assert torch.equal(a.reads, SyntheticFeatures(4, 8, 1, seed=0).reads)
    assert not torch.equal(a.reads, b.reads)
    assert torch.equal(a.sample(10, 3)[1], b.sample(10, 3)[1])
    assert not torch.equal(a.sample(10, 3)[1], a.sample(10, 4)[1])


def test_noise_is_in_the_inputs_only() -> None:
    truth = SyntheticFeatures(4, 8, 1, noise=0.5)
    batch, codes = truth.sample(4000)
    assert (batch.inputs - codes @ truth.reads).std().item() == pytest.approx(0.5, abs=0.02)
    assert torch.allclose(batch.outputs, codes @ truth.writes, atol=1e-5)


def test_more_active_features_than_there_are_raises() -> None:
    with pytest.raises(ValueError, match=r"`l0` must lie in \(0, 8\], got 9"):
        SyntheticFeatures(4, 8, 9)
