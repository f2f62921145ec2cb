"""`AttributionGraph`: the direct effects between the parts of a model on one prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from textwrap import indent
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.circuits._influence import influence, shares, smallest_set
from sparsedict.circuits._node import KINDS, Kind, Node
from sparsedict.circuits._prune import connected
from sparsedict.circuits._result import Check
from sparsedict.display import Displayed, listed, shown, table

N_CHECKED = 16


@runtime_checkable
class Checker(Protocol):
    """The model of a graph, for :meth:`AttributionGraph.check` and :meth:`AttributionGraph.neuron_cosines`."""

    def run(self, graph: AttributionGraph, nodes: Sequence[int], factor: float) -> Check: ...

    def neuron_cosines(self, graph: AttributionGraph) -> Tensor: ...


@dataclass(frozen=True, eq=False, repr=False)
class AttributionGraph(Displayed):
    r"""The direct effects between the embeddings, latents and logits of a model on one prompt.

    With attention patterns and the denominators of norms held at their values, the value of a latent or a target is
    the sum of the direct effects on it plus a constant. Before pruning, for each node :math:`i`:

    .. math::
        \text{value}_i = \sum_j \text{edge}_{ij} + \text{constant}_i

    Nodes are ordered: tokens, then the latents, error terms and rest of each layer, then targets. Edges lead from
    earlier nodes to later ones.

    Attributes:
        nodes: The nodes.
        values: Value of each node, ``[n_nodes]``: the activation of a latent, the value of a target, and the norm of
            the contribution of a token, an error term or a rest, which is summed over latents before the norm is taken.
        edges: Direct effects (target, source), ``[n_nodes, n_nodes]``. Rows of nodes that aren't latents or targets
            are zero.
        constants: Constant of each node, ``[n_nodes]``: the part of a value that is due to biases. Nodes without
            incoming edges have their value as constant.
        weights: Weight of each node as a target, ``[n_nodes]``. Weights of targets sum to one.
        layers: Names of the sites in the order of the model.
        tokens: Token ids of the prompt, ``[n_positions]``.
        token_texts: Text of each token.
        n_active: Number of latents that are active on the prompt.
        deviation: Largest relative deviation of the model with held values from an affine function.
        before_cap: Whether logits are those before the model's soft cap.
        is_pruned: Whether nodes or edges were removed.
        checked: The interventions that check the graph; None if they weren't run.
    """

    nodes: tuple[Node, ...]
    values: Float[Tensor, " n_nodes"]
    edges: Float[Tensor, "n_nodes n_nodes"]
    constants: Float[Tensor, " n_nodes"]
    weights: Float[Tensor, " n_nodes"]
    layers: tuple[str, ...]
    tokens: Int[Tensor, " n_positions"]
    token_texts: tuple[str, ...]
    n_active: int
    deviation: float
    before_cap: bool = False
    is_pruned: bool = False
    checked: Check | None = None
    checker: Checker | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.nodes)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the graph without its model, for copies and files. Copies have no :meth:`check`."""
        return {**vars(self), "checker": None}

    def of_kind(self, *kinds: Kind) -> Int[Tensor, " n"]:
        """Returns the indices of the nodes of some kinds."""
        for kind in kinds:
            checks.one_of("kinds", kind, KINDS)
        return self._mask(*kinds).nonzero().flatten()

    def _mask(self, *kinds: Kind) -> Bool[Tensor, " n_nodes"]:
        return torch.tensor([node.kind in kinds for node in self.nodes], dtype=torch.bool, device="cpu")

    def dictionary_latents(self, layer: int) -> dict[int, int | None]:
        """Returns the index of each latent of a layer in its whole dictionary, see `Node.dictionary_latent`.

        Raises:
            ValueError: If several dictionaries read the layer, so that an index stands for several latents.
        """
        nodes = [node for node in self.nodes if node.layer == layer]
        if any(node.dictionary for node in nodes):
            raise ValueError(
                f"`graph` must have one dictionary in the layer {self.layers[layer]!r}, since latents are identified "
                "by their layers and indices, but several dictionaries read it. Attribute with one of them."
            )
        return {node.latent: node.dictionary_latent for node in nodes if node.latent is not None}

    @property
    def targets(self) -> Int[Tensor, " n_targets"]:
        """Indices of the targets."""
        return self.of_kind("target")

    @cached_property
    def influence(self) -> Float[Tensor, " n_nodes"]:
        """Influence of each node on the targets, through all paths. See `docs/circuits.md`."""
        return influence(self.edges, self.weights)

    @property
    def completeness_error(self) -> float:
        """Largest difference of a value from its edges plus its constant, relative to the sum of their magnitudes."""
        difference = (self.edges.sum(-1) + self.constants - self.values).abs()
        scale = self.edges.abs().sum(-1) + self.constants.abs()
        return float((difference / scale.clamp_min(torch.finfo(scale.dtype).tiny)).max())

    def _computed(self) -> Tensor:
        return self.of_kind("latent", "target")

    @property
    def replacement_score(self) -> float:
        """Share of the influence of sources that tokens have, rather than error terms and the rest."""
        of_tokens = float(self.influence[self.of_kind("token")].sum())
        of_errors = float(self.influence[self.of_kind("error", "rest")].sum())
        return of_tokens / max(of_tokens + of_errors, 1e-30)

    @property
    def completeness_score(self) -> float:
        """Share of the direct effects that tokens and latents have, averaged over nodes by their influence."""
        explained = shares(self.edges)[:, self.of_kind("token", "latent")].sum(-1)
        computed = self._computed()
        importance = (self.influence + self.weights)[computed]
        return float((explained[computed] * importance).sum() / importance.sum().clamp_min(1e-30))

    def n_for(self, share: float = 0.8) -> int:
        """Returns how many of the most influential latents have a share of the influence of all latents with a node.

        Latents in `rest` don't count. In a graph with a node of this kind, the number grows with ``max_latents``.
        """
        scores = self.influence[self.of_kind("latent")]
        return int(smallest_set(scores, checks.in_range("share", share, 0.0, 1.0)).sum())

    def subgraph(self, keep: Bool[Tensor, " n_nodes"]) -> AttributionGraph:
        """Returns the graph of some of the nodes. Targets are always kept.

        A graph from which nodes were removed has other predictions, so it doesn't keep the interventions in `checked`.
        They run again when the graph is first printed.

        Args:
            keep: A mask, ``[n_nodes]``.

        Raises:
            TypeError: If it isn't a mask.
            ValueError: If it has another length.
        """
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
            got = f"a tensor of {keep.dtype}" if isinstance(keep, Tensor) else type(keep).__name__
            raise TypeError(f"`keep` must be a mask of the nodes, a tensor of dtype bool, got {got}.")
        if keep.shape != (len(self),):
            raise ValueError(f"`keep` must have an entry for each of {len(self)} nodes, got {tuple(keep.shape)}.")
        keep = keep.cpu().clone()
        keep[self.targets] = True
        index = keep.nonzero().flatten()
        return replace(
            self,
            nodes=tuple(self.nodes[i] for i in index.tolist()),
            edges=self.edges[index][:, index],
            is_pruned=self.is_pruned or len(index) < len(self),
            checked=self.checked if len(index) == len(self) else None,
            **{name: getattr(self, name)[index] for name in ("values", "constants", "weights")},
        )

    def pruned(self, node: float = 0.8, edge: float = 0.98) -> AttributionGraph:
        """Returns the most influential part of the graph.

        First the most influential nodes are kept, then the most influential edges between them, and then nodes without
        an edge to a later node, and latents without an edge from an earlier one, are removed. Tokens are kept.

        Args:
            node: Share of the influence that the kept nodes have.
            edge: Share of the influence that the kept edges have.

        Source: Ameisen et al., "Circuit Tracing: Revealing Computational Graphs in Language Models", 2025.
        """
        checks.in_range("node", node, 0.0, 1.0, open_low=True)
        checks.in_range("edge", edge, 0.0, 1.0, open_low=True)
        fixed, is_latent = self._mask("token", "target"), self._mask("latent")
        keep = smallest_set(self.influence, node) | fixed
        keep, kept_edges = connected(self.edges, self.weights, keep, fixed, is_latent, edge)
        found = replace(self, edges=torch.where(kept_edges, self.edges, 0.0), is_pruned=True, checked=None)
        return found.subgraph(keep)

    def check(self, n: int = N_CHECKED, *, nodes: Sequence[int] | None = None, factor: float = 0.0) -> Check:
        """Intervenes on nodes, and compares the changes of the targets with those that the graph predicts.

        Each intervention multiplies the contribution of one latent, token or error term by ``factor``. The model runs
        with everything held, where the prediction must be exact up to rounding, with norms, attention patterns or both
        held, and without holding anything. `Check` has the changes of each run. The predictions of a pruned graph leave
        out the effects through removed nodes and edges.

        Args:
            n: Number of latents: the most influential ones.
            nodes: Indices of latents, tokens and error terms, instead of ``n``.
            factor: 0 to ablate; other values except 1 to steer.

        Raises:
            ValueError: If the graph has no model or no latents, a node is a target or a rest, or ``factor`` is 1.
        """
        if self.checker is None:
            raise ValueError("`check` needs the model of the graph, but the graph was loaded without it.")
        if nodes is None:
            latents = self.of_kind("latent")
            if not len(latents):
                raise ValueError("`nodes` must be given, such as tokens, since the graph has no latents.")
            order = self.influence[latents].argsort(descending=True, stable=True)
            nodes = latents[order[: checks.at_least("n", n, 1)]].tolist()
        chosen = checks.integers("nodes", nodes, 0, "a list of indices of nodes")
        for index in chosen:
            if index >= len(self) or self.nodes[index].kind not in ("token", "latent", "error"):
                raise ValueError(f"`nodes` must be indices of latents, tokens or error terms, got {index}.")
        if checks.in_range("factor", factor, -math.inf) == 1:
            raise ValueError("`factor` must differ from 1, which changes nothing, got 1.0.")
        return self.checker.run(self, chosen, float(factor))

    def neuron_cosines(self) -> Float[Tensor, " n_nodes"]:
        """Returns how similar each latent is to a neuron: the largest cosine of their decoder rows in its layer.

        A latent with a cosine near 1 simulates a neuron. The values of other nodes are NaN.

        Raises:
            ValueError: If the graph has no model, or the weights of its MLPs can't be found.
        """
        if self.checker is None:
            raise ValueError("`neuron_cosines` needs the model of the graph, but the graph was loaded without it.")
        return self.checker.neuron_cosines(self)

    def with_check(self, n: int = N_CHECKED) -> AttributionGraph:
        """Returns the graph with the result of :meth:`check`, which is shown whenever the graph is printed."""
        return self if not len(self.of_kind("latent")) else replace(self, checked=self.check(n))

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the lines that are shown when a graph is printed."""
        names = ["neuron" if node.is_neuron and node.kind == "latent" else node.kind for node in self.nodes]
        order = ("token", "latent", "neuron", "error", "rest", "target")
        parts = ", ".join(f"{n:,} {name}" for name in order if (n := names.count(name)))
        units = " and ".join(f"{name}s" for name in ("latent", "neuron") if name in names) or "latents"
        checked = self.checked
        if checked is None and self.checker is not None and len(self.of_kind("latent")):
            checked = self.check()
            object.__setattr__(self, "checked", checked)
        pruned = ", pruned" if self.is_pruned else ""
        return [
            (
                "nodes",
                f"{len(self):,} ({parts}), of {self.n_active:,} active {units}{pruned}",
            ),
            ("edges", f"{int((self.edges != 0).sum()):,}"),
            ("replacement score", shown(self.replacement_score, ".3f")),
            ("completeness score", shown(self.completeness_score, ".3f")),
            *(checked.display_rows() if checked is not None else [("interventions", self._not_run())]),
        ]

    def _not_run(self) -> str:
        return "not run" if len(self.of_kind("latent")) else "none, since no latent has a node"

    def __repr__(self) -> str:
        return "AttributionGraph\n" + indent(listed(self.display_rows()), "  ")

    def _repr_html_(self) -> str:
        return table("AttributionGraph", self.display_rows())
