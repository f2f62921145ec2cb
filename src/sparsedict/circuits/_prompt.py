"""A prompt in a model whose MLPs are replaced by dictionaries: active latents, error terms and token embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sparsedict.adapters import Adapter
from sparsedict.circuits._affine import Affinity, measure_affinity, not_affine
from sparsedict.circuits._cut import CutModel, Pass
from sparsedict.circuits._node import Kind, Node
from sparsedict.circuits._units import Units
from sparsedict.dictionaries import Dictionary
from sparsedict.sites import ResolvedDictionary, Sites
from sparsedict.sites.models import Tokens, evaluating
from sparsedict.torch_state import without_inference_


class Prompt:
    """The recorded pass of one prompt, and the active latents of the dictionaries on it.

    Attributes:
        cut: The model with its MLPs cut out.
        first: The recorded pass, without gradients.
        names: The sites in the order of the model.
        tokens: Token ids, ``[n_positions]``.
        kept: Positions where the dictionaries act, ``[n_positions]``. At other positions the whole output of the MLP
            is an error term.
        units: The active latents of each dictionary.
        affinity: How far the model with held values is from an affine function.
    """

    def __init__(self, sites: Sites, dictionaries: Any, tokens: Tokens) -> None:
        for model in sites.models:
            without_inference_(model)
        captured = sites.capture(tokens)
        if captured.tokens is None:
            raise ValueError("`tokens` must be token ids, which are the sources of a circuit, got none.")
        self.tokens: Tensor = captured.tokens.flatten()
        self.kept: Tensor = captured.kept.flatten()
        self.cut: CutModel = CutModel(sites, tokens)
        with torch.no_grad():
            self.first: Pass = self.cut.run()
        _require_numbers("The model", {"logits": self.first.logits, **self.first.outputs})
        self.names: tuple[str, ...] = tuple(self.cut.sites)
        self.affinity: Affinity = measure_affinity(self.cut, self.first)
        self._resolved = sites.resolve(dictionaries, argument="dictionaries")
        if not self._resolved:
            raise ValueError("`dictionaries` must contain at least one dictionary, got none.")
        for own in self._resolved:
            _check_precision(own.adapter)
            if isinstance(own.adapter.source, nn.Module):
                without_inference_(own.adapter.source)
        with self.evaluating():
            self.units: list[Units] = [self._units_of(own) for own in self._resolved]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Context in which the dictionaries are in evaluation mode. The model always runs in evaluation mode."""
        with ExitStack() as stack:
            for own in self._resolved:
                if isinstance(own.adapter.source, nn.Module):
                    stack.enter_context(evaluating(own.adapter.source))
            yield

    @property
    def n_positions(self) -> int:
        return len(self.kept)

    def rows(self, value: Tensor) -> Tensor:
        """Returns activations as rows ``[n_copies * n_positions, d]``."""
        return value.reshape(-1, value.shape[-1])

    def at_kept(self, rows: Tensor) -> Tensor:
        """Returns rows ``[n_copies * n_positions, d]``, zero at positions where the dictionaries don't act."""
        kept = self.kept.to(rows.device).repeat(len(rows) // self.n_positions)
        return torch.where(kept[:, None], rows, 0.0)

    def inputs_of(self, sites: Sequence[str], pass_: Pass) -> Tensor:
        """Returns the concatenated inputs of some sites as rows."""
        parts = [self.rows(pass_.inputs[name]) for name in sites]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _units_of(self, resolved: ResolvedDictionary) -> Units:
        check_reads(resolved, self.names)
        reads = [name.rpartition(".")[0] for name in resolved.reads]
        writes = [name.rpartition(".")[0] for name in resolved.writes]
        widths = [self.first.outputs[name].shape[-1] for name in writes]
        adapter = resolved.adapter
        inputs = self.inputs_of(reads, self.first)
        for name, given, have in (("d_in", adapter.d_in, inputs.shape[-1]), ("d_out", adapter.d_out, sum(widths))):
            if given is not None and given != have:
                raise ValueError(
                    f"`{adapter.argument}.{name}` must be {have}, the width of the sites {reads}, got {given}."
                )
        units = Units(resolved, inputs, self.kept, widths)
        _require_numbers(f"`{adapter.argument}`", {"latents": units.values})
        if len(reads) > 1 and units.depends_on_input:
            raise ValueError(
                f"`{adapter.argument}` must run layer by layer if it has a skip, but it reads {reads} together. "
                "Choose an activation that selects within each layer, such as sd.PerLayer(sd.TopK(k))."
            )
        return units

    def reading(self, layer: str) -> list[int]:
        """Returns the indices of the dictionaries that read a layer."""
        return [index for index, own in enumerate(self.units) if layer in own.reads]

    def node_of(self, kind: Kind, unit: int, local: int, label: str | None = None) -> Node:
        """Returns the node of an active latent of a dictionary.

        Args:
            kind: Kind of the node.
            unit: Index of the dictionary.
            local: Index of the latent among the active latents of the dictionary.
            label: Text of the node. By default the index of the latent, its layer, and its dictionary if several
                dictionaries read the layer.
        """
        own = self.units[unit]
        latent, position, layer = int(own.latents[local]), int(own.positions[local]), self.layer_of(own, local)
        whole = own.dictionary_latent(latent)
        text = self.label(unit, latent, self.names[layer]) if label is None else label
        number = self.reading(self.names[layer]).index(unit)
        return Node(
            *(kind, layer, position, latent, text),
            is_neuron=own.are_neurons,
            dictionary_latent=whole,
            dictionary=number,
        )

    def label(self, unit: int, latent: int, layer: str) -> str:
        """Returns the text of a latent that reads a layer."""
        own, among = self.units[unit], self.reading(layer)
        text = f"{'neuron' if own.are_neurons else 'latent'} {latent} of {layer}"
        return text if len(among) == 1 else f"{text}, dictionary {among.index(unit)}"

    def layer_of(self, units: Units, local: int) -> int:
        """Returns the index of the layer of an active latent: the site that it reads."""
        return int(self.layers_of(units, torch.tensor([local], device="cpu"))[0])

    def layers_of(self, units: Units, local: Tensor) -> Tensor:
        """Returns the index of the layer of some active latents of a dictionary."""
        if len(units.reads) == 1:
            return torch.full_like(local, self.names.index(units.reads[0]))
        latents, found = units.latents.cpu()[local], torch.zeros_like(local)
        widths = [self.first.inputs[name].shape[-1] for name in units.reads]
        starts = [sum(widths[:i]) for i in range(len(widths))]
        source = units.adapter.source
        for block in source.blocks() if isinstance(source, Dictionary) else ():
            here = (latents >= block.latents.start) & (latents < block.latents.stop)
            found[here] = self.names.index(units.reads[starts.index(block.reads.start or 0)])
        return found

    def logits(self, pass_: Pass, position: int) -> Tensor:
        """Returns the logits that are attributed, at a position of each copy, ``[n_copies, n_vocabulary]``."""
        found = pass_.head if self.affinity.before_cap else pass_.logits
        assert found is not None
        at = self.cut.logits_at or tuple(range(self.n_positions))
        return found.reshape(-1, len(at), found.shape[-1])[:, at.index(position)]

    def restrict_logits(self, positions: Iterable[int]) -> None:
        """Lets later passes compute the logits at the positions of the targets only, if the model can do so."""
        at = tuple(sorted(set(positions))) or (self.n_positions - 1,)
        if len(at) < self.n_positions:
            self.first = self.cut.restrict_logits(self.first, at)

    def require_logits(self) -> None:
        """Checks the logits.

        Raises:
            NotAffineError: If they aren't affine, neither before nor after a soft cap.
            ValueError: If they are constant with held attention patterns, as probabilities are.
        """
        if self.affinity.is_constant:
            raise ValueError(
                "The model must return logits that depend on its token embeddings and MLPs, but they are constant once "
                "the outputs of softmax are held. Return the logits instead of their softmax."
            )
        if not self.affinity.has_logits:
            raise not_affine(self.cut, self.first, "the logits", self.affinity.logits)

    @cached_property
    def errors(self) -> dict[str, Tensor]:
        """Output of each MLP minus its reconstruction, ``[n_positions, d]``, in the order of the model."""
        found = {name: self.rows(self.first.outputs[name]).clone() for name in self.names}
        for units in self.units:
            for name, part in zip(units.writes, units.reconstruction(), strict=True):
                found[name] -= self.at_kept(part).to(found[name])
        return found

    @cached_property
    def zero(self) -> Pass:
        """The pass without token embeddings, latents and error terms. It has only the constants of the model."""
        bases = Bases(self)

        def write(name: str, original: Tensor, x: Tensor) -> Tensor:
            return bases.at(name, x).reshape(original.shape).to(original.dtype)

        with torch.no_grad():
            return self.cut.run(embed=torch.zeros_like, write=write)


class Bases:
    """The reconstructions without latents in one forward pass.

    Args:
        prompt: The prompt.
        only_dependent: Whether to leave out dictionaries whose reconstruction doesn't depend on the input.
    """

    def __init__(self, prompt: Prompt, *, only_dependent: bool = False) -> None:
        self._prompt = prompt
        self._units = [own for own in prompt.units if own.depends_on_input or not only_dependent]
        self._later: dict[tuple[int, str], Tensor] = {}

    def at(self, name: str, x: Tensor) -> Tensor:
        """Returns the sum at a site, as rows, zero at positions that aren't kept."""
        rows = self._prompt.rows(x)
        total = rows.new_zeros(len(rows), self._prompt.first.outputs[name].shape[-1])
        for index, units in enumerate(self._units):
            if name not in units.writes:
                continue
            if (index, name) not in self._later:
                for site, part in zip(units.writes, units.base(rows).split(units.widths, -1), strict=True):
                    self._later[index, site] = part
            total = total + self._later.pop((index, name)).to(total)
        return self._prompt.at_kept(total)


def check_reads(resolved: ResolvedDictionary, order: Sequence[str]) -> None:
    """Raises ``ValueError`` unless a dictionary predicts outputs of MLPs from inputs of the same or earlier MLPs."""
    argument = resolved.adapter.argument
    for points, role, verb in ((resolved.reads, "inputs", "read"), (resolved.writes, "outputs", "write")):
        for point in points:
            if point.rpartition(".")[2] != role:
                raise ValueError(
                    f"`{argument}` must {verb} the {role} of MLPs, as transcoders do, to be part of a circuit, but it "
                    f"{verb}s {point!r}. The MLPs between autoencoders aren't linear."
                )
    first_written = min(order.index(point.rpartition(".")[0]) for point in resolved.writes)
    if len(resolved.reads) == 1 and order.index(resolved.reads[0].rpartition(".")[0]) > first_written:
        raise ValueError(f"`{argument}` must read before it writes, but {resolved.reads[0]!r} comes after its outputs.")


def _check_precision(adapter: Adapter) -> None:
    """Raises ``ValueError`` for dictionaries in half precision, whose rounding would make direct effects inexact."""
    weight = adapter.weight
    if weight is not None and weight.dtype in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"`{adapter.argument}` must be in float32 or float64, got weights of {weight.dtype}, whose rounding errors "
            "would hide direct effects. Convert it with `.float()`."
        )


def _require_numbers(subject: str, values: Mapping[str, Tensor | None]) -> None:
    """Raises ``ValueError`` if a tensor contains NaN, which would turn all direct effects into NaN."""
    for name, value in values.items():
        if value is not None and bool(value.isnan().any()):
            raise ValueError(
                f"{subject} must compute numbers on this prompt, got NaN in its {name}. Check its weights."
            )
