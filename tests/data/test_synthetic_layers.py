from __future__ import annotations

import pytest
import torch

from sparsedict.data import SyntheticLayers


def test_outputs_are_sums_of_the_features_of_a_layer() -> None:
    truth = SyntheticLayers(32, 8, 3, seed=1)
    batch, codes = truth.sample(500, seed=2)
    for layer in range(3):
        of_layer = truth.layers == layer
        outputs = codes[:, of_layer] @ truth.writes[of_layer]
        torch.testing.assert_close(batch[f"{layer}.outputs"], outputs, rtol=0, atol=1e-5)
        if layer:
            before = batch[f"{layer - 1}.inputs"] + batch[f"{layer - 1}.outputs"]
            torch.testing.assert_close(batch[f"{layer}.inputs"], before, rtol=0, atol=1e-5)
    assert torch.allclose(truth.directions.norm(dim=-1), torch.ones(len(truth.directions)))


def test_a_feature_needs_both_of_its_parents() -> None:
    # With as many dimensions as features and orthogonal directions, no feature disturbs another.
    truth = SyntheticLayers(64, 4, 2, l0=2, seed=0)
    n_features = len(truth.directions)
    truth.directions = torch.eye(64)[:n_features]
    batch, codes = truth.sample(4000)
    given = batch["0.inputs"][:, : truth.n_given]
    strengths = torch.cat([given, codes], dim=1)
    for index, feature in enumerate(truth.features):
        a, b = strengths[:, feature.parents].unbind(1)
        a = a / 2 if feature.hops > 1 else a
        torch.testing.assert_close(codes[:, index], 2 * (a + b - 1.5).relu(), rtol=0, atol=1e-5)
        fires = codes[:, index] > 0
        assert fires.any()
        assert bool((a[fires] > 0).all() & (b[fires] > 0).all())


def test_chains_take_a_hop_more_in_each_layer() -> None:
    truth = SyntheticLayers(16, 6, 3)
    chains = [feature for feature in truth.features if feature.group < 3]
    single = [feature for feature in truth.features if feature.group >= 3]
    assert [feature.hops for feature in chains] == [feature.layer + 1 for feature in chains]
    assert {feature.hops for feature in single} == {1}
    for feature in chains:
        first = feature.parents[0]
        if feature.layer:
            before = truth.features[first - truth.n_given]
            assert (before.group, before.layer) == (feature.group, feature.layer - 1)
        else:
            assert first < truth.n_given
    assert all(max(feature.parents) < truth.n_given for feature in single)


def test_seeds_decide_directions_and_tokens_apart() -> None:
    truth = SyntheticLayers(8, 4, seed=0)
    assert torch.equal(truth.directions, SyntheticLayers(8, 4, seed=0).directions)
    assert not torch.equal(truth.directions, SyntheticLayers(8, 4, seed=1).directions)
    assert torch.equal(truth.sample(10, 3)[1], truth.sample(10, 3)[1])
    assert not torch.equal(truth.sample(50, 3)[0]["0.inputs"], truth.sample(50, 4)[0]["0.inputs"])


def test_the_number_of_groups_must_be_even() -> None:
    with pytest.raises(ValueError, match=r"`n_groups` must be even, got 5"):
        SyntheticLayers(8, 5)
    with pytest.raises(ValueError, match=r"`l0` must lie in \(0, 4\], got 9"):
        SyntheticLayers(8, 4, l0=9)
