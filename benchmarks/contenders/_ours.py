"""Contenders of sparsedict: its own step, and a dense reference of the same step.

``SignSGD`` is sparsedict with sparsify's default optimiser, which has one state array instead of the two of Adam.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import sparsedict as sd
from benchmarks.case import BANDWIDTH, L0_COEFFICIENT, L1_COEFFICIENT, LEARNING_RATE, THRESHOLD, Case
from benchmarks.contenders import Batches
from sparsedict.activations import State
from sparsedict.training import Constant

LABEL = "sparsedict"
PACKAGE = "sparsedict"
IMPORT = "sparsedict"


class _WithoutSupport:
    """Removes the support of an activation."""

    def selection(self, state: State, *, training: bool) -> Any:
        return None

    def support(self, pre: Tensor, state: State, *, training: bool) -> Any:
        return None


@dataclass(frozen=True)
class DenseTopK(_WithoutSupport, sd.TopK):
    """TopK that multiplies all latents, zeros included."""

    def values(self, pre: Tensor, state: State) -> Tensor:
        top = pre.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())


@dataclass(frozen=True)
class DenseBatchTopK(_WithoutSupport, sd.BatchTopK):
    """BatchTopK that multiplies all latents, zeros included."""

    def values(self, pre: Tensor, state: State) -> Tensor:
        flat = pre.flatten()
        top = flat.topk(self.k * len(pre), sorted=False)
        return torch.zeros_like(flat).scatter(0, top.indices, top.values.relu()).view_as(pre)


@dataclass(frozen=True)
class DenseReLU(_WithoutSupport, sd.ReLU):
    """ReLU that multiplies all latents, zeros included."""


@dataclass(frozen=True)
class DenseJumpReLU(_WithoutSupport, sd.JumpReLU):
    """JumpReLU that multiplies all latents, zeros included."""


def variants(case: Case) -> list[tuple[str, ...]]:
    if case.kind == "cross_layer":
        return [()]
    borrowed = case.selection == "topk" and importlib.util.find_spec("sparsify") is not None
    return [(), ("dense",), *([("SignSGD",)] if borrowed else [])]


class SignDescent(torch.optim.Optimizer):
    """sparsify's default optimiser, made as it makes it: its own type isn't PyTorch's."""

    def __init__(self, parameters: Any, lr: float) -> None:
        from schedulefree import ScheduleFreeWrapper  # pyright: ignore[reportMissingImports]
        from sparsify.sign_sgd import SignSGD  # pyright: ignore[reportMissingImports]

        super().__init__(parameters, {"lr": lr})
        weights = [weight for group in self.param_groups for weight in group["params"]]
        self._inner = ScheduleFreeWrapper(SignSGD(weights, lr=lr), momentum=0.95)
        self._inner.train()

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._inner.step()


def activation(case: Case, dense: bool) -> sd.Activation:
    """Returns the case's activation."""
    if case.selection == "topk":
        return DenseTopK(case.k) if dense else sd.TopK(case.k)
    if case.selection == "batch_topk":
        return DenseBatchTopK(case.k) if dense else sd.BatchTopK(case.k)
    if case.selection == "relu":
        return DenseReLU() if dense else sd.ReLU()
    return (DenseJumpReLU if dense else sd.JumpReLU)(threshold=THRESHOLD, bandwidth=BANDWIDTH)


def penalties(case: Case) -> list[sd.Penalty]:
    """Returns the usual penalties of such a dictionary."""
    return {"relu": [sd.L1(L1_COEFFICIENT)], "jumprelu": [sd.L0(L0_COEFFICIENT)]}.get(case.selection, [])


def _cross_layer(case: Case) -> sd.CrossLayerDistiller:
    own = activation(case, dense=False)
    dictionary = sd.CrossLayerDistiller(
        {str(layer): case.d for layer in range(case.n_layers)},
        case.n_latents,
        activation=own if own.elementwise else sd.PerLayer(own),
        decoder_norm=sd.UnitNorm(),
        device=case.device,
    )
    for block in dictionary.blocks():
        own_rows = torch.empty(block.n_latents, case.d, device=case.device)
        case.fill_(block.encoder.data, dictionary.encoder_bias.data[block.latents], own_rows)
    return dictionary


def _by_layer(case: Case, batches: Batches) -> Iterator[sd.Activations]:
    """Yields batches with the points of each layer, which are views."""
    for inputs, targets in batches:
        points: dict[str, Tensor] = {}
        for layer in range(case.n_layers):
            columns = slice(layer * case.d, (layer + 1) * case.d)
            points[f"{layer}.inputs"], points[f"{layer}.outputs"] = inputs[:, columns], targets[:, columns]
        yield sd.Activations(points)


def train(case: Case, batches: Batches, options: tuple[str, ...]) -> None:
    data: Any = batches
    parts = {"activation": activation(case, "dense" in options), "decoder_norm": sd.UnitNorm(), "device": case.device}
    if case.kind == "autoencoder":
        dictionary: sd.Dictionary = sd.SparseAutoencoder(case.d, case.n_latents, **parts)
    elif case.kind == "distiller":
        dictionary = sd.SparseDistiller(case.d, case.d, case.n_latents, **parts)
    else:
        dictionary, data = _cross_layer(case), _by_layer(case, batches)
    if case.kind != "cross_layer":
        case.fill_(dictionary.encoder.data, dictionary.encoder_bias.data, dictionary.decoder.data)
    sd.fit(
        dictionary,
        data,
        n_tokens=10**12,
        lr=LEARNING_RATE,
        penalties=penalties(case),
        schedule=Constant(),
        optimizer=SignDescent if "SignSGD" in options else None,
        autocast=torch.bfloat16 if case.on_cuda else None,
        progress=False,
    )
