"""sparsify (eai-sparsify): its `Trainer.fit`, on a module that replays activations. It has TopK only.

*recommended* is its default: SignSGD with its own formula of the rate. *our rate* is Adam with sparsedict's default
rate, a warm-up, and its AuxK with a window of dead latents that is scaled to short runs.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders._sparsify import Replay, SomeTokens
from benchmarks.quality._data import Data, Source
from benchmarks.quality._task import Kind, Task, Trained
from benchmarks.quality.contenders._peers import DEAD_AFTER, our_lr


@dataclass(frozen=True)
class Sparsify:
    """A TopK autoencoder or transcoder of sparsify."""

    ours: bool

    packages = ("sparsify",)

    def can_train(self, kind: Kind, source: Source) -> bool:
        return True

    def train(self, task: Task, data: Data) -> Trained:
        from sparsify import SparseCoderConfig, TrainConfig, Trainer  # pyright: ignore[reportMissingImports]

        inputs, targets = data.pair(task.kind)
        steps, d = task.n_steps, inputs.shape[1]
        batches = data.batches(task.kind, task.batch_size, task.seed)
        model: Any = Replay(targets.shape[1], "cpu", batches)
        coder = SparseCoderConfig(num_latents=task.n_latents, k=task.k, transcode=task.kind == "transcoder")
        lr = our_lr(d, task.n_latents) if self.ours else 5e-3 / (task.n_latents / 2**14) ** 0.5
        own = {"auxk_alpha": 1 / 32, "dead_feature_threshold": DEAD_AFTER} if self.ours else {}
        with tempfile.TemporaryDirectory() as folder:
            settings = TrainConfig(
                coder,
                batch_size=1,
                optimizer="adam" if self.ours else "signum",
                lr=task.lr_factor * lr,
                lr_warmup_steps=steps // 5,
                hookpoints=["site"],
                init_seeds=[task.seed],
                save_dir=folder,
                save_every=10**9,
                log_to_wandb=False,
                **own,
            )
            trainer = Trainer(settings, SomeTokens(task.batch_size, steps), model)
            model.serves = True
            trainer.fit()
        for optimizer in trainer.optimizers:
            if hasattr(optimizer, "eval"):
                optimizer.eval()
        (sae,) = trainer.saes.values()
        return self._trained(sae)

    def _trained(self, sae: Any) -> Trained:
        def encode(x: Tensor) -> Tensor:
            values, indices, _ = sae.encode(x)
            return torch.zeros(*x.shape[:-1], sae.num_latents).scatter_(-1, indices, values)

        return Trained(encode, lambda latents, x: latents @ sae.W_dec + sae.b_dec, sae.W_dec.detach())


CONTENDERS = {"sparsify TopK, recommended": Sparsify(False), "sparsify TopK, our rate": Sparsify(True)}
