"""Interventions on the nodes of a graph, in the model with held values and in the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sparsedict.circuits._change import Change, changed
from sparsedict.circuits._cut import Pass
from sparsedict.circuits._effects import Columns
from sparsedict.circuits._graph import AttributionGraph
from sparsedict.circuits._held import Held
from sparsedict.circuits._prompt import Bases, Prompt
from sparsedict.circuits._result import Check
from sparsedict.circuits._targets import ResolvedTarget
from sparsedict.circuits._units import by_position
from sparsedict.torch_state import in_own_state

COPIES_AT_ONCE = 16
"""Largest number of copies of the prompt in one forward pass."""

HELD: dict[str, tuple[Held, ...]] = {
    "unfrozen": (),
    "norms_held": ("norms",),
    "attention_held": ("attention",),
    "both_held": ("attention", "norms"),
}
"""The held values of each measurement of `Check` in the model itself."""


@dataclass(eq=False)
class Interventions:
    """Multiplies the contributions of single nodes by a factor, and measures the targets.

    Attributes:
        prompt: The prompt.
        columns: The sources of direct effects.
        expanded: Columns of the latents that are nodes of the whole graph.
        targets: The targets.
        memory: Number of bytes for the activations of the copies of the prompt in one forward pass.
        places: Column of a latent's node by its layer, position, index and number of the dictionary.
    """

    prompt: Prompt
    columns: Columns
    expanded: Tensor
    targets: Sequence[ResolvedTarget]
    memory: int
    places: dict[tuple[int, int, int, int], int] = field(init=False)

    def __post_init__(self) -> None:
        columns, own = self.columns, self.expanded
        sites, units = columns.sites[own].tolist(), columns.units[own].tolist()
        reading = [self.prompt.reading(name) for name in self.prompt.names]
        keys = zip(
            sites,
            columns.positions[own].tolist(),
            columns.latents[own].tolist(),
            (reading[site].index(unit) for site, unit in zip(sites, units, strict=True)),
            strict=True,
        )
        self.places = dict(zip(keys, range(len(self.expanded)), strict=True))

    @property
    def copies_at_once(self) -> int:
        """Number of copies of the prompt in one forward pass."""
        first = self.prompt.first
        # A pass makes logits and their changes, and stores the inputs and outputs of the sites.
        kept = [*first.inputs.values(), *first.outputs.values(), first.logits, first.logits]
        n_bytes = sum(value.numel() * value.element_size() for value in kept) + self.prompt.cut.held.largest
        return max(1, min(COPIES_AT_ONCE, self.memory // n_bytes))

    @in_own_state
    @torch.no_grad()
    def run(self, graph: AttributionGraph, nodes: Sequence[int], factor: float) -> Check:
        """Intervenes on nodes one at a time."""
        with self.prompt.evaluating():
            return self._run(graph, nodes, factor)

    def _run(self, graph: AttributionGraph, nodes: Sequence[int], factor: float) -> Check:
        changes = [self._change(graph, index, factor - 1) for index in nodes]
        before, originally = self._values(self.prompt.first, True), self._values(self.prompt.first, False)
        measured: dict[str, list[Tensor]] = {}
        for start in range(0, len(changes), self.copies_at_once):
            chunk = changes[start : start + self.copies_at_once]
            measured.setdefault("frozen", []).append(self._values(_Frozen(self, chunk, factor).run(), True) - before)
            for name, kinds in HELD.items():
                after = self._values(self._pass(chunk, kinds), False)
                measured.setdefault(name, []).append(after - originally)
        predicted = predict(graph, nodes, factor)
        found = {name: torch.cat(own).cpu() for name, own in measured.items()}
        return Check(tuple(nodes), factor, predicted, **found, is_pruned=graph.is_pruned)

    @in_own_state
    @torch.no_grad()
    def neuron_cosines(self, graph: AttributionGraph) -> Tensor:
        """Returns the largest cosine of a latent's decoder row with that of a neuron of its layer; NaN elsewhere."""
        found = self.columns.values.new_full((len(graph),), torch.nan)
        for layer, name in enumerate(graph.layers):
            nodes = [i for i, node in enumerate(graph.nodes) if node.kind == "latent" and node.layer == layer]
            if not nodes:
                continue
            own = self.expanded[[self._place(graph, index) for index in nodes]]
            neurons = normalize(self.prompt.cut.sites[name].neurons.decoder, dim=-1)
            rows = torch.stack([self._row(column, name) for column in own.tolist()])
            found[nodes] = (normalize(rows, dim=-1).to(neurons) @ neurons.T).amax(-1).to(found)
        return found

    def _row(self, column: int, site: str) -> Tensor:
        """Returns the decoder row of a latent at the site that it reads."""
        unit = self.prompt.units[int(self.columns.units[column])]
        local = self.columns.local[column : column + 1].to(unit.latents.device)
        part = unit.contributions(local)[unit.writes.index(site)]
        return part[0] / unit.values[local[0]]

    def _change(self, graph: AttributionGraph, index: int, relative: float) -> Change:
        """Returns the change that makes the contribution of a node larger by a fraction."""
        node, prompt, columns = graph.nodes[index], self.prompt, self.columns
        assert node.position is not None
        if node.kind == "token":
            return Change(node.position, embedding=relative * prompt.rows(prompt.first.embedded)[node.position])
        assert node.layer is not None
        if node.kind == "error":
            name = prompt.names[node.layer]
            return Change(node.position, writes={name: relative * prompt.errors[name][node.position]})
        place = self._place(graph, index)
        column = int(self.expanded[place])
        own, local = prompt.units[int(columns.units[column])], columns.local[column : column + 1]
        parts = zip(own.writes, own.contributions(local.to(own.latents.device)), strict=True)
        return Change(node.position, writes={name: relative * part[0] for name, part in parts}, place=place)

    def _place(self, graph: AttributionGraph, index: int) -> int:
        node = graph.nodes[index]
        assert node.layer is not None
        assert node.position is not None
        assert node.latent is not None
        return self.places[node.layer, node.position, node.latent, node.dictionary]

    def _values(self, pass_: Pass, frozen: bool) -> Tensor:
        """Returns the targets in each copy, ``[n_copies, n_targets]``."""
        prompt = self.prompt
        found = []
        for target in self.targets:
            if target.function is not None:
                found.append(torch.stack([target.function(own) for own in prompt.logits(pass_, target.position)]))
                continue
            assert target.latent is not None
            own, local = prompt.units[target.latent[0]], torch.tensor([target.latent[1]], device="cpu")
            x = prompt.inputs_of(own.reads, pass_).unflatten(0, (-1, prompt.n_positions))[:, target.position]
            found.append(own.linear(local, x) if frozen else own.exact(local, x))
        return torch.stack(found, -1).to(self.columns.values.dtype)

    def _pass(self, changes: Sequence[Change], kinds: Sequence[Held]) -> Pass:
        """Runs the model itself, with some values held, and with a change in each copy."""

        def write(name: str, original: Tensor, _: Tensor) -> Tensor:
            return changed(original, changes, name)

        return self.prompt.cut.run_itself(lambda original: changed(original, changes), write, len(changes), kinds)


