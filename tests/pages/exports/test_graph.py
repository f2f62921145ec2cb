"""The graph files of circuit-tracer, checked against the published list of fields."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsedict as sd
from sparsedict.circuits import AttributionGraph
from sparsedict.pages import write_graph
from sparsedict.pages.exports import feature_number, graph_content, write_circuit_tracer_graph
from sparsedict.pages.graphs._examples import read_script

METADATA = {
    "slug": str,
    "scan": str,
    "transcoder_list": list,
    "prompt_tokens": list,
    "prompt": str,
    "node_threshold": float,
    "schema_version": int,
}
QPARAMS = {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str}
NODE = {
    "node_id": str,
    "feature": int,
    "layer": str,
    "ctx_idx": int,
    "feature_type": str,
    "token_prob": float,
    "is_target_logit": bool,
    "run_idx": int,
    "reverse_ctx_idx": int,
    "jsNodeId": str,
    "clerp": str,
    "influence": float,
    "activation": (float, type(None)),
}
LINK = {"source": str, "target": str, "weight": float}
NUMBER, NULL = (int, float), type(None)
NEURONPEDIA: dict[str, dict[str, Any]] = {
    "metadata": {"slug": str, "scan": str, "prompt_tokens": [str], "prompt": str, "node_threshold?": NUMBER},
    "qParams": {"pinnedIds?": [str], "supernodes?": [object], "linkType?": str, "clickedId?": str, "sg_pos?": str},
    "nodes": {
        "node_id": str,
        "feature": (int, NULL),
        "layer": (str, int),
        "ctx_idx": int,
        "feature_type": str,
        "jsNodeId": str,
        "clerp": str,
        "influence?": (*NUMBER, NULL),
        "activation?": (*NUMBER, NULL),
    },
    "links": {"source": str, "target": str, "weight": NUMBER},
}
"""Fields and types of Neuronpedia's schema "Anthropic Attribution Graph" 1.0.0. Those with "?" are optional."""
IDS = {
    "cross layer transcoder": r"\d+_\d+_\d+",
    "mlp reconstruction error": r"0_\d+_\d+|\d+_-1_\d+",
    "embedding": r"E_\d+_\d+",
    "logit": r"\d+_\d+_\d+",
}
TEXTS = ['<script>"', "\n", "\ud800", "\u202e", "</script>", "", *(f" w{i}" for i in range(14))]


def strings(ids: Any) -> list[str]:
    return [TEXTS[i] for i in ids]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(3))
        self.head = nn.Linear(8, 20)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for mlp in self.mlps:
            mixed = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
            x = x + mlp(mixed)
        return self.head(x)


@pytest.fixture(scope="module")
def sites() -> sd.Sites:
    torch.manual_seed(0)
    return sd.Sites(Model(), {str(i): f"mlps.{i}" for i in range(3)})


@pytest.fixture(scope="module")
def dictionaries(sites: sd.Sites) -> dict[str, Any]:
    torch.manual_seed(1)
    return {name: sd.SparseDistiller(8, 8, 6, activation=sd.TopK(3), decoder_norm=sd.UnitNorm()) for name in sites}


@pytest.fixture(scope="module")
def graph(sites: sd.Sites, dictionaries: dict[str, Any]) -> AttributionGraph:
    return sd.circuits.attribute(sites, dictionaries, torch.tensor([0, 1, 2, 3, 4, 5]), targets=[0, 7])


def assert_fields(content: dict[str, Any], fields: dict[str, Any]) -> None:
    assert set(content) == set(fields)
    for name, kind in fields.items():
        assert isinstance(content[name], kind), name
        assert kind is not int or not isinstance(content[name], bool), name


@pytest.mark.parametrize("thresholds", [(0.8, 0.98), (1.0, 1.0)])
def test_the_file_has_the_published_fields(graph: AttributionGraph, thresholds: tuple[float, float]) -> None:
    node, edge = thresholds
    content = graph_content(graph, strings=strings, node=node, edge=edge)
    assert set(content) == {"metadata", "qParams", "nodes", "links"}
    assert_fields(content["metadata"], METADATA)
    assert_fields(content["qParams"], QPARAMS)
    for own in content["nodes"]:
        assert_fields(own, NODE)
        assert re.fullmatch(IDS[own["feature_type"]], own["node_id"])
    for link in content["links"]:
        assert_fields(link, LINK)
    ids = [own["node_id"] for own in content["nodes"]]
    assert len(set(ids)) == len(ids)
    assert {link[end] for link in content["links"] for end in ("source", "target")} <= set(ids)
    assert content["metadata"]["prompt_tokens"][1] == "⏎"
    json.dumps(content, allow_nan=False).encode()


