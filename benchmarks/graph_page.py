"""Time of the page of an attribution graph in a browser, and its picture for the documentation.

``python -m benchmarks.graph_page`` writes the page of the example of "Tracing a prompt" with 600 latents, opens it in
headless Chromium, and measures the time of a step of each slider and of a hover, until the frame is drawn.
``python -m benchmarks.graph_page --picture docs/images/trace.png`` writes the screenshot of that example instead.
Requires playwright and Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import sparsedict as sd
from benchmarks.report import machine

RESULTS = Path(__file__).parent / "results" / "graph_page.json"
PROMPT, TOKEN = "class A:\n    def area(", "self"
NODES = ".field .node"
SIZE = {"width": 1280, "height": 900}

SLIDER = """async (id) => {
  const input = document.getElementById(id), times = [];
  for (const value of [.5, .6, .7, .8, .9, .95, .98, .9, .7, .5, .95]) {
    const begin = performance.now();
    input.value = value;
    input.dispatchEvent(new Event("input"));
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))));
    times.push(performance.now() - begin);
  }
  return times;
}"""
HOVER = """async () => {
  const nodes = [...document.querySelectorAll(".field .node")].slice(0, 60), times = [];
  for (const node of nodes) {
    const begin = performance.now();
    node.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))));
    times.push(performance.now() - begin);
  }
  return times;
}"""


def example(folder: Path, max_latents: int, max_nodes: int) -> sd.circuits.AttributionGraph:
    """Writes the page of the example of "Tracing a prompt"."""
    model, tokenizer = sd.zoo.load_model(), sd.zoo.load_tokenizer()
    sites = sd.circuits.find_sites(model)
    neurons = {name: site.neurons for name, site in sites.items()}
    tokens = tokenizer(PROMPT, return_tensors="pt").input_ids
    targets = tokenizer(TOKEN, add_special_tokens=False).input_ids
    graph = sd.circuits.attribute(sites, neurons, tokens, targets=targets, max_latents=max_latents, tokenizer=tokenizer)
    strings = sd.pages.token_strings(tokenizer)
    sd.pages.write_graph(folder, graph, strings=strings, title=PROMPT, max_nodes=max_nodes)
    return graph


@contextmanager
def opened(index: Path) -> Iterator[Any]:
    """Opens a page in headless Chromium."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("SPARSEDICT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)  # pyright: ignore[reportArgumentType]
        page.set_default_timeout(120_000)
        page.goto(index.as_uri())
        page.wait_for_selector(NODES)
        yield page
        browser.close()


def measure(index: Path) -> dict[str, Any]:
    """Returns the milliseconds of each step of a slider and of each hover, with all nodes and edges shown."""
    with opened(index) as page:
        page.evaluate("() => { app.node = app.graph.widest; app.edge = 1; prune(); }")
        found = {"n_nodes": page.locator(NODES).count(), "n_edges": page.evaluate("app.pruned.edges.length")}
        frames = (
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
        )
        found["milliseconds"] = {"hover": page.evaluate(HOVER)}
        found["milliseconds"] |= {f"{name} slider": page.evaluate(SLIDER, name) for name in ("node", "edge")}
        found["milliseconds"]["frames alone"] = []
        for _ in range(10):
            page.evaluate("() => { window.begin = performance.now(); }")
            page.evaluate(frames)
            found["milliseconds"]["frames alone"].append(page.evaluate("performance.now() - window.begin"))
    found["medians"] = {name: median(times) for name, times in found["milliseconds"].items()}
    return found


def picture(index: Path, file: Path) -> None:
    """Writes a screenshot of the page with its most influential latent selected."""
    with opened(index) as page:
        page.evaluate(
            "() => on.select(app.graph.nodes.filter((own) => own.kind === 'latent')"
            ".reduce((a, b) => a.influence > b.influence ? a : b).index)"
        )
        page.wait_for_timeout(500)
        page.screenshot(path=file, full_page=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-latents", type=int, default=600)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the picture of the documentation instead")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "trace"
        if options.picture is not None:
            example(folder, max_latents=256, max_nodes=500)
            picture(folder / "index.html", options.picture)
            return
        example(folder, max_latents=options.max_latents, max_nodes=options.max_latents)
        found = measure(folder / "index.html")
    print(json.dumps({name: own for name, own in found.items() if name != "milliseconds"}, indent=1))
    content = {"machine": machine(None, "cpu"), **found}
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
