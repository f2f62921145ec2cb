"""Assembles the nodes and edges of a graph from direct effects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsedict.circuits._effects import Columns
from sparsedict.circuits._expand import Expansion
from sparsedict.circuits._graph import AttributionGraph, Checker
from sparsedict.circuits._node import Node
from sparsedict.circuits._prompt import Prompt
from sparsedict.circuits._targets import ResolvedTarget

Text = Callable[[int], str]


@dataclass(eq=False)
class _Sources:
    """The nodes that aren't targets, and the columns that each of them sums."""

    nodes: list[Node] = field(default_factory=list)
    columns: list[Tensor] = field(default_factory=list)

    def add(self, node: Node, *columns: Tensor, influence: Tensor | None = None) -> None:
        """Adds a node, unless no column remains. Columns without influence have no edges, so a sum leaves them out."""
        found = torch.cat(columns)
        found = found if influence is None else found[influence[found] > 0]
        if len(found):
            self.nodes.append(node)
            self.columns.append(found)


def build(
    prompt: Prompt,
    columns: Columns,
    expansion: Expansion,
    targets: Sequence[ResolvedTarget],
    of_targets: tuple[Tensor, Tensor, Tensor],
    checker: Checker,
    text: Text,
    most: int,
) -> AttributionGraph:
    """Returns the graph of the chosen latents.

    Args:
        prompt: The prompt.
        columns: The sources of direct effects.
        expansion: The direct effects on the chosen latents.
        targets: The targets.
        of_targets: The direct effects on the targets, their constants and their weights.
        checker: Runs interventions.
        text: Texts of token ids.
        most: Largest number of tokens and error terms with a node.
    """
    ids = prompt.tokens
    sources = _sources(prompt, columns, expansion, [text(token) for token in ids.tolist()], most)
    owner, columns_of = (
        torch.repeat_interleave(
            torch.arange(len(sources.nodes), device="cpu"),
            torch.tensor([len(own) for own in sources.columns], device="cpu"),
        ),
        torch.cat(sources.columns),
    )
    rows, constants, weights = of_targets
    n, n_targets = len(sources.nodes), len(targets)
    edges = rows.new_zeros(n + n_targets, n + n_targets)
    place = torch.full((columns.n,), -1, device="cpu")
    place[columns_of] = owner
    of_latents = place[expansion.latents]
    for begin in range(0, len(of_latents), 2**8):
        chunk = slice(begin, begin + 2**8)
        edges[of_latents[chunk], :n] = rows.new_zeros(len(of_latents[chunk]), n).index_add_(
            1, owner, expansion.rows[chunk][:, columns_of]
        )
    edges[n:, :n] = rows.new_zeros(n_targets, n).index_add_(1, owner, rows[:, columns_of])
    values = torch.cat([_values(prompt, columns, sources), rows.new_zeros(n_targets)])
    values[of_latents] = columns.values[expansion.latents]
    values[n:] = _target_values(prompt, targets).to(values)
    all_constants = values.clone()
    all_constants[of_latents], all_constants[n:] = expansion.constants, constants
    nodes = [_target(prompt, target) for target in targets]
    return AttributionGraph(
        nodes=(*sources.nodes, *nodes),
        values=values,
        edges=edges,
        constants=all_constants,
        weights=torch.cat([weights.new_zeros(n), weights]),
        layers=prompt.names,
        tokens=ids.cpu(),
        token_texts=tuple(text(token) for token in ids.tolist()),
        n_active=sum(len(own) for own in prompt.units),
        deviation=prompt.affinity.inputs,
        before_cap=prompt.affinity.before_cap,
        checker=checker,
    )


