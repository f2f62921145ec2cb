"""The result in a comment on the report: loss recovered in every layer as the L1 coefficient increases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from sparsedict import figures
from sparsedict.display import shown
from sparsedict.figures import Curve

from ..claims import Above, Below, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Difference, Quantity, measured
from ..experiment import Experiment
from ..losses import recovered, sampling_error
from ..sites import mlp
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import Part, along, by_seed, curve, described, student

ZERO, AVERAGE = "loss recovered", "loss recovered against the mean output"


class LossByLayer(Study):
    """The loss recovered by the student of each layer, and the share of simulators among its latents."""

    name: ClassVar[str] = "loss-by-layer"
    title: ClassVar[str] = "Loss recovered in every layer"
    shows: ClassVar[str] = "A comment on the report"
    claim: ClassVar[str] = (
        "In a four-layer model without norms, students of 20,000 ReLU latents with a stronger L1 penalty recover 96, "
        "93, 81 and 86 % of the loss (base 1.128; zero-ablated 3.72, 1.84, 1.56, 2.07), and have almost no "
        "simulators. At low coefficients, every layer but the first has simulators. Their number falls as the "
        "coefficient grows. (Comment by Noa Nabeshima.)"
    )

    def measure(self, experiment: Experiment) -> Numbers:
        low, high = _ends(experiment.setting.coefficients, experiment.setting.coefficient)
        specs = {_name(layer, c): student(experiment, layer, c) for layer in experiment.layers for c in (low, high)}
        seeds: list[Part] = by_seed(experiment, specs, _measure)
        sampling: dict[str, float] = {}
        with experiment.phases("losses", f"measuring the model's loss in {len(experiment.layers)} layers"):
            for layer in experiment.layers:
                name = _name(layer, high)
                of_seeds, errors = loss_parts(experiment, specs[name])
                for part, new in zip(seeds, of_seeds, strict=True):
                    part |= {f"{name}: {key}": value for key, value in new.items()}
                sampling |= {f"{name}: {key}": value for key, value in errors.items()}
        return {
            "layers": experiment.layers,
            "coefficients": [low, high],
            "measured": measured(seeds, sampling),
            "base": experiment.ablations(mlp(experiment.layer)).base.mean,
            "zeroed": {layer: experiment.ablations(mlp(layer)).zero.mean for layer in experiment.layers},
            "n_tokens": int(experiment.predicted.sum()),
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        return [clause for layer in numbers["layers"] for clause in _clauses(layer, numbers)]

    def found(self, numbers: Numbers) -> Finding:
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(numbers), _notes(numbers))


GONE, THERE, KEPT = 0.02, 0.05, 0.8
"""Shares of simulators that count as nearly none and as present, and loss recovered near the report's lowest."""


def _name(layer: int, c: float) -> str:
    return f"layer {layer}, coefficient {c:g}"


def _ends(coefficients: Sequence[float], main: float) -> tuple[float, float]:
    """Returns the main coefficient and the second largest of the sweep; few latents are alive at the largest."""
    higher = [c for c in coefficients if c > main]
    return main, higher[-2] if len(higher) > 1 else max(coefficients)


def _clauses(layer: int, numbers: Numbers) -> list[Clause]:
    low, high = (_name(layer, c) for c in numbers["coefficients"])
    at_low, at_high = Quantity(f"{low}: simulators"), Quantity(f"{high}: simulators")
    first = layer == numbers["layers"][0]
    reported = dict(zip(numbers["layers"], ("96 %", "93 %", "81 %", "86 %"), strict=False))
    found = [
        Clause(f"{high}: loss recovered", Quantity(f"{high}: {ZERO}"), Above(KEPT), reported.get(layer, "-"), ".1%"),
        Clause(f"{high}: simulators are nearly gone", at_high, Below(GONE), "nearly gone", ".1%"),
    ]
    if first:
        return [*found, Clause(f"{low}: the first layer has no simulators", at_low, Below(THERE), "none", ".1%")]
    fewer = Difference(at_low.key, at_high.key)
    return [
        *found,
        Clause(f"{low}: there are simulators", at_low, Above(THERE), "yes", ".1%"),
        Clause(f"layer {layer}: fewer simulators as the coefficient grows: difference", fewer, Above(0), "yes", ".1%"),
    ]


