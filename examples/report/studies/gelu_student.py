"""Figure 11: a student with GELU latents, and the clusters of its simulators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sparsedict import figures
from sparsedict.activations import GELU, Activation, ReLU
from sparsedict.dictionaries import ForwardPass
from sparsedict.display import shown
from sparsedict.norms import MaxNorm
from sparsedict.penalties import L1, Penalty

from ..claims import Above, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Difference, Quantity, Ratio, measured, told
from ..experiment import Experiment
from ..setting import ADAM
from ..sites import mlp
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import Part, by_seed, described, match_from, match_numbers, row, student, typed

SHORT = 1 / 3
"""Bound on short decoder rows, relative to the neurons' median decoder norm."""


@dataclass(frozen=True)
class Sum(Penalty):
    """``coefficient * sum a``, mean over tokens, the penalty of the report. Negative activations reduce it.

    Args:
        coefficient: Coefficient, as for `L1`, which is equal for non-negative activations.
    """

    coefficient: float

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        return self.coefficient * out.values.sum() / out.n_tokens


@dataclass(frozen=True)
class Variant:
    """A variant of the main student, with the same coefficient.

    Attributes:
        activation: Activation of the latents.
        penalty: Penalty of the activations.
        short: Whether decoder rows are bounded at a third of the neurons' median norm, instead of 1.
        weight_decay: Weight decay of Adam.
    """

    activation: Activation
    penalty: type[L1] | type[Sum] = Sum
    short: bool = False
    weight_decay: float = 0.0


GELUS = GELU()
ABSOLUTE, DECAYED = "GELU, absolute", "GELU, weight decay"
VARIANTS = {
    "ReLU": Variant(ReLU(), L1),
    "GELU": Variant(GELUS),
    ABSOLUTE: Variant(GELUS, L1),
    DECAYED: Variant(GELUS, weight_decay=0.01),
    "ReLU, short rows": Variant(ReLU(), L1, short=True),
    "GELU, short rows": Variant(GELUS, short=True),
}
ONCE = (ABSOLUTE,)
"""Students of a single seed, which no clause uses."""
SEVERAL, FEW = "neurons with several simulators", "neurons with two or three simulators"


