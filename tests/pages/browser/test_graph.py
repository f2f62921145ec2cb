"""The page of an attribution graph in a real browser, opened from disk."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsedict as sd
from sparsedict.circuits import AttributionGraph

from .conftest import HOSTILE, VOCABULARY

N_LAYERS = 3
NODES = ".field .node"


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(VOCABULARY), 16)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16)) for _ in range(N_LAYERS)
        )
        self.head = nn.Linear(16, len(VOCABULARY))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for mlp in self.mlps:
            x = x + mlp(x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None])
        return self.head(x)


def strings(ids: Any) -> list[str]:
    return [VOCABULARY[i] for i in ids]


@pytest.fixture(scope="module")
def graph() -> AttributionGraph:
    torch.manual_seed(0)
    sites = sd.Sites(Deep(), {str(i): f"mlps.{i}" for i in range(N_LAYERS)})
    neurons = {name: site.neurons for name, site in sites.items()}
    return sd.circuits.attribute(sites, neurons, torch.arange(13), targets=[1, 20], max_latents=600)


@pytest.fixture(scope="module")
def graph_folder(graph: AttributionGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sites = sd.Sites(Deep(), {str(i): f"mlps.{i}" for i in range(N_LAYERS)})
    tokens = torch.randint(0, len(VOCABULARY), (60, 30), generator=torch.Generator().manual_seed(1))
    records = {
        name: sd.analysis.collect(sites[name], {name: sites[name].neurons}, tokens, progress=False)[name]
        for name in ("1", "2")
    }
    site, latents = sites["0"], tmp_path_factory.mktemp("latents")
    sd.pages.write(latents, site, {"neurons": site.neurons}, tokens, tokenizer=VOCABULARY, progress=False)
    path = tmp_path_factory.mktemp("graph") / "a folder"
    sources = {**records, "0": sd.pages.LatentPages(latents, "neurons")}
    sd.pages.write_graph(path, graph, strings=strings, latents=sources, title=HOSTILE[1], node=1.0, max_nodes=600)
    return path


@pytest.fixture
def page(browser: Any, graph_folder: Path) -> Iterator[Any]:
    """The page. The test fails on any error or request to a network."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda request: None if request.url.startswith("file:") else problems.append(request.url))
    opened.goto((graph_folder / "index.html").as_uri())
    opened.wait_for_selector(NODES)
    yield opened
    assert opened.evaluate("window.hurt") is None
    context.close()
    assert not problems


def prune(page: Any, node: float, edge: float) -> list[int]:
    """Sets the thresholds, and returns the numbers of nodes and edges."""
    page.evaluate("([node, edge]) => { app.node = node; app.edge = edge; prune(); }", [node, edge])
    return page.evaluate("[app.pruned.keep.filter(Boolean).length, app.pruned.edges.length]")


@pytest.mark.parametrize(("node", "edge"), [(0.3, 0.98), (0.8, 0.98), (0.8, 0.5), (0.95, 1.0)])
def test_the_page_prunes_as_the_library_does(page: Any, graph: AttributionGraph, node: float, edge: float) -> None:
    expected = graph.pruned(node, edge)
    assert prune(page, node, edge) == [len(expected), int((expected.edges != 0).sum())]
    assert page.locator(NODES).count() == len(expected)


def test_the_page_shows_the_scores_and_the_check(page: Any, graph: AttributionGraph) -> None:
    text = page.inner_text("dl.facts >> nth=0")
    assert f"{graph.replacement_score:.3f}" in text
    assert f"{graph.completeness_score:.3f}" in text
    assert graph.checked is not None
    assert f"{graph.checked.correlation:.2f}" in text
    assert "median error" in text
    for part in ("norms held", "attention held", "attention, norms held", "everything held"):
        assert part in text
    assert "active neurons" in text


def test_effects_of_a_node_are_those_of_the_graph(page: Any, graph: AttributionGraph) -> None:
    target = int(graph.targets[0])
    row = graph.edges[target]
    largest = float(row[row.abs().argmax()])
    page.locator(f"{NODES}.target").first.click()
    index = page.evaluate("app.selected")
    shown = page.evaluate(f"app.graph.into[{index}].map((i) => app.graph.effect[i])")
    assert max(shown, key=abs) == pytest.approx(largest, rel=1e-5)
    assert page.locator("#panel section:has(h2:text('Inputs')) tr").count() == 12
    page.locator("#panel section:has(h2:text('Inputs')) button").first.click()
    assert page.evaluate("app.selected") != index
    page.keyboard.press("Escape")
    assert page.evaluate("app.selected") is None


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_examples_of_records_and_of_pages(page: Any, layer: int) -> None:
    prune(page, 0.95, 0.98)
    index = page.evaluate(
        f"app.graph.nodes.find((n) => n.kind === 'latent' && n.layer === {layer} && app.pruned.keep[n.index]).index"
    )
    page.evaluate(f"on.select({index}, true)")
    page.wait_for_selector("#panel .example .peak")
    heads = page.locator("#panel h2").all_inner_texts()
    assert [text.split()[0] for text in heads[1:]] == ["Examples", "Inputs", "Outputs"]
    visible = page.locator("#panel .example:visible").count()
    page.locator("#panel summary").click()
    assert visible == 3 < page.locator("#panel .example:visible").count()


