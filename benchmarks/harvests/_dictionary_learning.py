"""dictionary_learning: its `ActivationBuffer` on nnsight, and `trainSAE`.

The buffer takes text, so it is given token numbers as text and a tokenizer that reads these.
"""

from __future__ import annotations

from itertools import cycle
from operator import attrgetter
from typing import Any

import torch

from benchmarks.harvests import BUFFER, CONTEXT, Loaded, Reconstruct, Run, Task, number_tokenizer


def variants(task: Task) -> list[tuple[str, ...]]:
    return [()] if task.kind == "autoencoder" else []


def prepare(task: Task, loaded: Loaded, options: tuple[str, ...]) -> Run:
    from dictionary_learning import ActivationBuffer  # pyright: ignore[reportMissingImports]
    from dictionary_learning.trainers.top_k import TopKTrainer  # pyright: ignore[reportMissingImports]
    from dictionary_learning.training import trainSAE  # pyright: ignore[reportMissingImports]
    from nnsight import LanguageModel  # pyright: ignore[reportMissingImports]

    texts = [" ".join(map(str, row)) for row in loaded.tokens.tolist()]
    model = LanguageModel(loaded.model, tokenizer=number_tokenizer(loaded.n_in_vocabulary(), task.bos))
    width = loaded.model.config.hidden_size

    def run() -> Reconstruct:
        made: list[Any] = []

        class Kept(TopKTrainer):
            def __init__(self, **settings: Any) -> None:
                super().__init__(**settings)
                made.append(self.ae)

        buffer = ActivationBuffer(
            cycle(texts),
            model,
            attrgetter(task.path)(model),
            d_submodule=width,
            n_ctxs=BUFFER // CONTEXT,
            ctx_len=CONTEXT,
            refresh_batch_size=32,
            out_batch_size=task.batch_size,
            device=task.device,
            remove_bos=True,
        )
        settings = {
            "trainer": Kept,
            "steps": task.n_steps,
            "activation_dim": width,
            "dict_size": task.n_latents,
            "k": task.k,
            "layer": task.layer,
            "lm_name": task.source,
            "warmup_steps": task.n_steps // 10,
            "seed": task.seed,
            "device": task.device,
        }
        trainSAE(
            data=buffer,
            trainer_configs=[settings],
            steps=task.n_steps,
            device=task.device,
            autocast_dtype=torch.bfloat16 if task.device.startswith("cuda") else torch.float32,
        )
        return made[0]

    return run
