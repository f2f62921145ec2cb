"""Data in blocks that a dictionary can encode at once, and evaluation mode."""

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
    """Yields what a dictionary reads, in rows few enough to be encoded at once, and all activations of these tokens.

    Args:
        adapter: The dictionary.
        data: Anything that `sparsedict.data.as_batches` takes; one pass is made.
        n_tokens: Where to stop; the last batch is cut. By default the whole pass.
        targets: Whether the data must also hold the activations that the dictionary writes.

    Raises:
        ValueError: If the data is empty, lacks a point or holds NaN.
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
            checks.finite("data", inputs, "Leave the broken tokens out.")
            yield adapter.fit(inputs), part
            n_left -= part.n_tokens
            if n_left == 0:
                return


def _check(adapter: Adapter, batches: Batches, targets: bool) -> None:
    if batches.names is not None and (adapter.reads is None or adapter.reads in ROLES):
        raise ValueError(
            f"`data` must be of one site, got {', '.join(map(repr, batches.names))}. Give a stream of that site, "
            "or `[batch.site(name) for batch in stream]`."
        )
    if not targets or (UNNAMED not in batches.points and adapter.reads is None):
        return
    reads, writes = adapter.points
    if reads != writes and batches.resolve(reads) == batches.resolve(writes):
        raise ValueError(
            f"`data` must hold {reads} and {writes}, for this {type(adapter.source).__name__} computes one from the "
            "other, got one tensor. Give a tuple (inputs, outputs), Activations or an ActivationStream."
        )


@contextmanager
def evaluation_mode(*objects: Any) -> Iterator[None]:
    """Puts modules in evaluation mode, without gradients, and back: a dictionary in training selects otherwise."""
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
