"""dictionary_learning: its `trainSAE`. It trains autoencoders only.

Its warm-ups are left out, for they end after a thousand steps and leave work out while they last.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.case import BANDWIDTH, L1_COEFFICIENT, LEARNING_RATE, THRESHOLD, Case
from benchmarks.contenders import Batches

LABEL = "dictionary_learning"
PACKAGE = "dictionary-learning"
IMPORT = "dictionary_learning"


def variants(case: Case) -> list[tuple[str, ...]]:
    return [(), ("fused Adam",)] if case.kind == "autoencoder" else []


def _settings(case: Case) -> dict[str, Any]:
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer  # pyright: ignore[reportMissingImports]
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer  # pyright: ignore[reportMissingImports]
    from dictionary_learning.trainers.standard import StandardTrainer  # pyright: ignore[reportMissingImports]
    from dictionary_learning.trainers.top_k import TopKTrainer  # pyright: ignore[reportMissingImports]

    shared = {
        "steps": 10**9,
        "activation_dim": case.d,
        "dict_size": case.n_latents,
        "layer": 0,
        "lm_name": "",
        "lr": LEARNING_RATE,
        "warmup_steps": 0,
        "seed": case.seed,
        "device": case.device,
    }
    if case.selection == "topk":
        return {"trainer": TopKTrainer, "k": case.k, "threshold_start_step": 0, **shared}
    if case.selection == "batch_topk":
        return {"trainer": BatchTopKTrainer, "k": case.k, "threshold_start_step": 0, **shared}
    if case.selection == "relu":
        return {"trainer": StandardTrainer, "l1_penalty": L1_COEFFICIENT, "sparsity_warmup_steps": None, **shared}
    own = {"bandwidth": BANDWIDTH, "target_l0": float(case.k), "sparsity_warmup_steps": None}
    return {"trainer": JumpReluTrainer, **own, **shared}


def _prepared(case: Case, base: Any, fused: bool) -> Any:
    """Returns a subclass of the trainer that uses the weights of the case and, if ``fused``, our optimiser."""

    class Prepared(base):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            sae = self.ae
            if case.selection == "jumprelu":
                sae.threshold.data.fill_(THRESHOLD)
                case.fill_(sae.W_enc.data.T, sae.b_enc.data, sae.W_dec.data)
            else:
                case.fill_(sae.encoder.weight.data, sae.encoder.bias.data, sae.decoder.weight.data.T)
            if fused:
                for group in self.optimizer.param_groups:
                    group.update(fused=True, foreach=False)

    return Prepared


def train(case: Case, batches: Batches, options: tuple[str, ...]) -> None:
    from dictionary_learning.training import trainSAE  # pyright: ignore[reportMissingImports]

    settings = _settings(case)
    settings["trainer"] = _prepared(case, settings["trainer"], "fused Adam" in options)
    trainSAE(
        data=(inputs for inputs, _ in batches),
        trainer_configs=[settings],
        steps=10**9,
        device=case.device,
        autocast_dtype=torch.bfloat16 if case.on_cuda else torch.float32,
    )
