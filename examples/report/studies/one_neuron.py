"""Figures 9 and 10: a toy model of one neuron, and the causes of the slow convergence of its encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from sparsedict import figures
from sparsedict.display import shown
from sparsedict.figures import Curve, Palette
from sparsedict.norms import DecoderNorm, Free, MaxNorm

from ..claims import Above, Below, Between, Clause
from ..dictionary_spec import SEED_STRIDE
from ..estimates import Quantity, Ratio, measured, told
from ..experiment import Experiment
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import row
from .toy import HELD, Toy, run_toy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONVERGED = 0.95
OFF, RIGHT = 0.3, 0.95
"""Bounds of the observation in the report: a small encoder cosine and a large correlation."""
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
SHORTER = 1 / 4
"""Share of the steps of toy runs in sweeps."""
NOUGHT = 1e-3
"""Coordinate of 0 on a logarithmic axis."""
HELPS = 0.1
"""Smallest increase of the encoder cosine, relative to the report's values, that counts as an improvement."""


class OneNeuron(Study):
    """The convergence of encoder and decoder in a student of a single neuron, and its dependence on the settings."""

    name: ClassVar[str] = "one-neuron"
    title: ClassVar[str] = "A toy model of one neuron"
    shows: ClassVar[str] = "Figures 9 and 10"
    claim: ClassVar[str] = (
        "The toy model is a student of a single ReLU neuron: 1,000 normal inputs, one-hot encoder and decoder, Adam "
        "with learning rate 0.01, batches of 8, 10,000 steps. The decoder converges quickly. With the decoder norm "
        "fixed at 1, the encoder's cosine stays near 0.3. With a free norm, it reaches 1 slowly. A comment suggests "
        "that weight decay should solve this."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        n_steps = experiment.setting.n_toy_steps
        plan = [_toys(first=repeat == 0) for repeat in range(experiment.setting.n_seeds)]
        seeds = []
        with experiment.phases("toy", f"training {sum(map(len, plan))} toys for up to {n_steps:,} steps"):
            for repeat, toys in enumerate(plan):
                seeds.append(_run(toys, n_steps, experiment.seed + SEED_STRIDE * repeat))
        return {"n_steps": n_steps, "measured": measured([_ends(runs, n_steps) for runs in seeds]), "runs": seeds[0]}

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        slow = Ratio(f"norm free: {ENCODER_NEAR}", f"norm free: {DECODER_NEAR}")
        return [
            Clause("fixed norm: the decoder converges quickly: share of the steps until its cosine exceeds 0.95",
                   Quantity(f"norm held at 1: {DECODER_NEAR}"), Below(QUICK), "quickly"),
            Clause("fixed norm: the encoder's cosine stays near 0.3",
                   Quantity("norm held at 1: encoder"), Between(0.2, 0.4), "0.3"),
            Clause("free norm: the encoder's cosine stays near 1",
                   Quantity("norm free: encoder"), Above(CONVERGED), "1"),
            Clause("free norm: steps until the encoder exceeds 0.95, over the decoder's", slow, Above(2), "slowly"),
            Clause("fixed norm: the best weight decay brings the encoder's cosine near 1",
                   Quantity(DECAYED), Above(CONVERGED), "suggested"),
        ]  # fmt: skip

    def found(self, numbers: Numbers) -> Finding:
        runs = numbers["runs"]
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(runs), NOTES)


QUICK = 0.1
"""Share of the steps within which convergence counts as fast."""
ENCODER_NEAR, DECODER_NEAR = "share of steps until the encoder is near", "share of steps until the decoder is near"
DECAYED = "norm held at 1: encoder, best weight decay"
NOTES = (
    "Final cosines are means over the last tenth of the records. In the sweeps, the decoder norm is fixed at 1, and a "
    "run has a quarter of the steps, except at the report's own values. The runs with fixed norm, free norm and "
    "weight decay have all seeds. The other runs and the figures have the first seed only. A share of the steps of "
    "1 means that the cosine never exceeded the bound.",
    "Adam changes each encoder weight by about the learning rate at each step, whatever the size of the gradient. The "
    "999 weights that should be zero therefore keep fluctuating. Their total noise grows with the learning rate and "
    "with the square root of the width, while a single weight should be 1.",
    "With unevenness p, the standard deviation of the i-th input is proportional to i to the power of -p, and the "
    "neuron reads a random direction. Encoder weights along directions in which the inputs hardly vary have almost no "
    "effect on the activation. With even inputs, the cosine of two encoders is the correlation of their "
    "pre-activations, so that a cosine of 0.3 is incompatible with the report's correlation of 0.99.",
)