class _Frozen:
    """A pass of the model with held values, in which active latents respond linearly to their inputs."""

    def __init__(self, interventions: Interventions, changes: Sequence[Change], factor: float) -> None:
        self._all, self._changes, self._factor = interventions, changes, factor
        self._relative = interventions.columns.values.new_zeros(len(changes), len(interventions.expanded))
        self._bases = Bases(interventions.prompt, only_dependent=True)
        self._at_prompt = Bases(interventions.prompt, only_dependent=True)

    def run(self) -> Pass:
        prompt, n = self._all.prompt, len(self._changes)
        embedded = prompt.first.embedded
        return prompt.cut.run(
            embed=lambda _: changed(embedded.repeat(n, *[1] * (embedded.ndim - 1)), self._changes),
            write=self._write,
            n_copies=n,
        )

    def _write(self, name: str, original: Tensor, x: Tensor) -> Tensor:
        prompt, columns = self._all.prompt, self._all.columns
        n = len(self._changes)
        rows = prompt.rows(x)
        at_prompt = prompt.rows(prompt.first.inputs[name])
        difference = (rows - at_prompt.repeat(n, 1)).unflatten(0, (n, -1))
        self._respond(name, difference)
        base = self._bases.at(name, x) - self._at_prompt.at(name, prompt.first.inputs[name]).repeat(n, 1)
        found = prompt.rows(prompt.first.outputs[name]).repeat(n, 1) + base
        found = found.unflatten(0, (n, -1)).clone()
        starts = torch.tensor([0, *(len(chosen) for chosen in columns.chosen)], device="cpu").cumsum(0).tolist()
        for own, chosen, parts, start in zip(prompt.units, columns.chosen, columns.contributions, starts, strict=False):
            if name not in own.writes:
                continue
            part = parts[own.writes.index(name)]
            here = (self._all.expanded >= start) & (self._all.expanded < start + len(chosen))
            local = self._all.expanded[here] - start
            relative = self._relative[:, here]
            for position, place in by_position(own, chosen[local].to(own.positions.device), prompt.n_positions):
                found[:, position] += relative[:, place].to(part) @ part[local[place].to(part.device)]
        # Latents change by their relative changes above.
        others = [own if own.place is None else Change(own.position) for own in self._changes]
        return changed(found, others, name).to(original.dtype).reshape(-1, *original.shape[1:])

    def _respond(self, name: str, difference: Tensor) -> None:
        """Computes the relative changes of the latents that read a site."""
        prompt, columns, expanded = self._all.prompt, self._all.columns, self._all.expanded
        layer = prompt.names.index(name)
        for index, own in enumerate(prompt.units):
            here = ((columns.units[expanded] == index) & (columns.sites[expanded] == layer)).nonzero().flatten()
            if not len(here):
                continue
            start = sum(prompt.first.inputs[site].shape[-1] for site in own.reads[: own.reads.index(name)])
            for chunk in here.split(2**8):
                local = columns.local[expanded[chunk]].to(own.latents.device)
                rows = own.encoder_rows(local)[:, start : start + difference.shape[-1]]
                change = torch.einsum("cmd,md->cm", difference[:, own.positions[local]].to(rows), rows)
                self._relative[:, chunk] = (change / own.values[local]).to(self._relative)
        for copy, given in enumerate(self._changes):
            if given.place is not None and columns.sites[expanded[given.place]] == layer:
                self._relative[copy, given.place] = self._factor - 1


def predict(graph: AttributionGraph, nodes: Sequence[int], factor: float) -> Tensor:
    """Returns the changes of the targets that a graph predicts, ``[len(nodes), n_targets]``.

    A node that changes by a fraction changes all of its direct effects by this fraction.
    """
    n, given = len(graph), torch.tensor(list(nodes), dtype=torch.int64, device="cpu")
    copies = torch.arange(len(given), device="cpu")
    is_latent = torch.zeros(n, dtype=torch.bool, device="cpu")
    is_latent[graph.of_kind("latent")] = True
    relative = graph.edges.new_zeros(len(given), n)
    relative[copies, given] = factor - 1
    change = relative
    for _ in range(n):
        change = relative @ graph.edges.T
        new = torch.where(is_latent, change / torch.where(is_latent, graph.values, 1.0), 0.0)
        new[copies, given] = factor - 1
        if torch.equal(new, relative):
            break
        relative = new
    return change[:, graph.targets]