def test_names_of_effects_have_most_of_the_width(page: Any) -> None:
    page.locator(f"{NODES}.target").first.click()
    widths = page.eval_on_selector_all(
        "#panel tr:first-child > *", "cells => cells.map((cell) => cell.getBoundingClientRect().width)"
    )
    assert len(widths) == 3
    assert widths[0] > widths[1] + widths[2]


def test_hover_marks_the_neighbours(page: Any) -> None:
    node = page.locator(f"{NODES}.target").first
    node.hover()
    near = page.locator(f"{NODES}.near").count()
    assert near > 0
    assert page.locator(f"{NODES}.far").count() == page.locator(NODES).count() - near - 1
    assert "logit of" in page.inner_text("#tip")
    page.mouse.move(0, 0)
    assert page.locator(f"{NODES}.far").count() == 0


def test_keyboard_and_names(page: Any) -> None:
    names = page.eval_on_selector_all(NODES, "nodes => nodes.map((node) => node.getAttribute('aria-label'))")
    assert all(names)
    page.locator(f"{NODES}[tabindex='0']").focus()
    assert "target" in page.evaluate("document.activeElement.className")
    page.keyboard.press("ArrowDown")
    assert "latent" in page.evaluate("document.activeElement.className")
    page.keyboard.press("p")
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel article")
    assert page.evaluate("app.pinned.has(app.selected)")
    page.keyboard.press("End")
    assert "token" in page.evaluate("document.activeElement.className")


def test_pins_and_groups_survive_a_reload(page: Any, graph: AttributionGraph) -> None:
    target = page.evaluate("app.graph.nodes.find((n) => n.kind === 'target').index")
    sources = page.evaluate(f"app.graph.into[{target}].map((i) => app.graph.source[i]).slice(0, 2)")
    for index in (target, *sources):
        page.evaluate(f"on.pin({index})")
    for index in sources:
        page.check(f"#pins input[value='{index}']")
    page.fill("#pins input[type=text]", HOSTILE[2])
    page.click("#pins button[type=submit]")
    effects = page.inner_text("#pins table")
    total = page.evaluate(f"app.graph.into[{target}].slice(0, 2).reduce((sum, i) => sum + app.graph.effect[i], 0)")
    assert page.evaluate(f"format.number({total})") in effects
    page.reload()
    page.wait_for_selector(NODES)
    assert HOSTILE[2] in page.inner_text("#pins .groups")
    assert page.evaluate("app.groups[0].nodes") == sources
    page.evaluate("prune(app.node = 0.05)")
    assert page.locator(f"{NODES}.pinned").count() == 3
    page.click("#pins .groups button")
    assert page.evaluate("app.groups.length") == 0


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["0", "1"], ["layer 0", "layer 1"]),
        ([f"transformer.h.{i}.mlp" for i in (0, 1, 10, 11)], [f"layer {i}" for i in (0, 1, 10, 11)]),
        (["encoder.mlp", "decoder.mlp"], ["encoder", "decoder"]),
        (["model.layers.0.mlp"], ["mode….0.mlp"]),
        ([f"a.{i}.fc1 -> a.{i}.fc2" for i in range(2)], ["0.fc1 -> a.0", "1.fc1 -> a.1"]),
        (["first_block_0_of_many", "first_block_1_of_many"], ["0: …f_many", "1: …f_many"]),
        (["a", "a.b"], ["a", "a.b"]),
    ],
)
def test_short_names_tell_layers_apart(page: Any, names: list[str], expected: list[str]) -> None:
    assert page.evaluate("shortNames", names) == expected
    assert len(set(expected)) == len(names)


def test_neurons_are_called_neurons(page: Any) -> None:
    page.locator(f"{NODES}.latent").last.click()
    assert page.inner_text("#selected").startswith("neuron ")
    assert "latent" not in page.inner_text("#panel").partition("Examples")[0]
    assert "neuron" in page.inner_text(".key")
    assert page.locator(".field .row").all_inner_texts() == ["targets", "layer 2", "layer 1", "layer 0", "tokens"]


