"""decode-clt: its `CLTTrainer`, with a store that replays activations. Cross-layer transcoders only.

Its selection of latents is over all layers (``topk_mode="per_layer"`` returns zeros in 0.0.1). Activations are
standardised for each dimension before training, its default, and errors are in the original units.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.case import LEARNING_RATE, Case
from benchmarks.contenders import Batches

LABEL = "decode-clt"
PACKAGE = "decode-clt"
IMPORT = "clt"

ByLayer = dict[int, Tensor]


def variants(case: Case) -> list[tuple[str, ...]]:
    return [()] if case.kind == "cross_layer" and case.selection in ("topk", "batch_topk") else []


def trainer(
    batches: Iterator[tuple[ByLayer, ByLayer]],
    *,
    d: int,
    n_layers: int,
    n_latents: int,
    k: int,
    n_steps: int,
    lr: float,
    selection: str = "batchtopk",
    mean: Mapping[int, Tensor] | None = None,
    std: Mapping[int, Tensor] | None = None,
    folder: str,
    **options: Any,
) -> Any:
    """Returns a trainer.

    Args:
        batches: Standardised inputs and outputs by layer.
        d: Width of inputs and outputs.
        n_layers: Number of layers.
        n_latents: Latents of each layer.
        k: Active latents of all layers together.
        n_steps: Number of steps.
        lr: Learning rate.
        selection: ``"batchtopk"`` or ``"topk"``.
        mean: Mean of the outputs by layer, which the loss adds again.
        std: Standard deviation of the outputs by layer.
        folder: Folder of logs and checkpoints.
        options: Other fields of `TrainingConfig`.
    """
    from clt.config import CLTConfig, TrainingConfig  # pyright: ignore[reportMissingImports]
    from clt.training import trainer as module  # pyright: ignore[reportMissingImports]

    class Replay(module.BaseActivationStore):
        mean_tg, std_tg = dict(mean or {}), dict(std or {})
        total_tokens = train_batch_size_tokens = 0

        def get_batch(self) -> tuple[ByLayer, ByLayer]:
            return next(batches)

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            pass

        def close(self) -> None:
            pass

    logging.disable(logging.WARNING)
    config = CLTConfig(
        n_latents,
        n_layers,
        d,
        activation_fn=selection,
        batchtopk_k=k if selection == "batchtopk" else None,
        topk_k=k if selection == "topk" else None,
    )
    settings = TrainingConfig(
        lr,
        n_steps,
        normalization_method="mean_std",
        activation_path=folder,
        sparsity_lambda=0.0,
        eval_interval=10**9,
        checkpoint_interval=10**9,
        **options,
    )
    with mock.patch.object(module, "create_activation_store", return_value=Replay()):
        return module.CLTTrainer(config, settings, log_dir=folder, device="cpu")


def train(case: Case, batches: Batches, options: tuple[str, ...]) -> None:
    def by_layer() -> Iterator[tuple[ByLayer, ByLayer]]:
        for pair in batches:
            inputs, targets = (dict(enumerate(part.split(case.d, dim=1))) for part in pair)
            yield inputs, targets

    with tempfile.TemporaryDirectory() as folder:
        made = trainer(
            by_layer(),
            d=case.d,
            n_layers=case.n_layers,
            n_latents=case.n_latents,
            k=case.k * case.n_layers,
            n_steps=10**9,
            lr=LEARNING_RATE,
            selection="topk" if case.selection == "topk" else "batchtopk",
            folder=folder,
        )
        decoder = torch.empty(case.n_latents, case.d)
        for encoder in made.model.encoder_module.encoders:
            case.fill_(encoder.weight.data, encoder.bias_param.data, decoder)
        made.train()
