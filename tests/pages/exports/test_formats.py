"""Exports satisfy the formats of circuit-tracer and SAEDashboard, which `record` read from their wheels.

Where these packages are installed, `test_exports` also reads the files with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

import sparsedict as sd
from sparsedict.analysis import LatentRecords
from sparsedict.pages.exports import (
    write_circuit_tracer,
    write_circuit_tracer_graph,
    write_neuronpedia,
)

from .conftest import effects, strings
from .record import FORMATS

RECORDED = json.loads(FORMATS.read_text(encoding="utf-8"))


def errors(name: str, content: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(RECORDED[name]).iter_errors(content)]


@pytest.fixture
def batch(records: LatentRecords, tmp_path: Path) -> dict[str, Any]:
    given = {"model_id": "m", "layer": 2, "sae_set": "res-24", "strings": strings, "effects": effects()}
    (file,) = write_neuronpedia(tmp_path / "np", records, **given, vectors=torch.eye(24))
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture
def features(records: LatentRecords, tmp_path: Path) -> list[Any]:
    write_circuit_tracer(tmp_path / "f", {1: records}, transcoder_id="t", strings=strings, effects={1: effects()})
    return [json.loads(file.read_text(encoding="utf-8")) for file in (tmp_path / "f").iterdir()]


@pytest.fixture(scope="module")
def graph_file(records: LatentRecords, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    sites = sd.circuits.find_sites(sd.zoo.load_model())
    neurons = {name: site.neurons for name, site in sites.items()}
    graph = sd.circuits.attribute(sites, neurons, torch.tensor([0, 5, 6, 7]), max_latents=12, check=0)
    folder = tmp_path_factory.mktemp("graph")
    write_circuit_tracer_graph(folder / "graphs", graph, slug="example", strings=strings)
    return json.loads((folder / "graphs" / "example.json").read_text(encoding="utf-8"))


def test_the_versions_are_recorded() -> None:
    assert RECORDED["versions"] == {"circuit_tracer": "0.5.0", "sae_dashboard": "0.8.0"}


def test_batches_satisfy_the_format_of_saedashboard(batch: dict[str, Any]) -> None:
    assert errors("batch", batch) == []
    assert len(batch["features"]) == 23
    for feature in batch["features"]:
        assert errors("feature", feature) == []
        assert set(feature) == set(RECORDED["feature"]["properties"])
        assert feature["activations"]
        assert [errors("activation", own) for own in feature["activations"]] == [[]] * len(feature["activations"])


def test_features_satisfy_the_format_of_circuit_tracer(features: list[Any]) -> None:
    assert len(features) == 23  # one latent never fires
    assert [errors("features", own) for own in features] == [[]] * 23


def test_graphs_satisfy_the_format_of_circuit_tracer(graph_file: dict[str, Any]) -> None:
    assert errors("graph", graph_file) == []
    assert len(graph_file["nodes"]) > 12


@pytest.mark.parametrize("damage", ["missing", "wrong type", "unknown"])
def test_damaged_files_do_not_satisfy_them(
    damage: str, batch: dict[str, Any], features: list[Any], graph_file: dict[str, Any]
) -> None:
    feature, graph = dict(features[0]), {**graph_file, "nodes": [dict(graph_file["nodes"][0])]}
    if damage == "missing":
        del feature["act_max"], graph["nodes"][0]["layer"]
        assert errors("features", feature) == ["'act_max' is a required property"]
        assert errors("graph", graph) == ["'layer' is a required property"]
    elif damage == "wrong type":
        feature["histogram"], graph["nodes"][0]["ctx_idx"] = "x", "0"
        own = {**batch["features"][0], "pos_values": [None]}
        assert [len(errors(*of)) for of in (("features", feature), ("graph", graph), ("feature", own))] == [1, 1, 1]
    else:  # SAEDashboard passes all fields to a constructor
        assert len(errors("feature", {**batch["features"][0], "other": 1})) == 1