def test_hostile_tokens_are_text(page: Any) -> None:
    assert page.inner_text("h1") == HOSTILE[1]
    seen = page.inner_text(".prompt")
    assert all(text in seen for text in (HOSTILE[1], HOSTILE[2], HOSTILE[9], r"\u{202e}abc", r"\u{d800}"))
    assert page.locator("#page img, #page script").count() == 0


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser: Any, graph_folder: Path, width: int, scheme: Any) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto((graph_folder / "index.html").as_uri() + "#selected=30")
    page.wait_for_selector(NODES)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") is (scheme == "light")
    context.close()


def test_a_cross_layer_graph(browser: Any, tmp_path: Path) -> None:
    """Each latent is in the row of the layer that it reads, and has effects on later layers that skip others."""
    torch.manual_seed(0)
    sites = sd.Sites(Deep(), {f"mlps.{i}": f"mlps.{i}" for i in range(N_LAYERS)})
    transcoder = sd.CrossLayerDistiller(sites, 12, activation=sd.PerLayer(sd.TopK(4)), decoder_norm=sd.UnitNorm())
    graph = sd.circuits.attribute(sites, transcoder, torch.arange(6), targets=[1])
    tokens = torch.randint(0, len(VOCABULARY), (20, 10), generator=torch.Generator().manual_seed(1))
    records = sd.analysis.collect(sites, {"all": transcoder}, tokens, progress=False)["all"]
    sd.pages.write_graph(tmp_path / "graph", graph, strings=strings, latents=dict.fromkeys(sites, records))
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    page.goto((tmp_path / "graph" / "index.html").as_uri())
    page.wait_for_selector(NODES)
    prune(page, 1.0, 1.0)
    assert page.locator(".field .row").all_inner_texts() == ["targets", "layer 2", "layer 1", "layer 0", "tokens"]
    for layer in range(N_LAYERS):
        own = [node for node in graph.nodes if node.kind == "latent" and node.layer == layer]
        assert own
        assert all(node.dictionary_latent == 12 * layer + (node.latent or 0) for node in own)
        shown = page.evaluate(f"app.graph.nodes.filter((n) => n.kind === 'latent' && n.layer === {layer}).length")
        assert shown == len(own)
        index = page.evaluate(f"app.graph.nodes.find((n) => n.kind === 'latent' && n.layer === {layer}).index")
        page.evaluate(f"on.select({index}, true)")
        page.wait_for_selector("#panel .example .peak")
        assert page.inner_text("#selected").startswith("latent ")
    page.close()


def test_a_damaged_address_and_a_missing_file(browser: Any, graph_folder: Path, tmp_path: Path) -> None:
    import shutil

    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto((graph_folder / "index.html").as_uri() + "#node=x&edge=7&selected=-3&pins=[9e9,%22a%22]&groups={")
    page.wait_for_selector(NODES)
    assert page.evaluate("[app.node, app.edge, app.selected, app.pinned.size]") == [0.8, 0.98, None, 0]
    shutil.copytree(graph_folder, tmp_path / "copy")
    (tmp_path / "copy" / "data" / "graph.js").unlink()
    page.goto((tmp_path / "copy" / "index.html").as_uri())
    assert "data/graph.js is missing" in page.inner_text("[role=alert]")
    page.close()


def test_a_graph_that_was_never_checked_has_no_page(graph: AttributionGraph, tmp_path: Path) -> None:
    unchecked = replace(graph, checked=None)
    with pytest.raises(ValueError, match=r"`graph` must have been checked by interventions.*`graph\.with_check\(\)`"):
        sd.pages.write_graph(tmp_path / "a", pickle.loads(pickle.dumps(unchecked)))
    assert not (tmp_path / "a").exists()
    sd.pages.write_graph(tmp_path / "b", unchecked)
    assert '"check":{"n":' in (tmp_path / "b" / "data" / "graph.js").read_text(encoding="utf-8")
    sd.pages.write_graph(tmp_path / "c", pickle.loads(pickle.dumps(graph)))


def test_a_graph_is_replaced_only_with_force(graph: AttributionGraph, tmp_path: Path) -> None:
    sd.pages.write_graph(tmp_path / "graph", graph)
    with pytest.raises(FileExistsError, match="force=True"):
        sd.pages.write_graph(tmp_path / "graph", graph)
    sd.pages.write_graph(tmp_path / "graph", graph, force=True)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="new or empty"):
        sd.pages.write_graph(tmp_path / "own", graph, force=True)
    assert (tmp_path / "own" / "thesis.tex").read_text() == "mine"
