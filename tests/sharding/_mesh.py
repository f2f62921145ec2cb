"""Runs on a mesh of data x latents, which equal those of one process."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from benchmarks.plan import SELECTION_BYTES, Job, Plan
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

import sparsedict as sd
from parallel._cases import CASES, DIVIDED, PARTS, alone, pairs
from sparsedict.sharding import Traffic

Case = Callable[[], None]

# Three groups can't be divided among two ranks.
PAIRS = [f"{kind}-{activation}" for kind, activation in pairs() if activation != "group_max"][::2]
NAMES = tuple(dict.fromkeys((*PAIRS, *PARTS, *DIVIDED)))
"""Runs on the mesh. Every kind and activation runs on each of the mesh's dimensions in other tests."""


def cases() -> Iterator[tuple[str, Case]]:
    """Yields names and cases for four ranks."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "latents"))
    parallel = sd.ShardedLatents(mesh, check_every=4)
    for name in NAMES:
        yield f"mesh {name}", partial(_equals_one_process, name, parallel)
    rules = {"topk": sd.TopK(4), "batch_topk": sd.BatchTopK(4), "threshold": sd.ReLU()}
    for rule, activation in rules.items():
        yield f"mesh traffic of {rule}", partial(_traffic, rule, activation, parallel)


def _traffic(rule: str, activation: sd.Activation, parallel: sd.ShardedLatents) -> None:
    """A step sends what the plan counts, and never pre-activations."""
    d, n_latents, n_tokens = 16, 256, 512
    x = torch.randn(1024, d, generator=torch.Generator().manual_seed(0))
    sent = []
    for n_steps in (2, 3):
        sae = sd.SparseAutoencoder(d, n_latents, activation=activation, decoder_norm=sd.UnitNorm())
        with Traffic() as traffic:
            sd.fit(sae, x, n_tokens=n_steps * n_tokens, batch_size=n_tokens, parallel=parallel, progress=False)
        sent.append(Counter(own.n_bytes for own in traffic.collectives))
    step = sent[1] - sent[0]
    assert max(step) < 4 * (n_tokens // 2) * (n_latents // 2)
    planned = Counter(Plan(Job(d, d, n_latents, 4, n_tokens, rule), 2, 2).collectives().values())
    # The counts of the selection are sent digit by digit.
    planned.subtract([SELECTION_BYTES[4]] * (rule == "batch_topk"))
    assert not (+planned) - step, (step, planned)
    total, expected = (sum(size * count for size, count in own.items()) for own in (step, planned))
    expected += 2 * SELECTION_BYTES[4] * (rule == "batch_topk")
    assert total <= 1.1 * expected + 1024, (total, expected, step)


def _equals_one_process(name: str, parallel: sd.ShardedLatents) -> None:
    folder = Path(parallel.share(tempfile.mkdtemp()))
    found = CASES[name](parallel, folder)
    for part in ("weights", "history"):
        for key, value in alone(name)[part].items():
            _compare(f"{part}.{key}", found[part][key], value)


def _compare(name: str, found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(
        found, expected, rtol=1e-10, atol=1e-10, equal_nan=True, msg=lambda text: f"{name}: {text}"
    )