def _toys(*, first: bool) -> dict[str, Toy]:
    """Returns the toy runs of one seed: all sweeps and norms for the first seed, otherwise those of the clauses."""
    norms = NORMS if first else {name: NORMS[name] for name in ("held at 1", "free")}
    toys = {f"norm {name}": Toy(decoder_norm=norm) for name, norm in norms.items()}
    for field, values in SWEPT.items():
        if first or field == "weight_decay":
            toys |= {f"{field} {value:g}": replace(Toy(), **{field: value}) for value in values}
    return toys


def _run(toys: dict[str, Toy], n_steps: int, seed: int) -> Numbers:
    """Runs each toy once, with fewer steps for those of the sweeps."""
    in_full = {toy for name, toy in toys.items() if name.startswith("norm")}
    steps = {toy: n_steps if toy in in_full else max(1, round(n_steps * SHORTER)) for toy in toys.values()}
    runs = {toy: run_toy(toy, n, seed) for toy, n in steps.items()}
    return {name: runs[toy] for name, toy in toys.items()}


def _ends(runs: Numbers, n_steps: int) -> dict[str, float | None]:
    """Returns the numbers of one seed by name."""
    found: dict[str, float | None] = {}
    for name in (name for name in runs if name.startswith("norm")):
        run = runs[name]
        found |= {f"{name}: {side}": run[f"{side}_end"] for side in ("encoder", "decoder")}
        found[f"{name}: correlation"] = run["correlation"]
        for side, key in (("encoder", ENCODER_NEAR), ("decoder", DECODER_NEAR)):
            step = _converged(run, side)
            found[f"{name}: {key}"] = 1.0 if step is None else step / n_steps
    found[DECAYED] = max(_at(runs, "weight_decay", value)["encoder_end"] for value in SWEPT["weight_decay"] if value)
    return found


def _summary(numbers: Numbers) -> str:
    known, runs = numbers["measured"], numbers["runs"]
    ends = {side: [told(known, f"norm {name}: {side}", ".2f") for name in NORMS] for side in ("encoder", "decoder")}
    return (
        f"After {numbers['n_steps']:,} steps, with the decoder norm fixed at 1, at most 1, and free, the encoder's "
        f"cosine is {'; '.join(ends['encoder'])} and the decoder's cosine is {'; '.join(ends['decoder'])}. With a "
        "free norm, both cosines fluctuate, because the constant learning rate of Adam leaves noise. With a fixed "
        f"norm and the best weight decay, the encoder's cosine is {told(known, DECAYED, '.2f')}. At the report's "
        "values, the correlation of the latent's activations with the neuron's is "
        f"{told(known, 'norm held at 1: correlation', '.2f')}: with even inputs, a latent whose encoder differs from "
        f"the neuron's has different activations. The following values are of the first seed. "
        f"{_improvements(runs)} {_as_reported(runs)}"
    )


def _improvements(runs: Numbers) -> str:
    """Returns text on the values in the sweeps that improve the encoder cosine."""
    base = runs["norm held at 1"]["encoder_end"]
    best = {f: max(values, key=lambda v, f=f: _at(runs, f, v)["encoder_end"]) for f, values in SWEPT.items()}
    reached = {f: _at(runs, f, value)["encoder_end"] for f, value in best.items()}
    helps = [f"{WORDS[f]} {best[f]:g} ({shown(reached[f], '.2f')})" for f in SWEPT if reached[f] > base + HELPS]
    other = [f"{WORDS[f]} up to {max(SWEPT[f]):g}" for f in SWEPT if reached[f] <= base + HELPS]
    told = f"With a fixed norm, the encoder's cosine is largest at {', '.join(helps)}." if helps else ""
    return f"{told} The encoder's cosine increases by at most {HELPS:g} with {' or '.join(other)}." if other else told