class GELUStudent(Study):
    """A test of whether GELU latents become simulators more often, and of the cause of their clusters."""

    name: ClassVar[str] = "gelu-student"
    title: ClassVar[str] = "A student with GELU latents"
    shows: ClassVar[str] = "Figure 11 and appendix B"
    claim: ClassVar[str] = (
        "With GELU latents, 70 % become simulators, against 29 % with ReLU at the same coefficient. The other GELU "
        "latents are almost dead. Simulators form clusters, typically of two or three very similar latents for each "
        "neuron. A comment suggests that any weight decay causes the clusters."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        bound = float(f"{SHORT * _norm(experiment):.2g}")
        specs = {name: _order(experiment, variant, bound) for name, variant in VARIANTS.items()}
        experiment.train(specs.values())
        seeds = by_seed(experiment, {name: spec for name, spec in specs.items() if name not in ONCE}, _measure)
        for name in ONCE:
            seeds[0] |= {f"{name}: {key}": value for key, value in _measure(experiment, specs[name]).items()}
        match, _, firing = typed(experiment, specs["GELU"])
        return {
            "layer": experiment.layer,
            "neuron_norm": _norm(experiment),
            "bound": bound,
            "measured": measured(seeds),
            "per_neuron": {name: _per_neuron(experiment, spec) for name, spec in specs.items()},
            "latents": match_numbers(match, firing),
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        more = Ratio("GELU: simulators", "ReLU: simulators")
        causes = Difference(f"{DECAYED}: {SEVERAL}", f"GELU: {SEVERAL}")
        return [
            Clause("most GELU latents are simulators", Quantity("GELU: simulators"), Above(0.5), "70 %", ".1%"),
            Clause("simulators with GELU over those with ReLU, same coefficient", more, Above(MORE), "2.4"),
            Clause("of the other GELU latents, most are dead", Quantity("GELU: dead among the others"), Above(0.5),
                   "almost dead", ".1%"),
            Clause("most simulated neurons have two or three simulators, GELU", Quantity(f"GELU: {FEW}"), Above(0.5),
                   "typical", ".1%"),
            Clause("weight decay causes the clusters: neurons with several, minus those without decay", causes,
                   Above(0.1), "suggested", ".1%"),
        ]  # fmt: skip

    def found(self, numbers: Numbers) -> Finding:
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(numbers), NOTES)


MORE = 1.5
"""Ratio above which there are clearly more simulators. It is 2.4 in the report."""
NOTES = (
    "All students have the coefficient of the main student. The report's code sums activations with their sign, so "
    "that negative activations of GELU latents reduce the penalty. L1 sums absolute values, so that negative "
    "activations increase the penalty. For ReLU, the two penalties are equal.",
    "ReLU is homogeneous: a neuron whose decoder row has norm r can be represented by one latent with a row of norm 1 "
    "and an activation r times as large. GELU is not homogeneous. With rows of norm at most b, the neuron is "
    "represented by about r / b latents that have the neuron's own activation. Short rows are bounded by a third of "
    "the neurons' median norm. Activations are then larger, and the coefficient is smaller by the same factor.",
    "Weight decay is that of Adam, which adds it to the gradient, as in the report's code. Its value is "
    f"{VARIANTS[DECAYED].weight_decay:g}, a hundred times the value of the report.",
)


def _norm(experiment: Experiment) -> float:
    return float(experiment.sites[mlp(experiment.layer)].neurons.decoder.norm(dim=1).median())


def _order(experiment: Experiment, variant: Variant, bound: float) -> DictionarySpec:
    spec = student(experiment, experiment.layer)
    if variant == VARIANTS["ReLU"]:
        return spec
    coefficient = experiment.setting.coefficient * (bound if variant.short else 1.0)
    return replace(
        spec,
        activation=variant.activation,
        penalties=(variant.penalty(float(f"{coefficient:.4g}")),),
        decoder_norm=MaxNorm(bound) if variant.short else spec.decoder_norm,
        training=replace(spec.training, optimizer=partial(ADAM, weight_decay=variant.weight_decay)),
    )


def _measure(experiment: Experiment, spec: DictionarySpec) -> Part:
    """Returns the numbers of one student."""
    sizes = Counter({size: n for size, n in _per_neuron(experiment, spec).items() if size})
    simulated = sizes.total()
    several = {SEVERAL: sum(n for size, n in sizes.items() if size > 1), FEW: sizes[2] + sizes[3]}
    return {
        **described(experiment, spec),
        **{key: n / simulated if simulated else None for key, n in several.items()},
    }


def _per_neuron(experiment: Experiment, spec: DictionarySpec) -> dict[int, int]:
    """Returns the number of neurons by number of live simulators."""
    match, types, _ = typed(experiment, spec)
    return dict(sorted(Counter(match.latents_per_neuron(types.simulators).tolist()).items()))


def _summary(numbers: Numbers) -> str:
    known = numbers["measured"]

    def tell(name: str, key: str = "simulators") -> str:
        return told(known, f"{name}: {key}", ".1%")

    several = "; ".join(f"{name} {tell(name, SEVERAL)}" for name in VARIANTS)
    return (
        f"In the report's setting, with decoder rows of norm at most 1, {tell('ReLU')} of the latents are simulators "
        f"with ReLU and {tell('GELU')} with GELU. With rows of norm at most {numbers['bound']:g}, a third of the "
        f"neurons' median norm of {shown(numbers['neuron_norm'], '.2f')}, the shares are {tell('ReLU, short rows')} "
        f"and {tell('GELU, short rows')}. With rows of norm at most 1, {tell('ReLU', 'dead among the others')} of the "
        f"latents that are not simulators are dead with ReLU, and {tell('GELU', 'dead among the others')} with GELU. "
        f"The shares of simulated neurons with two or more simulators are: {several}."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known = numbers["measured"]
    report = {"ReLU: simulators": "29 %", "GELU: simulators": "70 %", f"GELU: {FEW}": "typical"}
    keys = {"simulators": ".1%", "dead": ".1%", "FVU": ".4f", SEVERAL: ".1%", FEW: ".1%"}
    rows = [
        row(known, f"{name}: {key}", f"{name}: {key}", report.get(f"{name}: {key}", "-"), form)
        for key, form in keys.items()
        for name in VARIANTS
    ]
    sizes = [
        Compared(f"{name}, first seed: neurons with 1, 2, ... simulators", "-", _told_sizes(of))
        for name, of in numbers["per_neuron"].items()
    ]
    return (*rows, *sizes)


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    match, types, _ = match_from(numbers["latents"])
    sizes = {name: _sizes(of) for name, of in numbers["per_neuron"].items()}
    return {
        "figure-11-gelu": Drawing(
            lambda: figures.decoder_similarity(match, types),
            "Figure 11, first seed: decoder cosines of the GELU student in the report's setting, with decoder rows of "
            "norm at most 1. Bars are stacked by type.",
        ),
        "figure-11-clusters": Drawing(
            lambda: figures.cluster_sizes(sizes),
            "First seed: number of neurons by number of live simulators, with one bar for each student.",
        ),
    }


def _sizes(per_neuron: dict[str, int]) -> dict[int, int]:
    return {int(size): n for size, n in per_neuron.items()}


def _told_sizes(per_neuron: dict[str, int]) -> str:
    sizes = {size: n for size, n in _sizes(per_neuron).items() if size}
    return ", ".join(str(sizes.get(size, 0)) for size in range(1, max(sizes) + 1)) if sizes else "none"
