"""`write_graph`, the page of an attribution graph."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.analysis import LatentRecords
from sparsedict.circuits import AttributionGraph
from sparsedict.pages._earlier import has_earlier
from sparsedict.pages._shards import script
from sparsedict.pages._strings import TokenStrings, strings_of, token_strings
from sparsedict.pages.graphs._content import content
from sparsedict.pages.graphs._examples import LatentPages, TokenTable, record_entry
from sparsedict.storage import replace_folder

SHARED = ("pages.css", "base.js", "latent.js")
OWN = ("index.html", "graph.css", "prune.js", "layout.js", "panel.js", "pins.js", "graph.js")
"""Files that are copied to the folder: those of the pages of latents, and those of this page."""
DATA = "data/graph.js"


def write_graph(
    path: str | os.PathLike[str],
    graph: AttributionGraph,
    *,
    strings: TokenStrings | None = None,
    latents: Mapping[str, LatentRecords | LatentPages] | None = None,
    title: str = "Attribution graph",
    node: float = 1.0,
    max_nodes: int = 500,
    force: bool = False,
) -> Path:
    """Writes the page of an attribution graph to a folder that any browser opens from disk.

    The page shows the graph by layer and position, the direct effects on and of each node, and the examples of latents.
    Sliders prune the graph as `AttributionGraph.pruned` does. Nodes can be pinned and grouped.

    Args:
        path: The folder. It must be new or empty, or hold an earlier graph that ``force`` replaces.
        graph: The graph. The page shows its interventions, which run now if they haven't yet.
        strings: Function from token ids to text, see `sparsedict.pages.token_strings`. By default the labels of the
            graph.
        latents: Sources of examples by the name of the layer that latents read: the records of its dictionary, or its
            pages. For a dictionary of several layers, each layer has the records or pages of the whole dictionary.
        title: Title of the page.
        node: Largest share of the influence that nodes on the page have.
        max_nodes: Largest number of latents, error terms and rests on the page. The most influential ones are chosen.
        force: Whether to replace an earlier graph.

    Returns:
        The path of ``index.html``.

    Raises:
        FileExistsError: If the folder contains a graph and ``force`` is false, or other files.
        ValueError: If ``latents`` has a layer that the graph doesn't have, or the graph was loaded from a file and was
            never checked.

    Example:
        >>> import tempfile
        >>> import sparsedict as sd
        >>> sites = sd.circuits.find_sites(sd.zoo.load_model())
        >>> neurons = {name: site.neurons for name, site in sites.items()}
        >>> tokens = sd.zoo.load_tokenizer()("def add(self", return_tensors="pt").input_ids
        >>> graph = sd.circuits.attribute(sites, neurons, tokens, max_latents=50, check=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_graph(folder, graph, strings=sd.pages.token_strings(sd.zoo.load_tokenizer())).name
        'index.html'
    """
    checks.instance("graph", graph, AttributionGraph, "the result of `circuits.attribute`")
    folder = checks.path("path", path, "a folder").resolve()
    check_graph_folder(folder, force)
    checks.in_range("node", node, 0.0, 1.0, open_low=True)
    checks.at_least("max_nodes", max_nodes, 1)
    checks.instance("title", title, str, "text")
    strings = None if strings is None else strings_of("strings", strings)
    latents = {} if latents is None else latents
    checks.mapping("latents", latents, LatentRecords | LatentPages, "a mapping of names of layers to records or pages")
    if unknown := [name for name in latents if name not in graph.layers]:
        raise ValueError(f"`latents` must have names of layers, any of {list(graph.layers)}, got {unknown[0]!r}.")
    if graph.checked is None and len(graph.of_kind("latent")):
        if graph.checker is None:
            raise ValueError(
                "`graph` must have been checked by interventions, but it was loaded without its model and never "
                "checked. Call `graph.with_check()` before you save the graph."
            )
        graph = graph.with_check()
    found = _files(graph, strings, latents, title, node, max_nodes)

    def fill(target: Path) -> None:
        for name, own in found.items():
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(own)

    folder.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(folder, fill)
    return Path(path) / "index.html"


def check_graph_folder(folder: Path, force: bool) -> None:
    """Checks that a graph may be written to a folder.

    Raises:
        FileExistsError: If it contains a graph and ``force`` is false, or it contains other files.
    """
    force = checks.boolean("force", force)
    if has_earlier(folder, DATA, (*SHARED, *OWN, "data", "circuit-tracer"), "graph") and not force:
        raise FileExistsError(f"`path` already has a graph in {folder}. Pass force=True to replace it.")


def _files(
    graph: AttributionGraph,
    strings: TokenStrings | None,
    latents: Mapping[str, LatentRecords | LatentPages],
    title: str,
    node: float,
    max_nodes: int,
) -> dict[str, bytes]:
    found = {name: (files("sparsedict.pages") / name).read_bytes() for name in SHARED}
    found |= {name: (files("sparsedict.pages.graphs") / name).read_bytes() for name in OWN}
    data = content(graph, strings, title, node, max_nodes)
    table = TokenTable()
    data["sources"] = [name in latents for name in graph.layers]
    for layer, name in enumerate(graph.layers):
        if name in latents:
            used = {own[3] for own in data["nodes"] if own[1] == layer and own[3] is not None}
            numbers = graph.dictionary_latents(layer)
            entries = {str(own): _entry(latents[name], numbers[own], strings, table) for own in sorted(used)}
            found[f"data/latents/{layer}.js"] = script(f"latents/{layer}", entries)
    found["data/tokens.js"] = script("tokens", table.content())
    found[DATA] = script("graph", data)
    return found


def _entry(
    source: LatentRecords | LatentPages, latent: int | None, strings: TokenStrings | None, table: TokenTable
) -> Any:
    if latent is None:
        return None
    if isinstance(source, LatentPages):
        return source.entry(latent, table)
    return record_entry(source, latent, strings or token_strings(), table)
