"""`write_circuit_tracer_graph`, the graph files that the frontend of circuit-tracer and Neuronpedia read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.analysis import LatentRecords, TokenEffects
from sparsedict.circuits import AttributionGraph, Node
from sparsedict.pages._strings import TokenStrings, strings_of
from sparsedict.pages.exports._arguments import by_key, effects_of, records_by_key
from sparsedict.pages.exports._circuit_tracer import feature_number, write_features
from sparsedict.pages.exports._folder import write_folder, write_json
from sparsedict.pages.exports._latents import chosen_latents, clean

SCAN = "./data/features"
"""Address at which the frontend finds the folder ``features`` beside the graphs."""
NODE, EDGE = 0.8, 0.98
"""Shares of the influence of the published method."""
OUTSIDE = 2**30
"""First number of targets that aren't logits of one token. It is outside every vocabulary."""
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MARKS = str.maketrans({"\n": "⏎", "\t": "→", "\r": "↵"})


def write_circuit_tracer_graph(
    folder: str | os.PathLike[str],
    graph: AttributionGraph,
    *,
    slug: str = "graph",
    strings: TokenStrings | None = None,
    prompt: str | None = None,
    node: float = NODE,
    edge: float = EDGE,
    records: Mapping[int, LatentRecords] | None = None,
    effects: Mapping[int, TokenEffects] | None = None,
) -> dict[str, Any]:
    """Writes a graph in the format that the frontend of circuit-tracer and Neuronpedia read.

    The folder has ``SLUG.json``, the list ``graph-metadata.json``, and with ``records`` the folder ``features`` with a
    file for each latent of the graph. See `graph_content` for the contents of the file.

    Args:
        folder: A new or empty folder.
        graph: The graph.
        slug: Name of the graph: letters, digits, ``-``, ``_`` and ``.``.
        strings: Function from token ids to text, see `sparsedict.pages.token_strings`. By default the labels of the
            graph.
        prompt: Text of the prompt. By default the joined text of its tokens.
        node: Share of the influence that the written nodes have; see `AttributionGraph.pruned`.
        edge: Share of the influence that the written edges have.
        records: For each layer of the graph, by its index, the records of its dictionary. For a dictionary of several
            layers, each layer has the records of the whole dictionary.
        effects: For each layer, the tokens that latents promote and suppress.

    Returns:
        The content of ``SLUG.json``.

    Raises:
        FileExistsError: If the folder isn't empty.
        TypeError: If an argument has the wrong type.
        ValueError: If ``slug`` isn't such a name, several dictionaries read one layer, or ``records`` has a layer that
            the graph doesn't have.
    """
    if not isinstance(slug, str) or not _SLUG.fullmatch(slug) or slug == "graph-metadata":
        raise ValueError(
            f"`slug` must be a name of letters, digits, '-', '_' and '.' other than 'graph-metadata', got {slug!r}."
        )
    _check_graph(graph)
    by_layer = {} if records is None or records == {} else records_by_key(records, int, "layers")
    if unknown := [layer for layer in by_layer if layer not in range(len(graph.layers))]:
        raise ValueError(f"`records` must have indices of the {len(graph.layers)} layers, got {unknown[0]!r}.")
    of_layer = {
        layer: effects_of(f"effects[{layer}]", own, by_layer[layer])
        for layer, own in by_key("effects", effects, by_layer, "layers").items()
    }
    strings = None if strings is None else strings_of("strings", strings)
    content = graph_content(graph, slug=slug, strings=strings, prompt=prompt, node=node, edge=edge)
    used = {tuple(map(int, own["node_id"].split("_")[:2])) for own in content["nodes"] if _is_latent(own)}
    numbers = {layer: _numbers(graph, layer, {latent for at, latent in used if at == layer}) for layer in by_layer}
    for layer, own in by_layer.items():
        chosen_latents(own, list(numbers[layer]))

    def fill(target: Path) -> None:
        write_json(target / f"{slug}.json", content)
        write_json(target / "graph-metadata.json", {"graphs": [content["metadata"]]})
        if by_layer:
            features = target / "features"
            features.mkdir()
            for layer, own in by_layer.items():
                write_features(features, layer, own, numbers[layer], slug, strings, of_layer.get(layer))

    write_folder(folder, fill)
    return content


def _check_graph(graph: object) -> None:
    if not isinstance(graph, AttributionGraph):
        raise TypeError(f"`graph` must be the result of `attribute`, got {type(graph).__name__}.")


