"""Figures 9 and 10: a toy of one neuron, and what keeps its encoder from converging."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from sparsedict import figures
from sparsedict.figures import Curve, Palette
from sparsedict.norms import DecoderNorm, Free, MaxNorm
from sparsedict.studies._bench import Bench
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study, verdict_of
from sparsedict.studies.report._toy import HELD, Toy, run_toy

CONVERGED = 0.95
OFF, RIGHT = 0.3, 0.95
"""An encoder's cosine below the one and a correlation above the other are what the report saw."""
SWEPT: dict[str, tuple[Any, ...]] = {
    "batch_size": (2, 8, 32, 128),
    "lr": (0.0003, 0.001, 0.003, 0.01),
    "d": (30, 100, 300, 1000),
    "weight_decay": (0.0, 0.01, 0.1, 1.0),
    "unevenness": (0.0, 0.5, 1.0, 1.5, 2.0),
}
WORDS = {
    "batch_size": "inputs per step",
    "lr": "learning rate",
    "d": "width of the input",
    "weight_decay": "weight decay",
    "unevenness": "unevenness of the input",
}
NORMS: dict[str, DecoderNorm] = {"held at 1": HELD, "at most 1": MaxNorm(1.0), "free": Free()}
SHORTER = 2 / 5
"""Of the steps: where a toy isn't drawn step by step."""
NOUGHT = 1e-3
"""Where 0 is drawn on a logarithmic axis."""
HELPS = 0.1
"""Rise of the encoder's cosine above that at the report's values."""


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
        with bench.phases("toy", f"training {len(set(toys.values()))} toys for up to {n_steps:,} steps"):
            for toy in dict.fromkeys(toys.values()):
                steps = n_steps if toy in in_full else max(1, round(n_steps * SHORTER))
                runs[toy] = run_toy(toy, steps, bench.seed)
        return {"n_steps": n_steps, "runs": {name: runs[toy] for name, toy in toys.items()}}

    def found(self, numbers: Numbers) -> Finding:
        runs = numbers["runs"]
        held, free = runs["norm held at 1"], runs["norm free"]
        quick = all(_converged(run, "decoder") is not None for run in (held, free))
        late = (_converged(free, "encoder") or 0) > (_converged(free, "decoder") or 0)
        stays = free["encoder_end"] > CONVERGED
        verdict = verdict_of([quick, held["encoder_end"] < 0.6, late, stays])
        missing = (
            "" if stays else f" Not seen: an encoder that stays near 1 with the norm free ({free['encoder_end']:.2f})."
        )
        return Finding(verdict, _summary(runs, numbers["n_steps"]) + missing, _rows(runs), _drawings(runs), NOTES)


NOTES = (
    "Cosines at the end are means over the last tenth of the records. In the sweeps, with the norm held at 1, the end "
    "comes after two fifths of the steps, except at the report's own values.",
    "Adam moves each of the encoder's weights by about the learning rate at each step whatever the gradient's size, so "
    "the 999 weights that should be zero keep wandering: their noise grows with the learning rate and with the square "
    "root of the width, against one weight that should be 1.",
    "Unevenness p: the i-th input's standard deviation falls as i to the power of -p, and the neuron reads a random "
    "direction. Along directions in which inputs hardly vary, the encoder's weights may be anything without changing "
    "the activation. With even inputs the cosine of two encoders is the correlation of their pre-activations: there, "
    "a cosine of 0.3 and the report's correlation of 0.99 exclude each other.",
)


def _summary(runs: Numbers, n_steps: int) -> str:
    ends = {side: [runs[f"norm {name}"][f"{side}_end"] for name in NORMS] for side in ("encoder", "decoder")}
    free, at_report = runs["norm free"], runs["norm held at 1"]
    return (
        f"After {n_steps:,} steps the encoder's cosine is {_each(ends['encoder'])} with the norm held at 1, at most 1, "
        f"and free; the decoder's is {_each(ends['decoder'])}. With the norm free, {_first(free)}; both waver, for a "
        "constant rate of Adam leaves noise. "
        f"{_what_helps(runs)} At the report's values the activations' correlation with the neuron's is "
        f"{at_report['correlation']:.2f}: with even inputs, an encoder that is off is a latent that is off. "
        f"{_as_reported(runs)}"
    )


def _first(run: Numbers) -> str:
    """Says when decoder and encoder were near the true rows for the first time."""
    steps = {side: _converged(run, side) for side in ("decoder", "encoder")}
    told = [
        f"the {side}'s is never above {CONVERGED:g}"
        if step is None
        else f"the {side}'s first exceeds {CONVERGED:g} at step {step:,}"
        for side, step in steps.items()
    ]
    return " and ".join(told)


