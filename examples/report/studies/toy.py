"""The toy of one neuron: a student with a single latent learns a single ReLU neuron."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sparsedict.activations import ReLU
from sparsedict.batches import ActivationBatch, Activations
from sparsedict.dictionaries import SparseDistiller
from sparsedict.norms import DecoderNorm, UnitNorm
from sparsedict.training import Constant, Record, Trainee, fit_many

from ..study import Numbers

N_RECORDS = 50
N_COMPARED = 4_096
"""Inputs on which activations are compared."""
HELD = UnitNorm()


@dataclass(frozen=True)
class Toy:
    """One run of the toy; the report's by default.

    Attributes:
        d: Width of input and output.
        batch_size: Inputs per step.
        lr: Adam's learning rate, constant.
        weight_decay: Adam's.
        unevenness: The i-th input's standard deviation falls as ``i ** -unevenness``; their mean square is 1.
        decoder_norm: The constraint on the student's decoder row.
    """

    d: int = 1000
    batch_size: int = 8
    lr: float = 0.01
    weight_decay: float = 0.0
    unevenness: float = 0.0
    decoder_norm: DecoderNorm = HELD

    def deviations(self) -> Tensor:
        """Returns the inputs' standard deviations."""
        falling = torch.arange(1, self.d + 1) ** -self.unevenness
        return falling * (self.d**0.5 / falling.norm())

    def encoder(self, seed: int) -> Tensor:
        """Returns the neuron's encoder row, along which inputs have a standard deviation of 1.

        One-hot as in the report where inputs are even; otherwise a random direction, for it would matter which.
        """
        if self.unevenness == 0.0:
            return _one_hot(self.d)
        row = torch.randn(self.d, generator=torch.Generator().manual_seed(seed))
        return row / (row * self.deviations()).norm()


def run_toy(toy: Toy, n_steps: int, seed: int) -> Numbers:
    """Trains one student of one neuron.

    Returns:
        Steps and cosines of encoder and decoder with the true ones along the way; their means over the last tenth; and
        the correlation of the student's activations with the neuron's at the end.
    """
    student = SparseDistiller(
        toy.d, toy.d, 1, activation=ReLU(), decoder_norm=toy.decoder_norm, generator=torch.Generator().manual_seed(seed)
    )
    # The report's toy has rows and nothing else; and a student with frozen parts starts from its random rows.
    student.encoder_bias.requires_grad_(False)
    student.decoder_bias.requires_grad_(False)
    inputs = _Normal(toy, seed)
    course: dict[str, list[float]] = {"steps": [], "encoder": [], "decoder": []}

    def note(_: str, record: Record, __: Any) -> None:
        course["steps"].append(record.step)
        course["encoder"].append(_cosine(student.encoder, inputs.encoder))
        course["decoder"].append(_cosine(student.decoder, _one_hot(toy.d)))

    optimizer = partial(torch.optim.Adam, weight_decay=toy.weight_decay)
    trainee = Trainee(student, lr=toy.lr, schedule=Constant(), optimizer=optimizer)
    n_tokens, log_every = n_steps * toy.batch_size, max(1, n_steps // N_RECORDS)
    fit_many({"": trainee}, inputs, n_tokens=n_tokens, progress=False, callbacks=[note], log_every=log_every)
    last = max(1, len(course["steps"]) // 10)
    ends = {f"{side}_end": sum(course[side][-last:]) / last for side in ("encoder", "decoder")}
    return {**course, **ends, "correlation": inputs.correlation(student)}


class _Normal:
    """Endless batches of normal inputs and of what a single ReLU neuron gives for them."""

    def __init__(self, toy: Toy, seed: int) -> None:
        self._toy, self._seed = toy, seed
        self._deviations = toy.deviations()
        self.encoder: Tensor = toy.encoder(seed)

    def __iter__(self) -> Iterator[Activations]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            yield self._draw(self._toy.batch_size, generator)

    def _draw(self, n: int, generator: torch.Generator) -> Activations:
        x = torch.randn(n, self._toy.d, generator=generator) * self._deviations
        outputs = torch.zeros_like(x)
        outputs[:, 0] = (x @ self.encoder).relu()
        return ActivationBatch(x, outputs)

    @torch.no_grad()
    def correlation(self, student: SparseDistiller) -> float:
        """Correlates the student's activations with the neuron's on inputs that it hasn't seen."""
        batch = self._draw(N_COMPARED, torch.Generator().manual_seed(self._seed + 1))
        pair = torch.stack([batch.outputs[:, 0], student.encode(batch.inputs)[:, 0]])
        return float(torch.corrcoef(pair)[0, 1])


def _one_hot(d: int) -> Tensor:
    row = torch.zeros(d)
    row[0] = 1.0
    return row


def _cosine(rows: Tensor, row: Tensor) -> float:
    return float(normalize(rows.detach()[0], dim=0) @ normalize(row, dim=0))
