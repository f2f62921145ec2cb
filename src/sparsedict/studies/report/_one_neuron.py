"""Figures 9 and 10: a toy of one neuron, and what keeps its encoder from converging."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sparsedict import figures
from sparsedict.activations import ReLU
from sparsedict.dictionaries import SparseDistiller
from sparsedict.figures import Curve, Palette
from sparsedict.norms import DecoderNorm, Free, MaxNorm, UnitNorm
from sparsedict.studies._bench import Bench
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.training import Constant, Record, Trainee, fit_many
from sparsedict.types import ActivationBatch

N_RECORDS = 50
HELD = UnitNorm()
CONVERGED = 0.95


@dataclass(frozen=True)
class Toy:
    """One run of the toy; the report's by default.

    Attributes:
        d: Width of input and output.
        batch_size: Inputs per step.
        lr: Adam's learning rate, constant.
        weight_decay: Adam's.
        decoder_norm: The constraint on the student's decoder row.
    """

    d: int = 1000
    batch_size: int = 8
    lr: float = 0.01
    weight_decay: float = 0.0
    decoder_norm: DecoderNorm = HELD


SWEPT: dict[str, tuple[Any, ...]] = {
    "batch_size": (2, 8, 32, 128),
    "lr": (0.0003, 0.001, 0.003, 0.01),
    "d": (30, 100, 300, 1000),
    "weight_decay": (0.0, 0.0001, 0.001, 0.01),
}
LABELS = {
    "batch_size": "inputs per step",
    "lr": "learning rate",
    "d": "width of the input",
    "weight_decay": "weight decay (0 drawn at 0.00001)",
}
NORMS: dict[str, DecoderNorm] = {"held at 1": HELD, "at most 1": MaxNorm(1.0), "free": Free()}


class OneNeuron(Study):
    """How a student of a single neuron learns decoder and encoder, and on what that depends."""

    name: ClassVar[str] = "one-neuron"
    title: ClassVar[str] = "A toy of one neuron"
    shows: ClassVar[str] = "Figures 9 and 10"
    claim: ClassVar[str] = (
        "A student of a single ReLU neuron (1,000 normal inputs, encoder and decoder one-hot; Adam, learning rate "
        "0.01, batches of 8, 10,000 steps): the decoder converges quickly, while the encoder's cosine hovers near "
        "0.3 with the decoder's norm held at 1; with the norm free it reaches 1, slowly. A comment supposes that "
        "weight decay should solve it."
    )

    def measure(self, bench: Bench) -> Numbers:
        n_steps = bench.setting.n_toy_steps
        toys = {f"norm {name}": Toy(decoder_norm=norm) for name, norm in NORMS.items()}
        in_full = set(toys.values())
        for field, values in SWEPT.items():
            toys |= {f"{field} {value:g}": replace(Toy(), **{field: value}) for value in values}
        runs: dict[Toy, Numbers] = {}
        with bench.phases("toy", f"training {len(set(toys.values()))} toys for {n_steps:,} steps"):
            for toy in dict.fromkeys(toys.values()):
                steps = n_steps if toy in in_full else max(1, n_steps * 2 // 5)
                runs[toy] = run_toy(toy, steps, bench.seed)
        return {"n_steps": n_steps, "runs": {name: runs[toy] for name, toy in toys.items()}}

    def found(self, numbers: Numbers) -> Finding:
        runs, n_steps = numbers["runs"], numbers["n_steps"]
        drawings = {
            "figure-09-norm-held": _course(runs["norm held at 1"], "Figure 9: the decoder's norm held at 1."),
            "figure-10-norm-free": _course(runs["norm free"], "Figure 10: the decoder's norm free."),
            **{f"toy-{field}": _sweep(runs, field) for field in SWEPT},
        }
        held, bounded, free = (runs[f"norm {name}"] for name in NORMS)
        quick = all(_converged(run, "decoder") is not None for run in (held, free))
        hovers = held["encoder"][-1] < 0.6
        reaches = free["encoder"][-1] > 0.9
        seen = sum((quick, hovers, reaches))
        best = {
            field: max(values, key=lambda v, f=field: runs[f"{f} {v:g}"]["encoder_end"])
            for field, values in SWEPT.items()
        }
        summary = (
            f"After {n_steps:,} steps the encoder's cosine is {held['encoder_end']:.2f} with the norm held at 1, "
            f"{bounded['encoder_end']:.2f} with a norm of at most 1, and {free['encoder_end']:.2f} with the norm "
            f"free; the decoder's is {held['decoder_end']:.2f}, {bounded['decoder_end']:.2f} and "
            f"{free['decoder_end']:.2f}. With the "
            "norm held, the encoder converges best at "
            + ", ".join(
                f"{LABELS[f].partition(' (')[0]} {value:g} ({runs[f'{f} {value:g}']['encoder_end']:.2f})"
                for f, value in best.items()
            )
            + "."
        )
        rows = (
            Compared(
                "decoder cosine above 0.95, norm held, after steps", "quickly", number(_converged(held, "decoder"))
            ),
            Compared("encoder cosine at the end, norm held at 1", "about 0.3", f"{held['encoder_end']:.3f}"),
            Compared("encoder cosine at the end, norm at most 1", "-", f"{bounded['encoder_end']:.3f}"),
            Compared("encoder cosine at the end, norm free", "1", f"{free['encoder_end']:.3f}"),
            Compared(
                "encoder cosine above 0.95, norm free, after steps", "slowly", number(_converged(free, "encoder"))
            ),
            *(
                Compared(
                    f"encoder cosine, norm held, by {LABELS[field].partition(' (')[0]} "
                    f"({', '.join(f'{v:g}' for v in values)})",
                    "-",
                    ", ".join(f"{runs[f'{field} {v:g}']['encoder_end']:.2f}" for v in values),
                )
                for field, values in SWEPT.items()
            ),
        )
        return Finding("seen" if seen == 3 else "partly seen" if seen else "not seen", summary, rows, drawings, NOTES)


NOTES = (
    "Cosines at the end are means over the last tenth of the records; in the sweeps the end comes after two fifths "
    "of the steps, except at the report's own values. Adam moves each of the encoder's weights by about "
    "the learning rate at each step whatever the gradient's size, so the 999 weights that should be zero keep "
    "wandering: their noise grows with the learning rate and with the square root of the width, against one weight "
    "that should be 1. "
    "Where it converges, that noise has fallen below the signal.",
)


def run_toy(toy: Toy, n_steps: int, seed: int) -> Numbers:
    """Trains one student of one neuron; returns steps and cosines of encoder and decoder with the true ones."""
    student = SparseDistiller(
        toy.d, toy.d, 1, activation=ReLU(), decoder_norm=toy.decoder_norm, generator=torch.Generator().manual_seed(seed)
    )
    # The report's toy has rows and nothing else; and a student with frozen parts starts from its random rows.
    student.encoder_bias.requires_grad_(False)
    student.decoder_bias.requires_grad_(False)
    truth = torch.zeros(toy.d)
    truth[0] = 1.0
    course: dict[str, list[float]] = {"steps": [], "encoder": [], "decoder": []}

    def note(_: str, record: Record, __: Any) -> None:
        course["steps"].append(record.step)
        for side in ("encoder", "decoder"):
            course[side].append(float(normalize(getattr(student, side).detach()[0], dim=0) @ truth))

    optimizer = partial(torch.optim.Adam, weight_decay=toy.weight_decay)
    trainee = Trainee(student, lr=toy.lr, schedule=Constant(), optimizer=optimizer)
    fit_many(
        {"": trainee},
        _Normal(toy, seed),
        n_tokens=n_steps * toy.batch_size,
        progress=False,
        callbacks=[note],
        log_every=max(1, n_steps // N_RECORDS),
    )
    last = max(1, len(course["steps"]) // 10)
    ends = {f"{side}_end": sum(course[side][-last:]) / last for side in ("encoder", "decoder")}
    return {**course, **ends}


class _Normal:
    """Endless batches of normal inputs and of what a single ReLU neuron gives for them."""

    def __init__(self, toy: Toy, seed: int) -> None:
        self._toy, self._seed = toy, seed

    def __iter__(self) -> Iterator[ActivationBatch]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            x = torch.randn(self._toy.batch_size, self._toy.d, generator=generator)
            yield ActivationBatch(x, _one_neuron(x))


def _one_neuron(x: Tensor) -> Tensor:
    outputs = torch.zeros_like(x)
    outputs[:, 0] = x[:, 0].relu()
    return outputs


def _course(run: Numbers, caption: str) -> Drawing:
    drawn = {
        "decoder": Curve(run["steps"], run["decoder"], Palette.DECODER),
        "encoder": Curve(run["steps"], run["encoder"], Palette.ENCODER),
    }
    return Drawing(lambda: figures.curves(drawn, "optimiser steps", "cosine with the true row", markers=False), caption)


def _sweep(runs: Numbers, field: str) -> Drawing:
    values = SWEPT[field]
    x = [value or 1e-5 for value in values]
    drawn = {
        side: Curve(x, [runs[f"{field} {value:g}"][f"{side}_end"] for value in values], colour)
        for side, colour in (("decoder", Palette.DECODER), ("encoder", Palette.ENCODER))
    }
    return Drawing(
        lambda: figures.curves(drawn, LABELS[field], "cosine at the end", x_scale="log"),
        f"The toy with the norm held at 1, by {LABELS[field].partition(' (')[0]}.",
    )


def _converged(run: Numbers, side: str) -> int | None:
    return next((step for step, cosine in zip(run["steps"], run[side], strict=True) if cosine > CONVERGED), None)


def number(step: int | None) -> str:
    """Formats a step that may never have come."""
    return "never" if step is None else f"{step:,}"