def _sources(prompt: Prompt, columns: Columns, expansion: Expansion, labels: list[str], most: int) -> _Sources:
    n = prompt.n_positions
    own = torch.zeros(columns.n, dtype=torch.bool, device="cpu")
    own[expansion.latents] = True
    others = torch.arange(columns.errors.start, columns.tokens.stop, device="cpu")
    if len(others) > most:
        others = others[expansion.influence[others].topk(most).indices]
    own[others] = True
    found = _Sources()
    tokens = torch.arange(columns.tokens.start, columns.tokens.stop, device="cpu")
    for column in tokens[own[tokens]].tolist():
        position = column - columns.tokens.start
        node = Node("token", None, position, None, labels[position], int(prompt.tokens[position]))
        found.add(node, torch.tensor([column], device="cpu"))
    found.add(Node("rest", None, None, None, "rest of the tokens"), tokens[~own[tokens]], influence=expansion.influence)
    for layer, name in enumerate(prompt.names):
        of_layer = (columns.sites == layer).nonzero().flatten()
        for column in of_layer[own[of_layer]].tolist():
            node = prompt.node_of("latent", int(columns.units[column]), int(columns.local[column]))
            found.add(node, torch.tensor([column], device="cpu"))
        begin = columns.errors.start + layer * n
        errors = torch.arange(begin, begin + n, device="cpu")
        for column in errors[own[errors]].tolist():
            node = Node("error", layer, column - begin, None, f"error of {name}")
            found.add(node, torch.tensor([column], device="cpu"))
        rest = [
            of_layer[~own[of_layer]],
            errors[~own[errors]],
            torch.tensor([columns.left.start + layer], device="cpu"),
        ]
        found.add(Node("rest", layer, None, None, f"rest of {name}"), *rest, influence=expansion.influence)
    return found


def _values(prompt: Prompt, columns: Columns, sources: _Sources) -> Tensor:
    """Returns the norm of the contribution of each token, error term and rest. Those of latents are set elsewhere."""
    embedded = prompt.rows(prompt.first.embedded)
    found = columns.values.new_zeros(len(sources.nodes))
    for index, node in enumerate(sources.nodes):
        if node.kind == "token":
            found[index] = embedded[node.position].norm()
        elif node.kind == "error" and node.layer is not None:
            found[index] = prompt.errors[prompt.names[node.layer]][node.position].norm()
        elif node.kind == "rest":
            found[index] = _norm_of_sum(prompt, columns, sources.columns[index])
    return found


def _norm_of_sum(prompt: Prompt, columns: Columns, chosen: Tensor) -> float:
    """Returns the norm of the sum of the contributions of some columns, over all positions and sites."""
    included = torch.zeros(columns.n, dtype=torch.bool, device="cpu")
    included[chosen] = True
    embedded = prompt.rows(prompt.first.embedded).detach()
    parts = [embedded * included[columns.tokens, None].to(embedded)]
    of_latents = included[: columns.n_latents].split([len(own) for own in columns.chosen])
    for layer, name in enumerate(prompt.names):
        begin = columns.errors.start + layer * prompt.n_positions
        error = prompt.errors[name]
        total = error * included[begin : begin + prompt.n_positions, None].to(error)
        if included[columns.left.start + layer]:
            total = total + columns.rest[name]
        for own, local, here, parts_of in zip(
            prompt.units, columns.chosen, of_latents, columns.contributions, strict=True
        ):
            if name in own.writes:
                part = parts_of[own.writes.index(name)]
                positions = own.positions[local[here].to(own.positions.device)].to(total.device)
                total = total.index_add(0, positions, part[here.to(part.device)].to(total))
        parts.append(total)
    return float(torch.stack([part.detach().double().square().sum().cpu() for part in parts]).sum().sqrt())


def _target_values(prompt: Prompt, targets: Sequence[ResolvedTarget]) -> Tensor:
    found = []
    for target in targets:
        if target.function is not None:
            found.append(float(target.function(prompt.logits(prompt.first, target.position)[0])))
        elif target.latent is not None:
            found.append(float(prompt.units[target.latent[0]].values[target.latent[1]]))
    return torch.tensor(found, dtype=torch.float64, device="cpu")


def _target(prompt: Prompt, target: ResolvedTarget) -> Node:
    if target.latent is None:
        return Node("target", None, target.position, None, target.label, target.token, target.probability)
    return prompt.node_of("target", *target.latent, target.label)
