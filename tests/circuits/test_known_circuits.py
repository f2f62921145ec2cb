"""Graphs find the known circuits of a synthetic network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks import known_circuits

from sparsedict.data import SyntheticLayers


def test_all_edges_between_orthogonal_features_are_found() -> None:
    truth = SyntheticLayers(40, n_groups=8, n_layers=2, l0=6.0)
    truth.directions = torch.eye(40)
    network = known_circuits.Network(truth, 300, seed=1)
    neurons = {name: site.neurons for name, site in known_circuits.sites_of(network).items()}
    samples, strengths = truth.sample(300, seed=1)
    ids = torch.arange(300)[None]
    torch.testing.assert_close(network(ids)[0], (samples["1.inputs"] + samples["1.outputs"]) @ truth.writes.T)
    torch.testing.assert_close(network.strengths, strengths)
    found = known_circuits.compare(truth, network, neurons, n_prompts=20, share=0.05)
    assert found["n_true"] >= 15
    assert found["precision"] == found["recall"] == 1.0


def test_edges_between_trained_latents(tmp_path: Path) -> None:
    sizes = ["--d", "96", "--n-groups", "12", "--n-layers", "2", "--n-latents", "24", "--k", "4", "--shares", "0.2"]
    known_circuits.main([*sizes, "--n-tokens", "60000", "--n-prompts", "15", "--out", str(tmp_path / "rows.json")])
    rows = {row["kind"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    for row in rows.values():
        assert row["precision"] > 0.7
        assert row["recall"] > 0.7
    assert rows["neurons"]["n_true"] == rows["transcoders"]["n_true"] > 0


@pytest.mark.parametrize("hops", [2, 3])
def test_ancestors(hops: int) -> None:
    truth = SyntheticLayers(64, n_groups=4, n_layers=3)
    end = next(i for i, feature in enumerate(truth.features) if feature.hops == hops)
    found = known_circuits.ancestors(truth, end, set(range(len(truth.features))))
    assert len(found) == hops - 1
    assert known_circuits.ancestors(truth, end, set()) == set()
