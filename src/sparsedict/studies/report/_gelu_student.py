"""Figure 11: a student with GELU latents, and the clusters of its simulators."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from sparsedict import figures
from sparsedict.activations import GELU, Activation, ReLU
from sparsedict.analysis import clusters
from sparsedict.forward_pass import ForwardPass
from sparsedict.norms import MaxNorm
from sparsedict.penalties import L1, Penalty
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._places import mlp
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import counts, match_from, match_numbers, number, share, student, typed

SHORT = 1 / 3
"""Of the neurons' median decoder norm: the bound on the rows of students with short rows."""
PARALLEL = 0.8


@dataclass(frozen=True)
class Sum(Penalty):
    """``coefficient * sum a``, mean over tokens: the report's penalty, which pays for activations below zero.

    Args:
        coefficient: As of `L1`, which is the same where no activation is negative.
    """

    coefficient: float

    def __call__(self, passed: ForwardPass) -> Float[Tensor, ""]:
        return self.coefficient * passed.values.sum() / passed.n_tokens


@dataclass(frozen=True)
class Variant:
    """One student, with the main student's coefficient.

    Attributes:
        activation: Of its latents.
        penalty: Of their activations.
        short: Whether its decoder rows are bounded at a third of the neurons' instead of at 1.
        weight_decay: Adam's.
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
PAIRS = (("ReLU", "GELU"), ("ReLU, short rows", "GELU, short rows"))
"""Students that differ in the activation alone."""
MORE = 1.1
"""So many times as many simulators are more."""


class GELUStudent(Study):
    """Whether GELU latents become simulators more often, in clusters, and what causes these."""

    name: ClassVar[str] = "gelu-student"
    title: ClassVar[str] = "A student with GELU latents"
    shows: ClassVar[str] = "Figure 11 and appendix B"
    claim: ClassVar[str] = (
        "With GELU latents, 70 % become simulators, against 29 % with ReLU at the same coefficient, and the rest are "
        "almost dead. Simulators come in clusters, "
        "typically two or three very similar ones for each neuron. A comment supposes that any weight decay would "
        "cause the clusters."
    )

    def measure(self, bench: Bench) -> Numbers:
        bound = float(f"{SHORT * _norm(bench):.2g}")
        orders = {name: _order(bench, variant, bound) for name, variant in VARIANTS.items()}
        bench.train(orders.values())
        return {
            "layer": bench.layer,
            "neuron_norm": _norm(bench),
            "bound": bound,
            "students": {name: _student(bench, order) for name, order in orders.items()},
        }

    def found(self, numbers: Numbers) -> Finding:
        students = numbers["students"]
        more = any(students[g]["n_simulators"] > MORE * students[r]["n_simulators"] for r, g in PAIRS)
        clustered = any(_several(students[gelu]) > 0.25 for _, gelu in PAIRS)
        verdict = "seen" if more and clustered else "partly seen" if more or clustered else "not seen"
        return Finding(verdict, _summary(numbers), _rows(numbers), _drawings(students), NOTES)


NOTES = (
    "All students have the main student's coefficient. The report's code adds up activations as they are, so that a "
    "GELU latent is paid for lying below zero; L1 takes their absolute values, under which none may be negative for "
    "free. For ReLU the two are the same.",
    "A ReLU can be scaled: a neuron whose decoder row has norm r can be one latent with a row of norm 1 and an "
    "activation r times as large. A GELU can't, so with rows of norm b at most it takes about r / b latents of the "
    "neuron's own size. Short rows have a bound of a third of the neurons' median norm; activations are then larger, "
    "and the coefficient is smaller by the same factor.",
    f"Weight decay is Adam's own, added to the gradient as in the report's code: {VARIANTS[DECAYED].weight_decay:g}, a "
    "hundred times the report's.",
)


def _norm(bench: Bench) -> float:
    return float(bench.sites[mlp(bench.layer)].neurons.decoder.norm(dim=1).median())


def _order(bench: Bench, variant: Variant, bound: float) -> Order:
    order = student(bench, bench.layer)
    if variant == VARIANTS["ReLU"]:
        return order
    coefficient = bench.setting.coefficient * (bound if variant.short else 1.0)
    return replace(
        order,
        activation=variant.activation,
        penalties=(variant.penalty(float(f"{coefficient:.4g}")),),
        decoder_norm=MaxNorm(bound) if variant.short else order.decoder_norm,
        training=replace(order.training, weight_decay=variant.weight_decay),
    )


def _student(bench: Bench, order: Order) -> Numbers:
    match, types, firing = typed(bench, order)
    grouped = clusters(bench.dictionary(order), PARALLEL, latents=types.simulators)
    per_neuron = Counter(match.latents_per_neuron(types.simulators).tolist())
    return {
        **counts(match, types, firing),
        "fvu": bench.error(order).fvu,
        "per_neuron": dict(sorted(per_neuron.items())),
        "cluster_sizes": dict(sorted(Counter(grouped.sizes).items())),
        "latents": match_numbers(match, firing),
    }


def _summary(numbers: Numbers) -> str:
    students = numbers["students"]

    def told(name: str) -> str:
        part = students[name]
        of_live = share(_n_live_simulators(part), _n_live(part))
        return f"{share(part['n_simulators'], part['n_latents'])} ({of_live} of the live ones)"

    return (
        f"Of the latents {told('ReLU')} are simulators with ReLU and {told('GELU')} with GELU, where decoder rows have "
        f"a norm of 1 at most. Where it is {numbers['bound']:g} at most, a third of the neurons' median norm of "
        f"{numbers['neuron_norm']:.2f}, they are {told('ReLU, short rows')} and {told('GELU, short rows')}. Of the "
        f"latents that aren't simulators, {_others_dead(students['ReLU'])} are dead with ReLU and "
        f"{_others_dead(students['GELU'])} with GELU, at a norm of 1. If the penalty takes absolute values, "
        f"{share(students[ABSOLUTE]['n_simulators'], students[ABSOLUTE]['n_latents'])} of the GELU "
        f"latents are simulators. {_of_clusters(students)}"
    )


def _of_clusters(students: Numbers) -> str:
    several = {name: _several(part) for name, part in students.items()}
    by_decay = several[DECAYED] > several["GELU"] + LEAST_RISE
    by_rows = [kind for kind in ("ReLU", "GELU") if several[f"{kind}, short rows"] > several[kind] + LEAST_RISE]
    made = f"Short rows make the clusters, with {' and '.join(by_rows)}" if by_rows else "Short rows make no clusters"
    each = "; ".join(f"{name} {share:.0%}" for name, share in several.items())
    return (
        f"Of the neurons that are simulated, so many have two simulators or more: {each}. {made}; weight decay "
        f"{'adds to them' if by_decay else 'does not'}."
    )


LEAST_RISE = 0.05


def _n_live(part: Numbers) -> int:
    return part["n_latents"] - part["n_dead"]


def _n_live_simulators(part: Numbers) -> int:
    return _n_live(part) - part["n_sparse_live"]


def _others_dead(part: Numbers) -> str:
    n_others = part["n_latents"] - part["n_simulators"]
    return share(n_others - part["n_sparse_live"], n_others)


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    students = numbers["students"]

    def told(part: Numbers) -> str:
        shares = (part["n_simulators"], part["n_latents"]), (_n_live_simulators(part), _n_live(part))
        dead = share(part["n_dead"], part["n_latents"])
        return f"{', '.join(share(*of) for of in shares)}, {dead}, {number(part['fvu'])}"

    reported = {"ReLU": "29 %", "GELU": "70 %, others almost dead"}
    sizes = {"GELU": "2 or 3 for most"}
    return (
        *(
            Compared(f"{name}: simulators, among live latents, dead, FVU", reported.get(name, "-"), told(part))
            for name, part in students.items()
        ),
        *(
            Compared(f"{name}: neurons with 1, 2, ... simulators", sizes.get(name, "-"), _told_sizes(part))
            for name, part in students.items()
        ),
    )


def _drawings(students: dict[str, Any]) -> dict[str, Drawing]:
    name = max(students, key=lambda name: students[name]["n_simulators"])
    match, types, _ = match_from(students[name]["latents"])
    return {
        "figure-11-gelu": Drawing(
            lambda: figures.decoder_similarity(match, types),
            f"Figure 11: decoder cosines of the student with most simulators: {name}.",
        ),
        "figure-11-clusters": Drawing(
            lambda: figures.cluster_sizes({n: _sizes(p) for n, p in students.items() if n != ABSOLUTE}),
            "How many simulators each neuron has.",
        ),
    }


def _sizes(part: dict[str, Any]) -> dict[int, int]:
    return {int(size): n for size, n in part["per_neuron"].items()}


def _told_sizes(part: dict[str, Any]) -> str:
    sizes = {size: n for size, n in _sizes(part).items() if size}
    return ", ".join(str(sizes.get(size, 0)) for size in range(1, max(sizes) + 1)) if sizes else "none"


def _several(part: dict[str, Any]) -> float:
    """Returns the share of simulated neurons that have two simulators or more."""
    sizes = _sizes(part)
    simulated = sum(n for size, n in sizes.items() if size)
    return sum(n for size, n in sizes.items() if size > 1) / simulated if simulated else 0.0
