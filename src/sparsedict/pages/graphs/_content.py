"""The data of the page of a graph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedict.circuits import AttributionGraph, Check
from sparsedict.pages._shards import rounded
from sparsedict.pages._strings import TokenStrings, visible

DIGITS = 7


def carried(graph: AttributionGraph, node: float, max_nodes: int) -> tuple[AttributionGraph, float, Tensor]:
    """Returns the part of a graph that a page has, the largest share of its slider, and the cumulative influence.

    Args:
        graph: The graph.
        node: Largest share of the influence of the nodes.
        max_nodes: Largest number of nodes besides tokens and targets.
    """
    scores = graph.influence.double()
    order = scores.argsort(descending=True, stable=True)
    total = scores.sum().clamp_min(1e-300)
    before = torch.empty_like(scores)
    before[order] = (scores[order].cumsum(0) - scores[order]) / total
    fixed = torch.zeros(len(graph), dtype=torch.bool, device="cpu")
    fixed[graph.of_kind("token", "target")] = True
    chosen = ~fixed & (before < node) & (scores > 0)
    if int(chosen.sum()) > max_nodes:
        last = order[chosen[order]][max_nodes]
        node = float(before[last])
        chosen &= before < node
    keep = chosen | fixed
    return graph.subgraph(keep), node, before[keep]


def content(graph: AttributionGraph, strings: TokenStrings | None, title: str, node: float, max_nodes: int) -> Any:
    """Returns the content of the file of the graph."""
    own, widest, before = carried(graph, node, max_nodes)
    index = {id(one): place for place, one in enumerate(graph.nodes)}
    scores = graph.influence[[index[id(one)] for one in own.nodes]]
    columns = [numbers(own.values), numbers(scores), numbers(own.weights), numbers(before)]
    several = {one.layer for one in graph.nodes if one.dictionary}
    texts = list(graph.token_texts) if strings is None else strings(graph.tokens.tolist())
    return {
        "title": title,
        "layers": list(graph.layers),
        "tokens": [visible(text) for text in texts],
        "ids": graph.tokens.tolist(),
        "nodes": [
            [
                *(one.kind, one.layer, one.position, one.latent, int(one.is_neuron)),
                *(_label(one, strings), one.probability, *values),
                one.dictionary if one.layer in several else None,
            ]
            for one, *values in zip(own.nodes, *columns, strict=True)
        ],
        "edges": _edges(own),
        "widest": widest,
        "facts": {
            "n_nodes": len(graph),
            "n_active": graph.n_active,
            "n_80": graph.n_for(0.8),
            "replacement": number(graph.replacement_score),
            "completeness": number(graph.completeness_score),
            "deviation": number(graph.deviation),
            "before_cap": graph.before_cap,
            "is_pruned": graph.is_pruned,
        },
        "check": _check(graph.checked),
    }


def _label(node: Any, strings: TokenStrings | None) -> str:
    if node.token is not None and strings is not None:
        return visible(strings([node.token])[0])
    return visible(node.label)


def _edges(graph: AttributionGraph) -> list[list[Any]]:
    found = []
    for target, row in enumerate(graph.edges):
        sources = row.nonzero().flatten()
        if len(sources):
            pairs = zip(sources.tolist(), numbers(row[sources]), strict=True)
            found.append([target, [item for pair in pairs for item in pair]])
    return found


def _check(check: Check | None) -> dict[str, Any] | None:
    if check is None:
        return None
    return {
        "n": len(check.nodes),
        "factor": check.factor,
        "frozen": number(check.frozen_error),
        "is_pruned": check.is_pruned,
        "measured": [[held, number(correlation), number(error)] for held, correlation, error in check.rows()],
    }


def numbers(values: Tensor) -> list[float | None]:
    """Returns numbers with few digits; None for those that aren't finite."""
    found = rounded(np.asarray(values.double().numpy()), DIGITS).tolist()
    return [value if math.isfinite(value) else None for value in found]


def number(value: float) -> float | None:
    """Returns a number with few digits; None if it isn't finite."""
    return numbers(torch.tensor([value], dtype=torch.float64, device="cpu"))[0]
