"""Measurements of a trained dictionary."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import sparsedict as sd
from benchmarks.quality._data import Data
from benchmarks.quality._task import Contender, Task, Trained

BLOCK = 4096
N_WARM = 2048
"""Tokens of the untimed run before a contender's first run in a process, which imports its library."""

_warm: set[int] = set()
RECOVERED = 0.9
"""Cosine from which on a synthetic feature is recovered."""


def run(
    contender: Contender, task: Task, data: Data, *, window: int, losses: bool = True
) -> tuple[dict[str, Any], Tensor]:
    """Trains and measures a dictionary.

    Args:
        contender: The contender.
        task: The task.
        data: Stored activations.
        window: Number of training tokens on which a dead latent doesn't fire.
        losses: Whether to measure the losses of the model.

    Returns:
        The measurements by name, and the decoder rows of the latents that fire.
    """
    if id(contender) not in _warm:
        contender.train(replace(task, n_tokens=N_WARM), data)
        _warm.add(id(contender))
    torch.manual_seed(task.seed)
    start = time.process_time()
    trained = contender.train(task, data)
    seconds = time.process_time() - start
    row: dict[str, Any] = {"seconds": seconds}
    with torch.no_grad():
        row |= reconstruction(trained, task, data)
        read = data.pair(task.kind)[0][-window:]
        fires = torch.stack([(trained.encode(x) != 0).any(0) for x in read.split(BLOCK)]).any(0)
        row |= {"dead": float((~fires).float().mean()), "dead_window": len(read)}
        rows = torch.nn.functional.normalize(trained.decoder[fires].float(), dim=-1)
        if data.truth is not None:
            row["truth"] = float(((data.truth @ rows.T).amax(1) >= RECOVERED).float().mean())
        if losses and data.site is not None:
            row |= _losses(trained, task, data)
    return row, rows


def reconstruction(trained: Trained, task: Task, data: Data) -> dict[str, float]:
    """Returns FVU and L0 on the held-out tokens."""
    inputs, targets = data.pair(task.kind, held_out=True)
    error, l0 = 0.0, 0.0
    for x, y in zip(inputs.split(BLOCK), targets.split(BLOCK), strict=True):
        latents = trained.encode(x)
        error += float((y - trained.decode(latents, x)).double().square().sum())
        l0 += float((latents != 0).sum())
    total = float((targets - targets.mean(0)).double().square().sum())
    return {"fvu": error / total, "l0": l0 / len(inputs)}


@dataclass(frozen=True)
class _InModel:
    """A dictionary in the units of the model."""

    trained: Trained
    scales: tuple[float, float]

    def encode(self, x: Tensor) -> Tensor:
        return self.trained.encode(x / self.scales[0])

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError("The reconstruction may depend on the input.")

    def reconstruct(self, latents: Tensor, x: Tensor) -> Tensor:
        return self.trained.decode(latents, x / self.scales[0]) * self.scales[1]


def _losses(trained: Trained, task: Task, data: Data) -> dict[str, float]:
    assert data.site is not None  # checked by the caller
    assert data.tokens is not None
    read, written = data.scales
    is_autoencoder = task.kind == "autoencoder"
    wrapped = _InModel(trained, (written if is_autoencoder else read, written))
    reads = "outputs" if is_autoencoder else "inputs"
    found = sd.analysis.loss_recovered(data.site, wrapped, data.tokens, reads=reads, writes="outputs")
    return {"loss_recovered_zero": found.zero, "loss_recovered_mean": found.mean}