def _what_helps(runs: Numbers) -> str:
    """Says which of the swept values bring the encoder nearer to the neuron's, and which don't."""
    base = runs["norm held at 1"]["encoder_end"]
    best = {f: max(values, key=lambda v, f=f: _at(runs, f, v)["encoder_end"]) for f, values in SWEPT.items()}
    reached = {f: _at(runs, f, value)["encoder_end"] for f, value in best.items()}
    helps = [f"{WORDS[f]} {best[f]:g} ({reached[f]:.2f})" for f in SWEPT if reached[f] > base + HELPS]
    other = [f"{WORDS[f]} up to {max(SWEPT[f]):g}" for f in SWEPT if reached[f] <= base + HELPS]
    told = f"With the norm held, the encoder comes nearest at {', '.join(helps)}." if helps else ""
    return f"{told} It is brought no nearer by {' or '.join(other)}." if other else told


def _as_reported(runs: Numbers) -> str:
    """Says at which unevenness an encoder is off while its activations are right, if at any."""
    for p in SWEPT["unevenness"]:
        run = _at(runs, "unevenness", p)
        if run["encoder_end"] < OFF and run["correlation"] > RIGHT and run["decoder_end"] > CONVERGED:
            return (
                f"Uneven inputs (unevenness {p:g}) give what the report saw in the language model: an encoder's cosine "
                f"of {run['encoder_end']:.2f}, a decoder's of {run['decoder_end']:.2f}, and a correlation of "
                f"{run['correlation']:.3f}."
            )
    return "No unevenness tried gives the low cosine and the high correlation that the report saw together."


def _rows(runs: Numbers) -> tuple[Compared, ...]:
    held, bounded, free = (runs[f"norm {name}"] for name in NORMS)
    slow = _step(_converged(free, "encoder"))
    sweeps = []
    for field, values in SWEPT.items():
        told = f"{WORDS[field]} ({', '.join(f'{v:g}' for v in values)})"
        cosines = _each([_at(runs, field, v)["encoder_end"] for v in values])
        correlations = _each([_at(runs, field, v)["correlation"] for v in values])
        sweeps.append(Compared(f"encoder cosine, norm held, by {told}", "-", cosines))
        sweeps.append(Compared(f"correlation of the activations, by {WORDS[field]}", "-", correlations))
    return (
        Compared("decoder cosine above 0.95, norm held, after steps", "quickly", _step(_converged(held, "decoder"))),
        Compared("encoder cosine at the end, norm held at 1", "about 0.3", f"{held['encoder_end']:.3f}"),
        Compared("encoder cosine at the end, norm at most 1", "-", f"{bounded['encoder_end']:.3f}"),
        Compared("encoder cosine at the end, norm free", "1", f"{free['encoder_end']:.3f}"),
        Compared("encoder cosine above 0.95, norm free, after steps", "slowly", slow),
        Compared("decoder cosine above 0.95, norm free, after steps", "quickly", _step(_converged(free, "decoder"))),
        *sweeps,
    )


def _drawings(runs: Numbers) -> dict[str, Drawing]:
    return {
        "figure-09-norm-held": _course(runs["norm held at 1"], "Figure 9: the decoder's norm held at 1."),
        "figure-10-norm-free": _course(runs["norm free"], "Figure 10: the decoder's norm free."),
        **{f"toy-{field.replace('_', '-')}": _sweep(runs, field) for field in SWEPT},
    }


def _course(run: Numbers, caption: str) -> Drawing:
    drawn = {
        "decoder": Curve(run["steps"], run["decoder"], Palette.DECODER),
        "encoder": Curve(run["steps"], run["encoder"], Palette.ENCODER),
    }
    return Drawing(lambda: figures.curves(drawn, "optimiser steps", "cosine with the true row", markers=False), caption)


def _sweep(runs: Numbers, field: str) -> Drawing:
    values = SWEPT[field]
    linear = field == "unevenness"
    x = list(values) if linear else [value or NOUGHT for value in values]
    keys = {
        "decoder": ("decoder_end", Palette.DECODER),
        "encoder": ("encoder_end", Palette.ENCODER),
        "correlation": ("correlation", Palette.NULL),
    }
    drawn = {
        name: Curve(x, [_at(runs, field, value)[key] for value in values], colour)
        for name, (key, colour) in keys.items()
    }
    scale, names = "linear" if linear else "log", {NOUGHT: "0"} if 0.0 in values and not linear else None
    return Drawing(
        lambda: figures.curves(drawn, WORDS[field], "cosine or correlation", x_scale=scale, x_names=names),
        f"Norm held at 1, at the end, by {WORDS[field]}: cosines with the true rows, and the activations' correlation "
        "with the neuron's.",
    )


def _at(runs: Numbers, field: str, value: float) -> Numbers:
    return runs[f"{field} {value:g}"]


def _each(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _converged(run: Numbers, side: str) -> int | None:
    return next((step for step, cosine in zip(run["steps"], run[side], strict=True) if cosine > CONVERGED), None)


def _step(step: int | None) -> str:
    """Formats a step that may never have come."""
    return "never" if step is None else f"{step:,}"
