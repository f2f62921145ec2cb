"""sparsify (eai-sparsify): its `Trainer.fit`, on a model that replays activations. It has TopK only.

It trains inside the forward pass of a Hugging Face model, so the batches are served by a module that stands for one.
``Adam`` is sparsify's alternative to SignSGD, its default. ``fused Adam`` is Adam with PyTorch's fused step.
"""

from __future__ import annotations

import tempfile
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.case import LEARNING_RATE, Case
from benchmarks.contenders import Batches

LABEL = "sparsify"
PACKAGE = "eai-sparsify"
IMPORT = "sparsify"


def variants(case: Case) -> list[tuple[str, ...]]:
    return [(), ("Adam",), ("fused Adam",)] if case.selection == "topk" and case.kind != "cross_layer" else []


class _Given(nn.Module):
    """A module that replaces its inputs and returns the targets."""

    def __init__(self) -> None:
        super().__init__()
        self.targets = torch.empty(0)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.targets


class Replay(nn.Module):
    """A substitute for a model with one hooked module, which replays batches when ``serves`` is set.

    Args:
        d: Width of the targets.
        device: Device.
        batches: Batches of inputs and targets.
    """

    def __init__(self, d: int, device: str, batches: Batches) -> None:
        super().__init__()
        self.site = _Given()
        self.config = SimpleNamespace(num_hidden_layers=1)
        self.device = torch.device(device)
        # The trainer asks for the width before it trains.
        self.site.targets = torch.zeros(1, 1, d, device=self.device)
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}
        self._batches = batches
        self.serves = False

    @property
    def base_model(self) -> Replay:
        return self

    def forward(self, input_ids: Tensor) -> None:
        if not self.serves:
            self.site(self.site.targets)
            return
        inputs, targets = next(self._batches)
        self.site.targets = targets[None]
        self.site(inputs[None])


class SomeTokens:
    """A dataset whose tokens aren't used, with a row for each step."""

    def __init__(self, n_tokens: int, n_steps: int) -> None:
        self._n_steps = n_steps
        self._row = {"input_ids": torch.ones(n_tokens, dtype=torch.int64)}

    def __len__(self) -> int:
        return self._n_steps

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._row


def train(case: Case, batches: Batches, options: tuple[str, ...]) -> None:
    from sparsify import SparseCoderConfig, TrainConfig, Trainer  # pyright: ignore[reportMissingImports]

    model: Any = Replay(case.d, case.device, batches)
    coder = SparseCoderConfig(num_latents=case.n_latents, k=case.k, transcode=case.kind == "distiller")
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainConfig(
            coder,
            batch_size=1,
            optimizer="adam" if "Adam" in options or "fused Adam" in options else "signum",
            lr=LEARNING_RATE,
            lr_warmup_steps=1,
            hookpoints=["site"],
            save_dir=folder,
            save_every=10**9,
            log_to_wandb=False,
            # Anything here keeps the trainer from setting biases anew in the first step.
            finetune="given",
        )
        trainer = Trainer(settings, SomeTokens(case.n_tokens, 10**9), model)
        weights = trainer.saes["site"]
        case.fill_(weights.encoder.weight.data, weights.encoder.bias.data, weights.W_dec.data)
        if "fused Adam" in options:
            for group in trainer.optimizers[0].param_groups:
                group.update(fused=True, foreach=False)
        model.serves = True
        trainer.fit()