def graph_content(
    graph: AttributionGraph,
    *,
    slug: str = "graph",
    strings: TokenStrings | None = None,
    prompt: str | None = None,
    node: float = NODE,
    edge: float = EDGE,
) -> dict[str, Any]:
    """Returns a graph in the form of circuit-tracer's JSON. See `write_circuit_tracer_graph` for the arguments.

    Nodes have the identifiers ``LAYER_LATENT_POSITION``, ``0_LAYER_POSITION`` for error terms, ``E_TOKEN_POSITION`` for
    embeddings, and ``N_TOKEN_POSITION`` for logits, where ``N`` is the number of layers plus one. An error term whose
    identifier would be that of a latent has ``LAYER_-1_POSITION``. Layers are indices of `AttributionGraph.layers`.
    The influence of a node is cumulative: the share that this node and all more influential nodes have. Nodes of the
    kind ``"rest"``, which have no position, are left out, since the format has no such nodes.

    Example:
        >>> import torch, sparsedict as sd
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), mlp, torch.nn.Linear(4, 10))
        >>> site = sd.Site(model, "1")
        >>> graph = sd.circuits.attribute(site, site.neurons, torch.tensor([1, 2, 3]), targets=[5])
        >>> [node["node_id"] for node in graph_content(graph)["nodes"] if node["feature_type"] == "logit"]
        ['2_5_2']
    """
    _check_graph(graph)
    for layer in range(len(graph.layers)):
        graph.dictionary_latents(layer)  # The identifiers require one dictionary per layer.
    strings = None if strings is None else strings_of("strings", strings)
    influence = dict(zip(map(id, graph.nodes), cumulative(graph.influence).tolist(), strict=True))
    pruned = graph if graph.is_pruned else graph.pruned(node, edge)
    shown = [index for index, own in enumerate(pruned.nodes) if own.kind != "rest"]
    texts = [_text(token) for token in _texts(graph, strings)]
    written = _Written(len(graph.layers), pruned, strings)
    nodes = {index: written.node(index, influence[id(pruned.nodes[index])]) for index in shown}
    targets, sources = pruned.edges.nonzero(as_tuple=True)
    weights = pruned.edges[targets, sources].tolist()
    return {
        "metadata": {
            "slug": slug,
            "scan": SCAN,
            "transcoder_list": [],
            "prompt_tokens": texts,
            "prompt": clean("".join(_texts(graph, strings)) if prompt is None else prompt),
            "node_threshold": node,
            "schema_version": 1,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": list(nodes.values()),
        "links": [
            {"source": nodes[source]["node_id"], "target": nodes[target]["node_id"], "weight": weight}
            for target, source, weight in zip(targets.tolist(), sources.tolist(), weights, strict=True)
            if source in nodes and target in nodes
        ],
    }


def cumulative(scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Returns the share of the sum that each score has together with all larger scores."""
    order = scores.argsort(descending=True, stable=True)
    shares = torch.empty_like(scores)
    shares[order] = scores[order].cumsum(0) / scores.sum().clamp_min(torch.finfo(scores.dtype).tiny)
    return shares.clamp_max(1.0)


class _Written:
    """The nodes of a graph as entries of the file."""

    def __init__(self, n_layers: int, graph: AttributionGraph, strings: TokenStrings | None) -> None:
        self._n, self._graph, self._strings = n_layers, graph, strings
        targets = graph.targets.tolist()
        self._first = max(targets, key=lambda index: float(graph.weights[index]))
        outside = [index for index in targets if graph.nodes[index].token is None]
        self._numbers = {index: OUTSIDE + place for place, index in enumerate(outside)}
        self._latents = {
            f"0_{own.latent}_{own.position}" for own in graph.nodes if own.layer == 0 and own.kind == "latent"
        }

    def node(self, index: int, influence: float) -> dict[str, Any]:
        own = self._graph.nodes[index]
        found = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "clerp": ""}
        form = {"latent": self._latent, "error": self._error, "token": self._token, "target": self._target}[own.kind]
        return {**found, "ctx_idx": own.position, "influence": influence, "activation": None, **form(index, own)}

    def _latent(self, index: int, own: Node) -> dict[str, Any]:
        layer, latent = own.layer or 0, own.latent or 0
        return {
            "node_id": f"{layer}_{latent}_{own.position}",
            "feature": feature_number(layer, latent),
            "layer": str(layer),
            "feature_type": "cross layer transcoder",
            "jsNodeId": f"{layer}_{latent}-0",
            "activation": float(self._graph.values[index]),
            "clerp": clean(own.label) if own.is_neuron else "",
        }

    def _error(self, _: int, own: Node) -> dict[str, Any]:
        name = f"0_{own.layer}_{own.position}"
        return {
            "node_id": f"{own.layer}_-1_{own.position}" if name in self._latents else name,
            "feature": -1,
            "layer": str(own.layer),
            "feature_type": "mlp reconstruction error",
            "jsNodeId": f"{own.layer}_-1-{own.position}",
        }

    def _token(self, _: int, own: Node) -> dict[str, Any]:
        return {
            "node_id": f"E_{own.token}_{own.position}",
            "feature": own.position,
            "layer": "E",
            "feature_type": "embedding",
            "jsNodeId": f"E_{own.token}-{own.position}",
        }

    def _target(self, index: int, own: Node) -> dict[str, Any]:
        number = self._numbers.get(index, own.token)
        probability = own.probability or 0.0
        label = clean(own.label)
        if own.token is not None:
            text = self._strings([own.token])[0] if self._strings else own.label
            label = f'Output "{_text(text)}" (p={probability:.3f})'
        return {
            "node_id": f"{self._n + 1}_{number}_{own.position}",
            "feature": number,
            "layer": str(self._n + 1),
            "feature_type": "logit",
            "jsNodeId": f"L_{number}-{own.position}",
            "token_prob": probability,
            "is_target_logit": index == self._first,
            "clerp": label,
        }


def _numbers(graph: AttributionGraph, layer: int, latents: set[int]) -> dict[int, int]:
    """Returns the latents of a layer by their indices in the records of the whole dictionary."""
    known = graph.dictionary_latents(layer)
    found = {known[latent]: latent for latent in sorted(latents)}
    return {whole: latent for whole, latent in found.items() if whole is not None}


def _is_latent(node: Mapping[str, Any]) -> bool:
    return node["feature_type"] == "cross layer transcoder"


def _texts(graph: AttributionGraph, strings: TokenStrings | None) -> list[str]:
    return list(graph.token_texts) if strings is None else list(strings(graph.tokens.tolist()))


def _text(token: str) -> str:
    return clean(token).translate(_MARKS)
