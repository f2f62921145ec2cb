"""SAELens: its `SAETrainer.fit`. It trains autoencoders only.

TopK has two settings, dense and COO activations; the latter's backward pass fails (in torch 2.13 on a CPU) unless
activations are left unscaled by decoder norms. ``compiled`` is its runner's ``compile_sae``.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.case import BANDWIDTH, L0_COEFFICIENT, L1_COEFFICIENT, LEARNING_RATE, THRESHOLD, Case
from benchmarks.contenders import Batches

LABEL = "SAELens"
PACKAGE = "sae-lens"
IMPORT = "sae_lens"


def variants(case: Case) -> list[tuple[str, ...]]:
    if case.kind != "autoencoder":
        return []
    sparse = [("sparse",)] if case.selection == "topk" else []
    return [(), *sparse, ("fused Adam",), ("compiled",)]


def _autoencoder(case: Case, options: tuple[str, ...]) -> Any:
    from sae_lens import (  # pyright: ignore[reportMissingImports]
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        JumpReLUTrainingSAE,
        JumpReLUTrainingSAEConfig,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )

    shape: dict[str, Any] = {"d_in": case.d, "d_sae": case.n_latents, "device": case.device, "dtype": "float32"}
    if case.selection == "topk":
        sparse = "sparse" in options
        settings = {"use_sparse_activations": sparse, "rescale_acts_by_decoder_norm": not sparse, **shape}
        return TopKTrainingSAE(TopKTrainingSAEConfig(k=case.k, **settings))
    if case.selection == "batch_topk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(k=case.k, **shape))
    if case.selection == "relu":
        return StandardTrainingSAE(StandardTrainingSAEConfig(l1_coefficient=L1_COEFFICIENT, **shape))
    return JumpReLUTrainingSAE(
        JumpReLUTrainingSAEConfig(
            jumprelu_init_threshold=THRESHOLD,
            jumprelu_bandwidth=BANDWIDTH,
            l0_coefficient=L0_COEFFICIENT,
            **shape,
        )
    )


def train(case: Case, batches: Batches, options: tuple[str, ...]) -> None:
    from sae_lens.config import LoggingConfig, SAETrainerConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

    sae = _autoencoder(case, options)
    case.fill_(sae.W_enc.data.T, sae.b_enc.data, sae.W_dec.data)
    settings = SAETrainerConfig(
        total_training_samples=10**12,
        train_batch_size_samples=case.n_tokens,
        lr=LEARNING_RATE,
        lr_end=LEARNING_RATE,
        device=case.device,
        autocast=case.on_cuda,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(cfg=settings, sae=sae, data_provider=(inputs for inputs, _ in batches))
    if "fused Adam" in options:
        for group in trainer.optimizer.param_groups:
            group.update(fused=True, foreach=False)
    if "compiled" in options:
        sae.training_forward_pass = torch.compile(sae.training_forward_pass)
    trainer.fit()
