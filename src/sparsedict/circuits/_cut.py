"""A model whose MLP outputs are replaced by given outputs, so that the rest of the model can be affine in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsedict.circuits._held import Held, HeldValues
from sparsedict.sites import Point, Site
from sparsedict.sites.models import (
    Call,
    Tokens,
    evaluating,
    is_seq2seq,
    logits_in,
    output_embedding,
    prepare,
    token_embedding,
    uncompiled,
)

Embed = Callable[[Tensor], Tensor]
"""Returns the replacement of the token embeddings."""
Write = Callable[[str, Tensor, Tensor], Tensor]
"""Returns the replacement of a site's output, given the site's name, its output and its input."""
Watch = Callable[[str, Tensor | None, Tensor], None]
"""Receives the path, the input and the output of each module outside of the MLPs."""


@dataclass(frozen=True, eq=False)
class Pass:
    """Activations of one forward pass.

    Attributes:
        embedded: The token embeddings, as the embedding's module returned them or as they were replaced.
        inputs: Input of each site.
        outputs: Output of each site's MLP before its replacement, without a graph.
        logits: The model's logits ``[n_copies, n_positions, n_vocabulary]``, at `CutModel.logits_at`.
        head: The output of the unembedding's module, if there is one.
        hidden: The input of the unembedding's module, if there is one.
    """

    embedded: Tensor
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    logits: Tensor
    head: Tensor | None
    hidden: Tensor | None


class CutModel:
    """A model with its MLPs cut out at sites, and with held attention patterns and norms.

    The first pass records the held values and the order of the sites. Later passes use the recorded values.

    Attributes:
        model: The model.
        sites: The sites by name. After the first pass, they are in the order in which the model runs them.
        held: The held values.
        logits_at: Positions of the logits that the passes compute; None for all positions.
    """

    def __init__(self, sites: Mapping[str, Site], tokens: Tokens) -> None:
        self.sites: dict[str, Site] = dict(sites)
        self.model: nn.Module = next(iter(self.sites.values())).model
        self.held: HeldValues = HeldValues()
        self._call = prepare(self.model, tokens, cache=False)
        self._embedding = _embedding_of(self.model)
        self._recorded = False
        self.logits_at: tuple[int, ...] | None = None

    def restrict_logits(self, first: Pass, positions: tuple[int, ...]) -> Pass:
        """Lets later passes compute logits at some positions only, and returns the first pass with these logits.

        The logits of a long prompt take gigabytes, and most of the time of a pass. If the model's unembedding can't run
        at some positions alone, nothing is changed.
        """
        if first.logits.ndim != 3 or (first.head is not None and first.head.ndim != 3):
            return first
        found = [first.logits[:, list(positions)], None if first.head is None else first.head[:, list(positions)]]
        self.logits_at = positions
        try:
            with torch.no_grad():
                alone = self.run()
        except Exception:
            alone = None
        for before, value in zip(found, (None, None) if alone is None else (alone.logits, alone.head), strict=True):
            if before is None or value is None or before.shape != value.shape or not _is_close(before, value):
                self.logits_at = None
                return first
        return replace(first, logits=found[0].clone(), head=found[1].clone())

    def run(
        self, *, embed: Embed | None = None, write: Write | None = None, n_copies: int = 1, watch: Watch | None = None
    ) -> Pass:
        """Runs the model on copies of the tokens.

        Args:
            embed: Replaces the token embeddings.
            write: Replaces the outputs of the sites.
            n_copies: Number of copies.
            watch: Called with the output of every module outside of the MLPs.
        """
        self.held.start(record=not self._recorded)
        pass_ = self._run(embed, write, n_copies, watch, self.held)
        if not self._recorded:
            self.sites = {name: self.sites[name] for name in pass_.outputs}
            self._recorded = True
        return pass_

    def run_itself(self, embed: Embed, write: Write, n_copies: int, kinds: Collection[Held]) -> Pass:
        """Runs the model itself.

        Args:
            embed: Replaces the token embeddings.
            write: Replaces the outputs of the sites.
            n_copies: Number of copies of the tokens.
            kinds: Which values are held.
        """
        self.held.start(record=False, kinds=kinds)
        return self._run(embed, write, n_copies, None, self.held if kinds else None)

    def _run(
        self, embed: Embed | None, write: Write | None, n_copies: int, watch: Watch | None, held: HeldValues | None
    ) -> Pass:
        run = _Run(embed, write, held, self.logits_at)
        call = _copied(self._call, n_copies)
        points = [point for site in self.sites.values() for point in (site.reads, site.writes)]
        head = output_embedding(self.model)
        with ExitStack() as stack:
            stack.enter_context(uncompiled(self.model, points))
            stack.enter_context(evaluating(self.model))
            handles: list[Any] = [self._embedding.attach(run.embed)]
            stack.callback(lambda: [handle.remove() for handle in handles])
            for name, site in self.sites.items():
                handles.append(site.reads.attach(partial(run.read, name, site)))
                handles.append(site.writes.attach(partial(run.write, name, site)))
            if head is not None:
                handles.append(head.register_forward_pre_hook(run.before_head))
                handles.append(head.register_forward_hook(run.keep_head))
            if watch is not None:
                for path, module in self.model.named_modules():
                    handles.append(module.register_forward_hook(partial(run.watch, watch, path)))
            if held is not None:
                stack.enter_context(held)
            output = self.model(*call.args, **call.kwargs)
        return run.result(logits_in(output, self.model), self.sites)


class _Run:
    """The hooks of one forward pass.

    A model may change activations in place, as in ``x += mlp(x)``. The hooks therefore copy the activations that they
    store, and the model receives copies of replaced embeddings.
    """

    def __init__(
        self, embed: Embed | None, write: Write | None, held: HeldValues | None, logits_at: tuple[int, ...] | None
    ) -> None:
        self._embed, self._write, self._held, self._logits_at = embed, write, held, logits_at
        self._embedded: Tensor | None = None
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._head: Tensor | None = None
        self._head_version = 0
        self._hidden: Tensor | None = None
        self._n_calls: dict[str, int] = {}

    def embed(self, original: Tensor) -> Tensor | None:
        if self._embedded is not None:
            raise ValueError(
                "`model` must look up its token embeddings once in a forward pass, but it does so several times. "
                "Circuits of such models aren't supported."
            )
        with self._suspended():
            new = None if self._embed is None else self._embed(original)
        self._embedded = original.clone() if new is None else new
        return None if new is None else new.clone()

    def read(self, name: str, site: Site, value: Tensor) -> None:
        if self._selects(f"{name} read", site):
            self._inputs[name] = value.clone()

    def write(self, name: str, site: Site, original: Tensor) -> Tensor | None:
        if not self._selects(f"{name} write", site):
            return None
        if name not in self._inputs:
            raise ValueError(f"The site {name!r} must read before it writes, but {site.writes} precedes {site.reads}.")
        # With its graph, the output would keep the activations of the MLP.
        self._outputs[name] = original.detach().clone()
        if self._write is None:
            return None
        with self._suspended():
            return self._write(name, original, self._inputs[name])

    def _suspended(self) -> AbstractContextManager[None]:
        """Context in which functions of the library, such as those that replace outputs, aren't held."""
        return nullcontext() if self._held is None else self._held.suspended()

    def _selects(self, event: str, site: Site) -> bool:
        n = self._n_calls.get(event, 0)
        self._n_calls[event] = n + 1
        return (site.reads if event.endswith("read") else site.writes).is_call(n, site.model)

    def before_head(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        self._hidden = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        if self._logits_at is None or self._hidden is None or self._hidden.ndim < 3:
            return None
        return (self._hidden[..., list(self._logits_at), :], *inputs[1:])

    def keep_head(self, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            self._head, self._head_version = output, output._version
        else:
            self._hidden = None

    def watch(self, watch: Watch, path: str, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        inside = set(self._inputs) - set(self._outputs)
        if isinstance(first, Tensor) and first.is_floating_point() and not inside:
            given = inputs[0] if inputs and isinstance(inputs[0], Tensor) and inputs[0].is_floating_point() else None
            watch(path, given, first)

    def result(self, logits: Tensor, sites: Mapping[str, Site]) -> Pass:
        if self._embedded is None:
            raise ValueError(
                "`tokens` must be token ids, since the token embeddings are the sources of a circuit, but the model "
                "was run without its token embedding."
            )
        for name, site in sites.items():
            if name not in self._outputs:
                raise ValueError(f"The site {name!r} must be reached by the forward pass, but {site.writes} wasn't.")
        # A copy of all logits of a long prompt would take gigabytes.
        unchanged = self._head is not None and self._head._version == self._head_version
        head = self._head if unchanged else None
        return Pass(self._embedded, self._inputs, self._outputs, logits, head, self._hidden)


def _embedding_of(model: nn.Module) -> Point:
    if is_seq2seq(model):
        raise ValueError(
            f"`model` must be a decoder or an encoder alone, got the encoder-decoder model {type(model).__name__}."
        )
    embedding = token_embedding(model)
    path = next((name for name, module in model.named_modules() if module is embedding), None)
    if embedding is None or path is None:
        raise ValueError(
            f"`model` must have a token embedding, whose outputs are the sources of a circuit, got a "
            f"{type(model).__name__} without one."
        )
    return Point(embedding, "out", path)


def _is_close(a: Tensor, b: Tensor) -> bool:
    scale = a.abs().amax().clamp_min(torch.finfo(a.dtype).tiny)
    return bool((a - b).abs().amax() <= 1e-4 * scale)


def _copied(call: Call, n: int) -> Call:
    def repeated(value: Any) -> Any:
        is_one = isinstance(value, Tensor) and value.ndim > 0 and len(value) == 1
        return value.expand(n, *value.shape[1:]).clone() if is_one else value

    return replace(call, args=tuple(map(repeated, call.args)), kwargs={k: repeated(v) for k, v in call.kwargs.items()})
