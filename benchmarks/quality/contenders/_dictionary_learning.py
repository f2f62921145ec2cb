"""dictionary_learning: its `trainSAE`. It trains autoencoders only.

*recommended* is its own formula of the rate, a decay over the last fifth of the steps and activations with a mean
squared norm of 1, as in its demonstration. The warm-up is a tenth of the steps, because its 1,000 steps are a whole run
here. Matryoshka has the groups of its demonstration. *our rate* has sparsedict's default rate, and a window of dead
latents that is scaled to short runs.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.quality._data import Data, Source
from benchmarks.quality._task import Kind, Task, Trained
from benchmarks.quality.contenders._peers import DEAD_AFTER, our_lr, threshold_for

TRAINERS = {
    "TopK": ("top_k", "TopKTrainer"),
    "BatchTopK": ("batch_top_k", "BatchTopKTrainer"),
    "Matryoshka": ("matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer"),
}
GROUPS = [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2 + 1 / 32]
"""Shares of the latents in the groups of Matryoshka."""


@dataclass(frozen=True)
class DictionaryLearning:
    """A TopK, BatchTopK or Matryoshka BatchTopK autoencoder of dictionary_learning."""

    selection: str
    ours: bool

    packages = ("dictionary_learning",)

    def can_train(self, kind: Kind, source: Source) -> bool:
        return kind == "autoencoder"

    def train(self, task: Task, data: Data) -> Trained:
        from dictionary_learning.training import trainSAE  # pyright: ignore[reportMissingImports]

        steps, d, made = task.n_steps, data.outputs.shape[1], []
        scale = 1.0 if self.ours else float(data.outputs[:50_000].square().sum(-1).mean().sqrt())
        settings = {
            "trainer": self._trainer(made),
            "steps": steps,
            "activation_dim": d,
            "dict_size": task.n_latents,
            "k": task.k,
            "layer": 0,
            "lm_name": "",
            "lr": task.lr_factor * (our_lr(d, task.n_latents) if self.ours else 2e-4 / (task.n_latents / 2**14) ** 0.5),
            "warmup_steps": steps // 10,
            "decay_start": steps - max(1, steps // 5),
            "seed": task.seed,
            "device": "cpu",
        }
        if self.selection == "Matryoshka":
            settings["group_fractions"] = GROUPS
        batches = data.batches("autoencoder", task.batch_size, task.seed)
        trainSAE(data=(read / scale for read, _ in batches), trainer_configs=[settings], steps=steps, device="cpu")
        sae = made[0]
        sae.scale_biases(scale)
        return self._trained(sae, task, data)

    def _trainer(self, made: list[Any]) -> Any:
        """Returns the library's trainer, which adds its autoencoder to a list."""
        module, name = TRAINERS[self.selection]
        base, ours = getattr(importlib.import_module(f"dictionary_learning.trainers.{module}"), name), self.ours

        class Prepared(base):
            def __init__(self, **settings: Any) -> None:
                super().__init__(**settings)
                made.append(self.ae)
                if ours:
                    self.dead_feature_threshold = DEAD_AFTER

        return Prepared

    def _trained(self, sae: Any, task: Task, data: Data) -> Trained:
        is_nested = self.selection == "Matryoshka"
        decoder = sae.W_dec.detach() if is_nested else sae.decoder.weight.detach().T
        if self.selection == "TopK":
            return Trained(sae.encode, lambda latents, x: sae.decode(latents), decoder)

        def values(x: Tensor) -> Tensor:
            centred = x - sae.b_dec
            return (centred @ sae.W_enc + sae.b_enc if is_nested else sae.encoder(centred)).relu()

        with torch.no_grad():
            sae.threshold.fill_(threshold_for(values(data.outputs[:8192]), task.k))
        return Trained(sae.encode, lambda latents, x: sae.decode(latents), decoder)


CONTENDERS = {
    f"dictionary_learning {selection}, {'our rate' if ours else 'recommended'}": DictionaryLearning(selection, ours)
    for selection in TRAINERS
    for ours in (False, True)
}