def assert_types(content: dict[str, Any], fields: dict[str, Any]) -> None:
    """Asserts that a JSON object has the required fields, and that all fields in the list have the given types."""
    assert not [name for name in fields if not name.endswith("?") and name not in content]
    for name, kind in fields.items():
        given = content.get(name.removesuffix("?"))
        if isinstance(kind, list):
            assert isinstance(given, list), name
            assert all(isinstance(item, kind[0]) for item in given), name
        else:
            assert isinstance(given, kind), name
            assert not isinstance(given, bool), name


@pytest.mark.parametrize("kind", ["transcoders", "neurons", "cross-layer", "difference", "latent"])
def test_the_file_satisfies_the_schema_of_neuronpedia(sites: sd.Sites, dictionaries: dict[str, Any], kind: str) -> None:
    options: dict[str, Any] = {"activation": sd.PerLayer(sd.TopK(3)), "decoder_norm": sd.UnitNorm()}
    given: Any = {
        "neurons": {name: site.neurons for name, site in sites.items()},
        "cross-layer": sd.CrossLayerDistiller(sites, 6, **options),
    }.get(kind, dictionaries)
    tokens = torch.tensor([0, 1, 2, 3])
    graph = sd.circuits.attribute(sites, given, tokens, targets=[5], check=0)
    if kind in ("difference", "latent"):
        node = graph.nodes[int(graph.of_kind("latent")[-1])]
        assert node.layer is not None
        assert node.latent is not None
        assert node.position is not None
        latent = sd.circuits.Latent(graph.layers[node.layer], node.latent, node.position)
        target = latent if kind == "latent" else sd.circuits.LogitDifference(3, 4)
        graph = sd.circuits.attribute(sites, given, tokens, targets=target, check=0)
    content = json.loads(json.dumps(graph_content(graph, strings=strings, node=1.0, edge=1.0), allow_nan=False))
    assert_types(content, {name: dict if name in ("metadata", "qParams") else [dict] for name in NEURONPEDIA})
    for name, fields in NEURONPEDIA.items():
        objects = [content[name]] if isinstance(content[name], dict) else content[name]
        assert objects
        for own in objects:
            assert_types(own, fields)
    labels = {own["clerp"] for own in content["nodes"] if own["feature_type"] == "cross layer transcoder"}
    assert all(re.fullmatch(r"neuron \d+ of \d" if kind == "neurons" else "", label) for label in labels)


def test_nodes_and_links_are_those_of_the_pruned_graph(graph: AttributionGraph) -> None:
    pruned, content = graph.pruned(), graph_content(graph)
    latents = {(n.layer, n.latent, n.position): float(v) for n, v in zip(pruned.nodes, pruned.values, strict=True)}
    found = [own for own in content["nodes"] if own["feature_type"] == "cross layer transcoder"]
    assert found
    for own in found:
        layer, latent, position = map(int, own["node_id"].split("_"))
        assert own["feature"] == feature_number(layer, latent)
        assert own["activation"] == pytest.approx(latents[layer, latent, position])
        assert own["layer"] == str(layer)
        assert own["ctx_idx"] == position
    logits = [own for own in content["nodes"] if own["feature_type"] == "logit"]
    assert {own["node_id"] for own in logits} == {"4_0_5", "4_7_5"}
    assert sum(own["is_target_logit"] for own in logits) == 1
    is_rest = torch.tensor([own.kind == "rest" for own in pruned.nodes])
    edges = pruned.edges[~is_rest][:, ~is_rest]
    assert sorted(link["weight"] for link in content["links"]) == pytest.approx(sorted(edges[edges != 0].tolist()))


def test_influence_is_cumulative(graph: AttributionGraph) -> None:
    content = graph_content(graph, node=0.6)
    kept = [
        own for own in content["nodes"] if own["feature_type"] in ("cross layer transcoder", "mlp reconstruction error")
    ]
    largest = float(graph.influence.max() / graph.influence.sum())
    assert all(own["influence"] <= 0.6 + largest for own in kept)


def test_error_terms_and_latents_have_different_identifiers(graph: AttributionGraph) -> None:
    """``0_1_3`` could be latent 1 of layer 0 or the error of layer 1, both at position 3."""
    content = graph_content(graph, node=1.0, edge=1.0)
    errors = [own["node_id"] for own in content["nodes"] if own["feature_type"] == "mlp reconstruction error"]
    assert any(re.fullmatch(r"0_\d+_\d+", own) for own in errors)
    assert any(re.fullmatch(r"\d+_-1_\d+", own) for own in errors)


