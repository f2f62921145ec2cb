"""Stored activations of an MLP, or of synthetic features, which all contenders train on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import sparsedict as sd
from benchmarks import stories
from sparsedict import zoo

Source = Literal["embedded", "stories", "synthetic"]

SYNTHETIC = {"d": 64, "n_features": 256, "l0": 6.0}
N_HELD_OUT = 20_000
N_LOSS = 10_000
"""Held-out tokens for reconstruction errors, and for the losses of the model."""
N_LAYERS = {"embedded": 4, "stories": 5, "synthetic": 1}
N_NEURONS = {"embedded": 512, "stories": 172, "synthetic": 128}


@dataclass(frozen=True)
class Data:
    """Activations of one MLP, divided by the root mean variance of their dimensions.

    The scale makes plain learning rates of all libraries comparable.

    Attributes:
        inputs: Training inputs of the MLP, ``[n_tokens, d_in]``.
        outputs: Training outputs, ``[n_tokens, d_out]``.
        held_inputs: Held-out inputs.
        held_outputs: Held-out outputs.
        scales: The divisors of inputs and outputs.
        site: The MLP, or ``None`` for synthetic features.
        tokens: Held-out sequences for the losses of the model.
        truth: Directions of the synthetic features in the outputs, ``[n_features, d_out]``, or ``None``.
    """

    inputs: Tensor
    outputs: Tensor
    held_inputs: Tensor
    held_outputs: Tensor
    scales: tuple[float, float]
    site: sd.Site | None
    tokens: Tensor | None
    truth: Tensor | None

    def pair(self, kind: str, *, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Returns the activations that a kind of dictionary reads and reproduces."""
        inputs, outputs = (self.held_inputs, self.held_outputs) if held_out else (self.inputs, self.outputs)
        return (outputs if kind == "autoencoder" else inputs), outputs

    def batches(self, kind: str, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields batches of random tokens without end, in a new order in each pass."""
        inputs, targets = self.pair(kind)
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(inputs), generator=generator)
            for rows in order[: len(order) // batch_size * batch_size].split(batch_size):
                read = inputs[rows]
                yield read, read if targets is inputs else targets[rows]


def load(source: Source, layer: int, n_tokens: int, folder: Path) -> Data:
    """Returns the activations of a source, which are computed once and stored in a folder."""
    if source == "synthetic":
        return _synthetic(n_tokens)
    site, text, held_out = _site(source, layer)
    path = folder / f"{source}-{layer}-{n_tokens}.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        stored = {**_harvest(site, text, n_tokens, ""), **_harvest(site, held_out, N_HELD_OUT, "held_")}
        torch.save(stored, partial)
        partial.rename(path)
    stored: dict[str, Tensor] = torch.load(path, mmap=True)
    return _scaled(stored, site=site, tokens=held_out[: N_LOSS // held_out.shape[1]], truth=None)


def _site(source: Source, layer: int) -> tuple[sd.Site, Tensor, Tensor]:
    """Returns a site, text to train on and held-out text."""
    if source == "embedded":
        site = sd.Site(zoo.load_model(), f"transformer.h.{layer}.mlp", exclude_tokens=[0])
        return site, zoo.tokens("train"), zoo.tokens("evaluation")
    model, tokens, held_out = stories.load(Path(os.environ["SPARSEDICT_TEST_DATA"]))
    return sd.Site(model, f"model.layers.{layer}.mlp", exclude_tokens=[stories.BOS]), tokens, held_out


def _harvest(site: sd.Site, tokens: Tensor, n_tokens: int, prefix: str) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {"inputs": [], "outputs": []}
    n_left = n_tokens
    for block in tokens.split(32):
        batch = site.capture(block).batch()
        found["inputs"].append(batch.inputs)
        found["outputs"].append(batch.outputs)
        n_left -= batch.n_tokens
        if n_left <= 0:
            break
    return {prefix + name: torch.cat(parts)[:n_tokens] for name, parts in found.items()}


def _synthetic(n_tokens: int) -> Data:
    truth = sd.data.SyntheticFeatures(seed=0, **SYNTHETIC)
    stored: dict[str, Tensor] = {}
    for prefix, n, seed in (("", n_tokens, 1), ("held_", N_HELD_OUT, 2)):
        batch, _ = truth.sample(n, seed=seed)
        stored |= {prefix + "inputs": batch.inputs, prefix + "outputs": batch.outputs}
    return _scaled(stored, site=None, tokens=None, truth=truth.writes)


def _scaled(stored: dict[str, Tensor], **others: Any) -> Data:
    scales = tuple(float(stored[name][:N_HELD_OUT].var(0).mean().sqrt()) for name in ("inputs", "outputs"))
    parts = [stored[prefix + name].float() / scale for prefix in ("", "held_") for name, scale in _named(scales)]
    return Data(*parts, scales=(scales[0], scales[1]), **others)


def _named(scales: tuple[float, ...]) -> list[tuple[str, float]]:
    return list(zip(("inputs", "outputs"), scales, strict=True))