def _measure(experiment: Experiment, spec: DictionarySpec) -> Part:
    found = described(experiment, spec)
    return {key: found[key] for key in ("simulators", "dead", "L0", "FVU")}


def loss_parts(experiment: Experiment, spec: DictionarySpec) -> tuple[list[Part], dict[str, float]]:
    """Returns the loss recovered by the dictionary of each seed, and the common sampling errors."""
    losses, ablations = (
        [experiment.losses(repeated) for repeated in experiment.repeated(spec)],
        experiment.ablations(spec.site),
    )
    against = {ZERO: ablations.zero, AVERAGE: ablations.average}
    seeds: list[Part] = [
        {key: recovered(own, ablations.base, worst) for key, worst in against.items()} for own in losses
    ]
    return seeds, {key: sampling_error(losses, ablations.base, worst) for key, worst in against.items()}


def _summary(numbers: Numbers) -> str:
    known, layers, (low, high) = numbers["measured"], numbers["layers"], numbers["coefficients"]

    def tell(c: float, key: str) -> str:
        return along(known, (f"{_name(layer, c)}: {key}" for layer in layers), ".1%")

    return (
        f"At coefficient {high:g}, the students of layers {', '.join(map(str, layers))} recover {tell(high, ZERO)} of "
        f"the loss, and {tell(high, 'simulators')} of their latents are simulators. At coefficient {low:g}, "
        f"{tell(low, 'simulators')} of the latents are simulators."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known, layers = numbers["measured"], numbers["layers"]
    low, high = numbers["coefficients"]

    def each(label: str, c: float, key: str, report: str = "-", form: str = ".1%") -> Compared:
        here = along(known, (f"{_name(layer, c)}: {key}" for layer in layers), form)
        return Compared(f"{label}, coefficient {c:g}, layer by layer", report, here)

    return (
        each("loss recovered", high, ZERO, "96, 93, 81, 86 %"),
        each("loss recovered against the mean output", high, AVERAGE),
        each("simulators", low, "simulators"),
        each("simulators", high, "simulators", "nearly none"),
        each("active latents per token (L0)", low, "L0", form=".1f"),
        each("active latents per token (L0)", high, "L0", form=".1f"),
        each("variance unexplained (FVU)", low, "FVU", form=".3f"),
        each("variance unexplained (FVU)", high, "FVU", form=".3f"),
        each("dead", high, "dead"),
        Compared("loss of the model", "1.128", shown(numbers["base"], ".3f")),
        Compared(
            "loss with one MLP zeroed, layer by layer",
            "3.72, 1.84, 1.56, 2.07",
            ", ".join(shown(loss, ".2f") for loss in numbers["zeroed"].values()),
        ),
    )


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    known, layers = numbers["measured"], numbers["layers"]
    low, high = numbers["coefficients"]

    def drawn(c: float, key: str) -> dict[str, Curve]:
        found = curve(known, {layer: f"{_name(layer, c)}: {key}" for layer in layers}, scale=100)
        return {} if found is None else {f"coefficient {c:g}": found}

    losses, simulators = drawn(high, ZERO), drawn(low, "simulators") | drawn(high, "simulators")
    bars = "Means over the seeds with 95 % intervals."
    drawings = {
        "comment-simulators": Drawing(
            lambda: figures.curves(simulators, "layer", "simulators (%)"),
            f"Simulators among the latents. {bars}",
        )
    }
    # If ablation doesn't increase the loss of any layer, the figure is left out.
    if losses:
        drawings["comment-loss-recovered"] = Drawing(
            lambda: figures.curves(losses, "layer", "loss recovered (%)"),
            f"Loss recovered at coefficient {high:g}, relative to zero ablation of the MLP. {bars}",
        )
    return drawings


def _notes(numbers: Numbers) -> tuple[str, ...]:
    return (
        "The coefficient is that of the main layer. In other layers, it is scaled with the standard deviation of the "
        "output, so that the ratio of error and penalty stays the same. Losses are measured on "
        f"{numbers['n_tokens']:,} held-out tokens. Their intervals include a bootstrap over the sequences.",
    )