def test_other_targets(sites: sd.Sites, dictionaries: dict[str, Any]) -> None:
    difference = sd.circuits.LogitDifference(3, 4)
    graph = sd.circuits.attribute(sites, dictionaries, torch.tensor([1, 2, 3]), targets=[difference])
    (target,) = [own for own in graph_content(graph)["nodes"] if own["feature_type"] == "logit"]
    assert_fields(target, NODE)
    assert target["feature"] >= 2**30
    assert "minus" in target["clerp"]


def test_the_folder_has_feature_files(
    graph: AttributionGraph, sites: sd.Sites, dictionaries: dict[str, Any], tmp_path: Path
) -> None:
    tokens = torch.randint(20, (20, 8), generator=torch.Generator().manual_seed(2))
    records = {
        layer: sd.analysis.collect(sites[name], {name: dictionaries[name]}, tokens, progress=False)[name]
        for layer, name in enumerate(graph.layers)
    }
    content = write_circuit_tracer_graph(tmp_path / "graphs", graph, slug="a-b", strings=strings, records=records)
    assert json.loads((tmp_path / "graphs" / "a-b.json").read_text(encoding="utf-8")) == content
    listed = json.loads((tmp_path / "graphs" / "graph-metadata.json").read_text(encoding="utf-8"))
    assert listed == {"graphs": [content["metadata"]]}
    features = {own["feature"] for own in content["nodes"] if own["feature_type"] == "cross layer transcoder"}
    assert {int(file.stem) for file in (tmp_path / "graphs" / "features").iterdir()} == features
    with pytest.raises(FileExistsError, match="new or empty"):
        write_circuit_tracer_graph(tmp_path / "graphs", graph)


def test_examples_of_a_cross_layer_latent_are_its_own(sites: sd.Sites, tmp_path: Path) -> None:
    """The records number the latents of all layers, and the nodes those of their layer."""
    torch.manual_seed(0)
    options = {"activation": sd.PerLayer(sd.TopK(2)), "decoder_norm": sd.UnitNorm()}
    transcoder = sd.CrossLayerDistiller(sites, 6, **options)
    tokens = torch.randint(20, (20, 8), generator=torch.Generator().manual_seed(2))
    records = sd.analysis.collect(sites, {"all": transcoder}, tokens, progress=False)["all"]
    graph = sd.circuits.attribute(sites, transcoder, torch.arange(6), targets=[1])
    own = [node for node in graph.nodes if node.kind == "latent"]
    assert {node.layer for node in own} == {0, 1, 2}
    assert all(node.dictionary_latent == 6 * (node.layer or 0) + (node.latent or 0) for node in own)

    layers = range(len(graph.layers))
    write_circuit_tracer_graph(
        tmp_path / "graphs", graph, node=1.0, edge=1.0, strings=strings, records=dict.fromkeys(layers, records)
    )
    write_graph(tmp_path / "page", graph, strings=strings, latents=dict.fromkeys(graph.layers, records))
    for node in own:
        assert node.layer is not None
        assert node.latent is not None
        whole = 6 * node.layer + node.latent
        number = feature_number(node.layer, node.latent)
        feature = json.loads((tmp_path / "graphs" / "features" / f"{number}.json").read_text(encoding="utf-8"))
        assert feature["index"] == node.latent
        assert feature["act_max"] == pytest.approx(float(records.act_max[whole]))
        entry = read_script(tmp_path / "page" / "data" / "latents" / f"{node.layer}.js")[str(node.latent)]
        assert entry["share"] == int(records.counts[whole]) / records.n_tokens


@pytest.mark.parametrize("slug", ["", "../x", "a/b", "graph-metadata"])
def test_bad_names_are_rejected(graph: AttributionGraph, tmp_path: Path, slug: str) -> None:
    with pytest.raises(ValueError, match="`slug` must be a name"):
        write_circuit_tracer_graph(tmp_path / "graphs", graph, slug=slug)
    assert not any(tmp_path.iterdir())


def test_unknown_layers_are_rejected(
    graph: AttributionGraph, records: sd.analysis.LatentRecords, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="`records` must have indices of the 3 layers, got 3"):
        write_circuit_tracer_graph(tmp_path / "graphs", graph, records={3: records})
