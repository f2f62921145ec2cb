"""Direct effects on targets, by batched backward passes through the model with held values."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsedict.circuits._cut import Pass
from sparsedict.circuits._prompt import Bases, Prompt
from sparsedict.circuits._targets import ResolvedTarget
from sparsedict.circuits._unembedding import through_unembedding
from sparsedict.circuits._units import by_position
from sparsedict.sites.models import without_parameter_gradients


class Columns:
    """The sources of direct effects, in the order of the columns: latents, error terms, token embeddings, the rest.

    Attributes:
        units: Index of the dictionary of each latent that may become a node, ``[n_latents]``.
        local: Index of the latent among the active latents of its dictionary.
        sites: Index of its layer.
        positions: Its position.
        values: Its activation.
        n_latents: Number of these latents.
    """

    def __init__(self, prompt: Prompt, most: int, required: Sequence[tuple[int, int]] = ()) -> None:
        parts = [
            (torch.full_like(own.latents, i), torch.arange(len(own), device="cpu"))
            for i, own in enumerate(prompt.units)
        ]
        empty = torch.zeros(0, dtype=torch.int64, device="cpu")
        self.units: Tensor = torch.cat([empty, *(first.cpu() for first, _ in parts)])
        self.local: Tensor = torch.cat([empty, *(second for _, second in parts)])
        self._prompt = prompt
        if len(self.units) > most:
            sizes = self._sizes()
            for unit, local in required:
                sizes[(self.units == unit) & (self.local == local)] = torch.inf
            chosen = sizes.topk(most).indices.sort().values
            self.units, self.local = self.units[chosen], self.local[chosen]
        self.n_latents: int = len(self.units)
        self.chosen = [self.local[self.units == i] for i in range(len(prompt.units))]
        of = list(zip(prompt.units, self.chosen, strict=True))
        self.contributions: list[list[Tensor]] = [
            own.contributions(chosen.to(own.latents.device)) for own, chosen in of
        ]
        self.positions: Tensor = torch.cat([empty, *(own.positions.cpu()[chosen] for own, chosen in of)])
        self.latents: Tensor = torch.cat([empty, *(own.latents.cpu()[chosen] for own, chosen in of)])
        self.values: Tensor = torch.cat(
            [torch.zeros(0, device="cpu", dtype=torch.float32), *(own.values.cpu()[chosen] for own, chosen in of)]
        )
        self.sites: Tensor = torch.cat([empty, *(prompt.layers_of(own, chosen) for own, chosen in of)])
        self.rest: dict[str, Tensor] = self._rest()
        n_errors = len(prompt.names) * prompt.n_positions
        self.errors = slice(self.n_latents, self.n_latents + n_errors)
        self.tokens = slice(self.errors.stop, self.errors.stop + prompt.n_positions)
        self.left = slice(self.tokens.stop, self.tokens.stop + len(prompt.names))
        self.n: int = self.left.stop

    def _sizes(self) -> Tensor:
        """Returns the norm of the contribution of each active latent."""
        found = []
        for own in self._prompt.units:
            for chunk in torch.arange(len(own), device="cpu").split(2**13):
                parts = own.contributions(chunk.to(own.latents.device))
                found.append(torch.cat(parts, -1).norm(dim=-1).cpu())
        return torch.cat(found)

    def _rest(self) -> dict[str, Tensor]:
        """Returns the sum of the contributions of the latents without a column, ``[n_positions, d]``."""
        prompt = self._prompt
        found = {name: prompt.rows(prompt.first.outputs[name]) - prompt.errors[name] for name in prompt.names}
        if self.n_latents == sum(map(len, prompt.units)):
            return {name: torch.zeros_like(value) for name, value in found.items()}
        for own, chosen, parts in zip(prompt.units, self.chosen, self.contributions, strict=True):
            bases = own.base(prompt.inputs_of(own.reads, prompt.first)).detach().split(own.widths, -1)
            positions = own.positions[chosen.to(own.positions.device)]
            for name, part, base in zip(own.writes, parts, bases, strict=True):
                found[name] = found[name] - prompt.at_kept(base).to(found[name])
                found[name] = found[name].index_add(0, positions.to(part.device), -part.to(found[name]))
        return found


class DirectEffects:
    """The direct effects of all columns on targets.

    Args:
        prompt: The prompt.
        columns: The sources.
        targets: The targets. Those that are functions of the logits are differentiated together.
        memory: Number of bytes for the gradients of one batch.
    """

    def __init__(self, prompt: Prompt, columns: Columns, targets: Sequence[ResolvedTarget], memory: int) -> None:
        self._prompt, self._columns = prompt, columns
        self._leaves: dict[str, Tensor] = {}
        bases = Bases(prompt, only_dependent=True)
        first = prompt.first

        def embed(_: Tensor) -> Tensor:
            self._leaves["embedding"] = first.embedded.detach().clone().requires_grad_()
            return self._leaves["embedding"]

        def write(name: str, original: Tensor, x: Tensor) -> Tensor:
            leaf = self._leaves[f"site {name}"] = first.outputs[name].detach().clone().requires_grad_()
            base = bases.at(name, x).reshape(leaf.shape).to(leaf.dtype)
            return leaf + base - base.detach()

        with torch.enable_grad(), without_parameter_gradients(prompt.cut.model):
            self._pass = prompt.cut.run(embed=embed, write=write)
        self._given = tuple(target for target in targets if target.function is not None)
        # A batched product with an attention pattern copies the pattern for each gradient.
        n_bytes = sum(leaf.numel() * leaf.element_size() for leaf in self._leaves.values()) + prompt.cut.held.largest
        self.batch_size: int = max(1, min(128, memory // max(n_bytes, 1)))
        self._n_batched = max(
            1, min(self.batch_size, memory // (2 * first.logits.numel() * first.logits.element_size()))
        )

    def of_functions(self) -> tuple[Tensor, Tensor]:
        """Returns the direct effects on the functions of the logits, ``[n_functions, n_columns]``, and constants."""
        short = through_unembedding(self._prompt, self._pass, self._given)
        if short is None:
            outputs, n_batched = self._functions(), self._n_batched
            seeds = torch.eye(len(outputs), dtype=outputs.dtype, device=outputs.device)
        else:
            (outputs, seeds), n_batched = short, self.batch_size
        found = [self._contract(self._gradients([outputs], [own]), len(own)) for own in seeds.split(n_batched)]
        constants = torch.stack(self._values(self._prompt.zero))
        return torch.cat(found), constants.to(self._columns.values)

    @torch.enable_grad()
    def _functions(self) -> Tensor:
        return torch.stack(self._values(self._pass))

    def _values(self, pass_: Pass) -> list[Tensor]:
        at = [self._prompt.logits(pass_, target.position)[0] for target in self._given]
        return [own.function(logits) for own, logits in zip(self._given, at, strict=True) if own.function is not None]

    def of_latents(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the direct effects on some latents, and their constants.

        Args:
            latents: Columns of the latents.

        Returns:
            The direct effects ``[n, n_columns]``, and the constants ``[n]``, which are the values of the latents
            without token embeddings, other latents and error terms.
        """
        prompt, columns = self._prompt, self._columns
        seeds: dict[str, Tensor] = {}
        constants = columns.values.new_zeros(len(latents))
        for index in columns.units[latents].unique().tolist():
            own = prompt.units[index]
            here = (columns.units[latents] == index).nonzero().flatten()
            local = columns.local[latents[here]].to(own.latents.device)
            rows, offsets = own.offsets(local)
            positions = own.positions[local]
            at_zero = prompt.inputs_of(own.reads, prompt.zero)[positions]
            constants[here] = (offsets + (rows * at_zero.to(rows)).sum(-1)).to(constants)
            widths = [prompt.first.inputs[name].shape[-1] for name in own.reads]
            for name, part in zip(own.reads, rows.split(widths, -1), strict=True):
                if name not in seeds:
                    like = prompt.rows(self._pass.inputs[name])
                    seeds[name] = like.new_zeros(len(latents), *like.shape)
                seeds[name][here.to(part.device), positions] += part.to(seeds[name])
        outputs = [self._pass.inputs[name] for name in seeds]
        given = [seed.reshape(len(latents), *out.shape) for seed, out in zip(seeds.values(), outputs, strict=True)]
        return self._contract(self._gradients(outputs, given), len(latents)), constants

    def _gradients(self, outputs: list[Tensor], seeds: list[Tensor]) -> dict[str, Tensor]:
        """Returns the gradients by the leaves, ``[n, n_positions, d]``. Leaves without effect are left out."""
        pairs = [(out, seed) for out, seed in zip(outputs, seeds, strict=True) if out.requires_grad]
        if not pairs:
            return {}
        leaves = list(self._leaves.values())
        outs, given = zip(*pairs, strict=True)
        found = batched_gradients(outs, leaves, given)
        return {
            name: value.reshape(len(value), -1, value.shape[-1])
            for name, value in zip(self._leaves, found, strict=True)
            if value is not None
        }

    def _contract(self, gradients: dict[str, Tensor], n: int) -> Tensor:
        prompt, columns = self._prompt, self._columns
        total = torch.zeros(n, columns.n, dtype=columns.values.dtype, device="cpu")
        starts = torch.tensor([0, *(len(chosen) for chosen in columns.chosen)], device="cpu").cumsum(0).tolist()
        for own, chosen, parts, start in zip(prompt.units, columns.chosen, columns.contributions, starts, strict=False):
            for name, part in zip(own.writes, parts, strict=True):
                gradient = gradients.get(f"site {name}")
                if gradient is None or not len(chosen):
                    continue
                found = gradient.new_zeros(n, len(chosen))
                for position, place in by_position(own, chosen.to(own.positions.device), prompt.n_positions):
                    found[:, place] = gradient[:, position] @ part[place].to(gradient).T
                total[:, start : start + len(chosen)] += found.to(total)
        for index, name in enumerate(prompt.names):
            gradient = gradients.get(f"site {name}")
            if gradient is not None:
                begin = columns.errors.start + index * prompt.n_positions
                of_errors = (gradient * prompt.errors[name]).sum(-1)
                total[:, begin : begin + prompt.n_positions] = of_errors.to(total)
                of_rest = (gradient * columns.rest[name]).sum((-1, -2))
                total[:, columns.left.start + index] = of_rest.to(total)
        gradient = gradients.get("embedding")
        if gradient is not None:
            total[:, columns.tokens] = (gradient * prompt.rows(prompt.first.embedded)).sum(-1).to(total)
        return total


def batched_gradients(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], seeds: Sequence[Tensor]
) -> list[Tensor | None]:
    """Returns the gradients of several weighted sums of outputs in one backward pass.

    Args:
        outputs: Tensors of one graph.
        leaves: The tensors to differentiate by.
        seeds: Weights for each output, ``[n, *shape]``.

    Returns:
        A gradient ``[n, *shape]`` for each leaf; None for leaves that the outputs don't depend on.
    """
    options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    try:
        with warnings.catch_warnings():
            # A missing batching rule costs only time.
            warnings.filterwarnings("ignore", message=".*performance drop because we have not yet implemented.*")
            return list(torch.autograd.grad(outputs, leaves, seeds, is_grads_batched=True, **options))
    except RuntimeError:
        # Some functions can't be vectorised.
        single = [torch.autograd.grad(outputs, leaves, own, **options) for own in zip(*seeds, strict=True)]
        return [None if parts[0] is None else torch.stack(parts) for parts in zip(*single, strict=True)]
