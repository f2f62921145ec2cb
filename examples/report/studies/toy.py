"""The toy model of one neuron: a student with a single latent learns a single ReLU neuron."""

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
"""Number of inputs on which activations are compared."""
HELD = UnitNorm()


@dataclass(frozen=True)
class Toy:
    """The settings of a toy run. The defaults are those of the report.

    Attributes:
        d: Width of input and output.
        batch_size: Number of inputs per step.
        lr: Constant learning rate of Adam.
        weight_decay: Weight decay of Adam.
        unevenness: The standard deviation of the i-th input is proportional to ``i ** -unevenness``, with mean square
            1.
        decoder_norm: Constraint on the decoder row of the student.
    """

    d: int = 1000
    batch_size: int = 8
    lr: float = 0.01
    weight_decay: float = 0.0
    unevenness: float = 0.0
    decoder_norm: DecoderNorm = HELD

    def deviations(self) -> Tensor:
        """Returns the standard deviations of the inputs, ``[d]``."""
        falling = torch.arange(1, self.d + 1) ** -self.unevenness
        return falling * (self.d**0.5 / falling.norm())

    def encoder(self, seed: int) -> Tensor:
        """Returns the encoder row of the neuron, along which inputs have a standard deviation of 1.

        It is one-hot, as in the report, if all inputs have the same variance, and a random direction otherwise.
        """
        if self.unevenness == 0.0:
            return _one_hot(self.d)
        row = torch.randn(self.d, generator=torch.Generator().manual_seed(seed))
        return row / (row * self.deviations()).norm()


def run_toy(toy: Toy, n_steps: int, seed: int) -> Numbers:
    """Trains a student of one neuron.

    Returns:
        Steps, with the cosines of encoder and decoder with the rows of the neuron; the means of the cosines over the
        last tenth of the run; and the final correlation of the activations of student and neuron.
    """
    student = SparseDistiller(
        toy.d, toy.d, 1, activation=ReLU(), decoder_norm=toy.decoder_norm, generator=torch.Generator().manual_seed(seed)
    )
    # The report's toy model has no biases. A student with frozen parameters isn't initialised from data.
    student.encoder_bias.requires_grad_(False)
    student.decoder_bias.requires_grad_(False)
    inputs = _Normal(toy, seed)
    course: dict[str, list[float]] = {"steps": [], "encoder": [], "decoder": []}

    def note(_: str, record: Record, __: Any) -> None:
        course["steps"].append(record.step)
        course["encoder"].append(_cosine(student.encoder, inputs.encoder))
        course["decoder"].append(_cosine(student.decoder, _one_hot(toy.d)))

    optimizer = partial(torch.optim.Adam, weight_decay=toy.weight_decay, fused=True)
    trainee = Trainee(student, lr=toy.lr, schedule=Constant(), optimizer=optimizer)
    n_tokens, log_every = n_steps * toy.batch_size, max(1, n_steps // N_RECORDS)
    fit_many({"": trainee}, inputs, n_tokens=n_tokens, progress=False, callbacks=[note], log_every=log_every)
    last = max(1, len(course["steps"]) // 10)
    ends = {f"{side}_end": sum(course[side][-last:]) / last for side in ("encoder", "decoder")}
    return {**course, **ends, "correlation": inputs.correlation(student)}


class _Normal:
    """Endless batches of normal inputs and the outputs of a single ReLU neuron."""

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
        """Returns the correlation of the activations of student and neuron on new inputs."""
        batch = self._draw(N_COMPARED, torch.Generator().manual_seed(self._seed + 1))
        pair = torch.stack([batch.outputs[:, 0], student.encode(batch.inputs)[:, 0]])
        return float(torch.corrcoef(pair)[0, 1])


def _one_hot(d: int) -> Tensor:
    row = torch.zeros(d)
    row[0] = 1.0
    return row


def _cosine(rows: Tensor, row: Tensor) -> float:
    return float(normalize(rows.detach()[0], dim=0) @ normalize(row, dim=0))
