"""sparsify: its `Trainer` on the Hugging Face model, tokens from its `MemmapDataset`.

Its batches are whole sequences, and it doesn't shuffle activations.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harvests import CONTEXT, Loaded, Reconstruct, Run, Task


def variants(task: Task) -> list[tuple[str, ...]]:
    return [(), ("Adam",)]


def prepare(task: Task, loaded: Loaded, options: tuple[str, ...]) -> Run:
    from sparsify import SparseCoderConfig, TrainConfig, Trainer  # pyright: ignore[reportMissingImports]
    from sparsify.data import MemmapDataset  # pyright: ignore[reportMissingImports]

    temporary = tempfile.TemporaryDirectory()
    folder = Path(temporary.name)
    n_sequences = task.batch_size // CONTEXT
    loaded.sequences(task.n_steps * n_sequences).numpy().astype(np.uint16).tofile(folder / "tokens.bin")

    def run() -> Reconstruct:
        settings = TrainConfig(
            SparseCoderConfig(num_latents=task.n_latents, k=task.k, transcode=task.kind == "distiller"),
            batch_size=n_sequences,
            optimizer="adam" if "Adam" in options else "signum",
            lr_warmup_steps=max(task.n_steps // 10, 1),
            exclude_tokens=[task.bos],
            hookpoints=[task.path.split(".", 1)[1]],
            init_seeds=[task.seed],
            save_dir=str(folder),
            log_to_wandb=False,
        )
        trainer = Trainer(settings, MemmapDataset(str(folder / "tokens.bin"), CONTEXT), loaded.model)
        trainer.fit()
        for optimizer in trainer.optimizers:
            if hasattr(optimizer, "eval"):
                optimizer.eval()
        (coder,) = trainer.saes.values()
        # The folder goes when nothing refers to it any more.
        return lambda x, _folder=temporary: coder(x).sae_out

    return run
