"""What analysis asks of a dictionary, and of any other object that encodes and decodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsedict import checks
from sparsedict.batches import UNNAMED, Activations
from sparsedict.data import Batches, as_batches
from sparsedict.dictionaries import Dictionary
from sparsedict.latents import SparseLatents
from sparsedict.torch_state import own_state
from sparsedict.types import Role

ROLES: tuple[Role, ...] = ("inputs", "outputs", "neurons")
N_DENSE = 2**24
"""Entries of a dense array ``[n_tokens, n_latents]`` that is made at once: 64 MiB in float32."""


class Coder:
    """Encodes and reconstructs through whatever it was given.

    Args:
        source: A `Dictionary`, `Neurons`, or any object with ``encode`` and ``decode``.
        reads: Which activations it takes, where it doesn't say so itself.
        writes: Which it gives; by default the outputs, or the neurons' for one that reads these.

    Raises:
        TypeError: If it can't encode.
        ValueError: If it says otherwise itself.
    """

    def __init__(self, source: Any, reads: Role | None = None, writes: Role | None = None) -> None:
        if not callable(getattr(source, "encode", None)):
            raise TypeError(
                f"`dictionary` must be a Dictionary or an object with `encode` and `decode`, got "
                f"{type(source).__name__}, which has no `encode`."
            )
        self.source = source
        self.reads: Role | None = self._role("reads", reads)
        default: Role | None = None if self.reads is None else "neurons" if self.reads == "neurons" else "outputs"
        self.writes: Role | None = self._role("writes", writes) or default

    def _role(self, name: str, given: Role | None) -> Role | None:
        own = getattr(self.source, name, None)
        if given is not None:
            checks.one_of(name, given, ROLES)
            if own in ROLES and own != given:
                raise ValueError(
                    f"`{name}` must be {own!r} for this {type(self.source).__name__}, got {given!r}. Leave it out."
                )
        return own if own in ROLES else given

    @property
    def roles(self) -> tuple[Role, Role]:
        """What it reads and writes.

        Raises:
            ValueError: If that isn't known.
        """
        if self.reads is None or self.writes is None:
            raise ValueError(
                f"`reads` must say which activations a {type(self.source).__name__} takes: 'inputs' (it computes the "
                "MLP's output from its input) or 'outputs' (it reproduces the output)."
            )
        return self.reads, self.writes

    @property
    def n_rows(self) -> int:
        """Rows that can be encoded at once."""
        n_latents = getattr(self.source, "n_latents", None)
        return max(1, N_DENSE // (n_latents if isinstance(n_latents, int) and n_latents > 0 else 2**14))

    def fitted(self, x: Tensor) -> Tensor:
        """Returns activations on the source's device and in its precision."""
        weight = getattr(self.source, "encoder", None)
        if not isinstance(weight, Tensor):
            floats = self.source.parameters() if isinstance(self.source, nn.Module) else ()
            weight = next((p for p in floats if p.is_floating_point()), None)
        return x if weight is None else x.to(device=weight.device, dtype=weight.dtype)

    def encode(self, x: Tensor) -> Tensor | SparseLatents:
        """Returns the latents, sparse where the source can."""
        sparse = getattr(self.source, "encode_sparse", None)
        return self.source.encode(x) if sparse is None else sparse(x)

    def dense(self, x: Tensor) -> Tensor:
        """Returns the latents with all their zeros."""
        return self.source.encode(x)

    def reconstruct(self, latents: Tensor | SparseLatents, x: Tensor) -> Tensor:
        """Returns the whole output, a skip included."""
        whole = getattr(self.source, "reconstruct", None)
        return self.source.decode(latents) if whole is None else whole(latents, x)

    def blocks(
        self, data: Any, n_tokens: int | None = None, *, targets: bool = False
    ) -> Iterator[tuple[Tensor, Activations]]:
        """Yields what the source reads, in rows few enough to be encoded at once, and all activations of these tokens.

        Args:
            data: Anything that `sparsedict.data.as_batches` takes, of one site; one pass is made.
            n_tokens: Where to stop; the last batch is cut. By default the whole pass.
            targets: Whether the data must also hold what the source should give.

        Raises:
            ValueError: If the data is empty, of several sites, lacks targets or holds NaN.
        """
        n_left = 2**62 if n_tokens is None else checks.at_least("n_tokens", n_tokens, 1)
        batches = as_batches(data, repeat=False)
        if n_tokens is not None:
            batches.expect(n_tokens)
        self._check(batches, targets)
        size = self.n_rows
        for batch in batches:
            for start in range(0, batch.n_tokens, size):
                part = batch.rows(slice(start, min(start + size, start + n_left)))
                inputs = part[UNNAMED] if UNNAMED in part else self.inputs(part)
                checks.finite("data", inputs, "Leave the broken tokens out.")
                yield self.fitted(inputs), part
                n_left -= part.n_tokens
                if n_left == 0:
                    return

    def _check(self, batches: Batches, targets: bool) -> None:
        if batches.names is not None:
            raise ValueError(
                f"`data` must be of one site, got {', '.join(map(repr, batches.names))}. Give a stream of that site, "
                "or `[batch.site(name) for batch in stream]`."
            )
        if not targets or (UNNAMED not in batches.points and self.reads is None):
            return
        reads, writes = self.roles
        if reads != writes and batches.resolve(reads) == batches.resolve(writes):
            raise ValueError(
                f"`data` must hold {reads} and {writes}, for this {type(self.source).__name__} computes one from the "
                "other, got one tensor. Give a tuple (inputs, outputs), Activations or an ActivationStream."
            )

    def check_widths(self, inputs: Tensor, targets: Tensor) -> None:
        """Raises ``ValueError`` where the source says of itself that it is for activations of other widths."""
        for name, part, what in (("d_in", inputs, "reads"), ("d_out", targets, "gives")):
            width = getattr(self.source, name, None)
            if isinstance(width, int) and width != part.shape[-1]:
                raise ValueError(
                    f"`dictionary.{name}` must equal the width of what it {what} at this site, {part.shape[-1]}, got "
                    f"{width}."
                )

    def inputs(self, batch: Activations) -> Tensor:
        """Returns what the source reads of a batch."""
        return self.source.select(batch)[0] if isinstance(self.source, Dictionary) else batch.of(self.roles[0])

    def targets(self, batch: Activations) -> Tensor:
        """Returns what the source should give for a batch."""
        return self.source.select(batch)[1] if isinstance(self.source, Dictionary) else batch.of(self.roles[1])


@contextmanager
def evaluation_mode(*objects: Any) -> Iterator[None]:
    """Puts modules in evaluation mode, without gradients, and back: a dictionary in training selects otherwise."""
    modules = {m for o in objects if isinstance(o, nn.Module) for m in o.modules() if m.training}
    for module in modules:
        module.training = False
    try:
        with own_state(), torch.no_grad():
            yield
    finally:
        for module in modules:
            module.training = True
