"""SAELens: its `SAETrainer.fit`. It trains autoencoders only.

*recommended* is the library's default rate, with a linear decay over the last fifth of the steps as in its tutorials.
*our rate* has sparsedict's default rate, a warm-up and a window of dead latents that is scaled to short runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.quality._data import Data, Source
from benchmarks.quality._task import Kind, Task, Trained
from benchmarks.quality.contenders._peers import BATCH_SIZE, DEAD_AFTER, n_steps, our_lr, threshold_for

RECOMMENDED_LR = 3e-4


@dataclass(frozen=True)
class SAELens:
    """A TopK or BatchTopK autoencoder of SAELens."""

    selection: str
    ours: bool

    packages = ("sae_lens",)

    def can_train(self, kind: Kind, source: Source) -> bool:
        return kind == "autoencoder"

    def train(self, task: Task, data: Data) -> Trained:
        from sae_lens.config import LoggingConfig, SAETrainerConfig  # pyright: ignore[reportMissingImports]
        from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

        d, steps = data.outputs.shape[1], n_steps(task)
        sae = self._make(task, d)
        lr = task.lr_factor * (our_lr(d, task.n_latents) if self.ours else RECOMMENDED_LR)
        own = {"lr_warm_up_steps": steps // 5, "dead_feature_window": DEAD_AFTER // BATCH_SIZE} if self.ours else {}
        settings = SAETrainerConfig(
            total_training_samples=steps * BATCH_SIZE,
            train_batch_size_samples=BATCH_SIZE,
            lr=lr,
            lr_end=0.0,
            lr_decay_steps=steps // 5,
            logger=LoggingConfig(log_to_wandb=False),
            **own,
        )
        batches = data.batches("autoencoder", BATCH_SIZE, task.seed)
        SAETrainer(cfg=settings, sae=sae, data_provider=(read for read, _ in batches)).fit()
        return self._trained(sae, task, data)

    def _make(self, task: Task, d: int) -> Any:
        from sae_lens import (  # pyright: ignore[reportMissingImports]
            BatchTopKTrainingSAE,
            BatchTopKTrainingSAEConfig,
            TopKTrainingSAE,
            TopKTrainingSAEConfig,
        )

        shape: dict[str, Any] = {"d_in": d, "d_sae": task.n_latents, "device": "cpu", "dtype": "float32", "k": task.k}
        if self.selection == "TopK":
            return TopKTrainingSAE(TopKTrainingSAEConfig(**shape))
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**shape))

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
    for selection in ("TopK", "BatchTopK")
    for ours in (False, True)
}
