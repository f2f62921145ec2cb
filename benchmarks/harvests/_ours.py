"""sparsedict: `ActivationStream` and `fit`."""

from __future__ import annotations

import torch

import sparsedict as sd
from benchmarks.harvests import BUFFER, Loaded, Reconstruct, Run, Task


def variants(task: Task) -> list[tuple[str, ...]]:
    return [()]


def prepare(task: Task, loaded: Loaded, options: tuple[str, ...]) -> Run:
    def run() -> Reconstruct:
        site = sd.Site(loaded.model, task.path, exclude_tokens=[task.bos])
        stream = sd.ActivationStream(
            site, loaded.tokens, batch_size=task.batch_size, buffer_size=BUFFER, seed=task.seed
        )
        parts = {"activation": sd.TopK(task.k), "decoder_norm": sd.UnitNorm(), "device": task.device}
        if task.kind == "autoencoder":
            dictionary: sd.Dictionary = sd.SparseAutoencoder(site.d_out, task.n_latents, **parts)
        else:
            dictionary = sd.SparseDistiller(site.d_in, site.d_out, task.n_latents, **parts)
        autocast = torch.bfloat16 if task.device.startswith("cuda") else None
        sd.fit(dictionary, stream, n_tokens=task.n_steps * task.batch_size, autocast=autocast, progress=False)
        return lambda x: dictionary(x).reconstruction

    return run
