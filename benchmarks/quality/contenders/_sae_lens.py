"""SAELens: its `SAETrainer.fit`. It trains autoencoders only.

*recommended* is the library's default rate, with a linear decay over the last fifth of the steps as in its tutorials.
Matryoshka has the groups of dictionary_learning's demonstration. *our rate* has sparsedict's default rate, a warm-up
and a window of dead latents that is scaled to short runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.quality._data import Data, Source
from benchmarks.quality._task import Kind, Task, Trained
from benchmarks.quality.contenders._peers import DEAD_AFTER, our_lr, threshold_for

RECOMMENDED_LR = 3e-4
WIDTHS = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0)
"""Nested widths of Matryoshka, as shares of the latents."""


@dataclass(frozen=True)
class SAELens:
    """A TopK, BatchTopK or Matryoshka BatchTopK autoencoder of SAELens."""

    selection: str
    ours: bool

    packages = ("sae_lens",)

    def can_train(self, kind: Kind, source: Source) -> bool:
        return kind == "autoencoder"

    def train(self, task: Task, data: Data) -> Trained:
        from sae_lens.config import LoggingConfig, SAETrainerConfig  # pyright: ignore[reportMissingImports]
        from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

        d, steps = data.outputs.shape[1], task.n_steps
        sae = self._make(task, d)
        lr = task.lr_factor * (our_lr(d, task.n_latents) if self.ours else RECOMMENDED_LR)
        own = (
            {"lr_warm_up_steps": steps // 5, "dead_feature_window": DEAD_AFTER // task.batch_size} if self.ours else {}
        )
        settings = SAETrainerConfig(
            total_training_samples=steps * task.batch_size,
            train_batch_size_samples=task.batch_size,
            lr=lr,
            lr_end=0.0,
            lr_decay_steps=steps // 5,
            logger=LoggingConfig(log_to_wandb=False),
            **own,
        )
        batches = data.batches("autoencoder", task.batch_size, task.seed)
        SAETrainer(cfg=settings, sae=sae, data_provider=(read for read, _ in batches)).fit()
        return self._trained(sae, task, data)

    def _make(self, task: Task, d: int) -> Any:
        import sae_lens  # pyright: ignore[reportMissingImports]

        shape: dict[str, Any] = {"d_in": d, "d_sae": task.n_latents, "device": "cpu", "dtype": "float32", "k": task.k}
        if self.selection == "MatryoshkaBatchTopK":
            shape["matryoshka_widths"] = [int(share * task.n_latents) for share in WIDTHS]
        name = f"{self.selection}TrainingSAE"
        return getattr(sae_lens, name)(getattr(sae_lens, f"{name}Config")(**shape))

    def _trained(self, sae: Any, task: Task, data: Data) -> Trained:
        decoder = sae.W_dec.detach()
        if self.selection == "TopK":
            return Trained(sae.encode, lambda latents, x: sae.decode(latents), decoder)

        def values(x: Tensor) -> Tensor:
            return sae.encode_with_hidden_pre(x)[1].relu()

        with torch.no_grad():
            threshold = threshold_for(values(data.outputs[:8192]), task.k)

        def encode(x: Tensor) -> Tensor:
            found = values(x)
            return found * (found > threshold)

        return Trained(encode, lambda latents, x: sae.decode(latents), decoder)


CONTENDERS = {
    f"SAELens {selection}, {'our rate' if ours else 'recommended'}": SAELens(selection, ours)
    for selection in ("TopK", "BatchTopK", "MatryoshkaBatchTopK")
    for ours in (False, True)
}