def _as_reported(runs: Numbers) -> str:
    """Returns text on the unevenness with a small encoder cosine but correct activations, if there is one."""
    for p in SWEPT["unevenness"]:
        run = _at(runs, "unevenness", p)
        if run["encoder_end"] < OFF and run["correlation"] > RIGHT and run["decoder_end"] > CONVERGED:
            return (
                f"Uneven inputs (unevenness {p:g}) have the pattern that the report shows in the language model: a "
                f"small encoder cosine of {shown(run['encoder_end'], '.2f')}, a decoder cosine of "
                f"{shown(run['decoder_end'], '.2f')}, and a correlation of {shown(run['correlation'], '.3f')}."
            )
    return "No unevenness in the sweep gives both the low cosine and the high correlation of the report."


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known, runs = numbers["measured"], numbers["runs"]
    sweeps = []
    for field, values in SWEPT.items():
        settings = f"{WORDS[field]} ({', '.join(f'{v:g}' for v in values)}), first seed"
        cosines = _each([_at(runs, field, v)["encoder_end"] for v in values])
        correlations = _each([_at(runs, field, v)["correlation"] for v in values])
        sweeps.append(Compared(f"encoder cosine, fixed norm, by {settings}", "-", cosines))
        sweeps.append(Compared(f"correlation of the activations, by {WORDS[field]}", "-", correlations))
    return (
        row(known, "decoder, fixed norm: share of the steps until 0.95", f"norm held at 1: {DECODER_NEAR}", "quickly"),
        row(known, "final encoder cosine, norm fixed at 1", "norm held at 1: encoder", "about 0.3", ".3f"),
        row(known, "final encoder cosine, norm at most 1", "norm at most 1: encoder", "-", ".3f"),
        row(known, "final encoder cosine, free norm", "norm free: encoder", "1", ".3f"),
        row(known, "encoder, free norm: share of the steps until 0.95", f"norm free: {ENCODER_NEAR}", "slowly"),
        row(known, "decoder, free norm: share of the steps until 0.95", f"norm free: {DECODER_NEAR}", "quickly"),
        row(known, "final encoder cosine, best weight decay", DECAYED, "-", ".3f"),
        *sweeps,
    )


def _drawings(runs: Numbers) -> dict[str, Drawing]:
    return {
        "figure-09-norm-held": _course(runs["norm held at 1"], "Figure 9, first seed: decoder norm fixed at 1."),
        "figure-10-norm-free": _course(runs["norm free"], "Figure 10, first seed: free decoder norm."),
        **{f"toy-{field.replace('_', '-')}": _sweep(runs, field) for field in SWEPT},
    }


def _course(run: Numbers, caption: str) -> Drawing:
    drawn = {
        "decoder": Curve(run["steps"], run["decoder"], Palette.DECODER),
        "encoder": Curve(run["steps"], run["encoder"], Palette.ENCODER),
    }
    return Drawing(
        lambda: _comparable(figures.curves(drawn, "optimiser steps", "cosine with the true row", markers=False)),
        caption,
    )


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
        lambda: _comparable(figures.curves(drawn, WORDS[field], "cosine or correlation", x_scale=scale, x_names=names)),
        "First seed, decoder norm fixed at 1: final cosines with the true rows, and correlation of the latent's "
        f"activations with the neuron's, by {WORDS[field]}.",
    )


def _comparable(ax: Axes) -> Axes:
    """Sets the same vertical axis in all panels of a toy figure."""
    ax.set_ylim(-0.4, 1.05)
    return ax


def _at(runs: Numbers, field: str, value: float) -> Numbers:
    return runs[f"{field} {value:g}"]


def _each(values: list[float]) -> str:
    return ", ".join(shown(value, ".2f") for value in values)


def _converged(run: Numbers, side: str) -> int | None:
    return next((step for step, cosine in zip(run["steps"], run[side], strict=True) if cosine > CONVERGED), None)
