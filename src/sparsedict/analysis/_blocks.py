"""Iteration over data in blocks that fit into memory when encoded, and a context for evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.batches import ROLES, UNNAMED, Activations
from sparsedict.data import Batches, as_batches
from sparsedict.torch_state import own_state


def blocks(
    adapter: Adapter, data: Any, n_tokens: int | None = None, *, targets: bool = False
) -> Iterator[tuple[Tensor, Activations]]:
    """Yields blocks of the dictionary's inputs that are small enough to encode, and all activations of each block.

    Args:
        adapter: The dictionary.
        data: Data that `sparsedict.data.as_batches` accepts. It is read once.
        n_tokens: Number of tokens after which to stop. By default all tokens.
        targets: Whether the data must also contain the activations that the dictionary writes.

    Raises:
        ValueError: If the data is empty, lacks a point or contains NaN.
    """
    n_left = 2**62 if n_tokens is None else checks.at_least("n_tokens", n_tokens, 1)
    batches = as_batches(data, repeat=False)
    if n_tokens is not None:
        batches.expect(n_tokens)
    _check(adapter, batches, targets)
    size = adapter.n_rows
    for batch in batches:
        for start in range(0, batch.n_tokens, size):
            part = batch.rows(slice(start, min(start + size, start + n_left)))
            inputs = part[UNNAMED] if UNNAMED in part else adapter.inputs(part)
            checks.finite("data", inputs, "Leave out the tokens with such values.")
            yield adapter.fit(inputs), part
            n_left -= part.n_tokens
            if n_left == 0:
                return


def _check(adapter: Adapter, batches: Batches, targets: bool) -> None:
    if batches.names is not None and (adapter.reads is None or adapter.reads in ROLES):
        raise ValueError(
            f"`data` must be of one site, got {', '.join(map(repr, batches.names))}. Pass a stream of one site, "
            "or `[batch.site(name) for batch in stream]`."
        )
    if not targets or (UNNAMED not in batches.points and adapter.reads is None):
        return
    reads, writes = adapter.points
    if reads != writes and batches.resolve(reads) == batches.resolve(writes):
        raise ValueError(
            f"`data` must contain {reads} and {writes}, which this {type(adapter.source).__name__} reads and writes, "
            "got the same tensor for both. Pass a tuple (inputs, outputs), Activations or an ActivationStream."
        )


@contextmanager
def evaluation_mode(*objects: Any) -> Iterator[None]:
    """Returns a context in which modules are in evaluation mode and gradients are disabled."""
    sources = (o.source if isinstance(o, Adapter) else o for o in objects)
    modules = {m for o in sources if isinstance(o, nn.Module) for m in o.modules() if m.training}
    for module in modules:
        module.training = False
    try:
        with own_state(), torch.no_grad():
            yield
    finally:
        for module in modules:
            module.training = True
