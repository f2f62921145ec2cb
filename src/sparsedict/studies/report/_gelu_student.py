"""Figure 11: a student with GELU latents, and the clusters of its simulators."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sparsedict import figures
from sparsedict.activations import GELU, Activation, ReLU
from sparsedict.analysis import clusters
from sparsedict.norms import MaxNorm
from sparsedict.penalties import L1
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._places import mlp
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import counts, match_from, match_numbers, share, student, typed

SHORT = 1 / 3
"""Of the neurons' median decoder norm: the bound on the rows of students with short rows."""
PARALLEL = 0.8


@dataclass(frozen=True)
class Variant:
    """One student.

    Attributes:
        activation: Of its latents.
        strength: Share of the main student's L1 coefficient.
        short: Whether its decoder rows are bounded at a third of the neurons' instead of at 1.
        weight_decay: Adam's.
    """

    activation: Activation
    strength: float = 1.0
    short: bool = False
    weight_decay: float = 0.0


WEAK = 0.2
GELUS = GELU()
VARIANTS = {
    "ReLU": Variant(ReLU()),
    "GELU": Variant(GELUS, WEAK),
    "GELU, weight decay": Variant(GELUS, WEAK, weight_decay=0.001),
    "ReLU, short rows": Variant(ReLU(), short=True),
    "GELU, short rows": Variant(GELUS, WEAK, short=True),
}


class GELUStudent(Study):
    """Whether GELU latents become simulators more often, in clusters, and what causes these."""

    name: ClassVar[str] = "gelu-student"
    title: ClassVar[str] = "A student with GELU latents"
    shows: ClassVar[str] = "Figure 11 and appendix B"
    claim: ClassVar[str] = (
        "With GELU latents, 70 % become simulators and the rest are almost dead. Simulators come in clusters, "
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
        gelus = [part for name, part in students.items() if name.startswith("GELU")]
        more = max(part["n_simulators"] for part in gelus) > 1.1 * students["ReLU"]["n_simulators"]
        clustered = max(map(_several, gelus)) > 0.25
        verdict = "seen" if more and clustered else "partly seen" if more or clustered else "not seen"
        return Finding(verdict, _summary(numbers), _rows(numbers), _drawings(students), NOTES)


NOTES = (
    "A ReLU can be scaled: a neuron whose decoder row has norm r can be one latent with a row of norm 1 and an "
    "activation r times as large. A GELU can't, so with rows of norm b at most it takes about r / b latents of the "
    "neuron's own size. Short rows have a bound of a third of the neurons' median norm.",
    f"GELU students have {WEAK:g} times the ReLU student's L1 coefficient, for their latents are active on half of the "
    "tokens and more; with short rows, activations are larger, and the coefficient is smaller by the same factor. "
    f"Weight decay is Adam's own, added to the gradient as in the report's code: "
    f"{VARIANTS['GELU, weight decay'].weight_decay:g}.",
)


def _norm(bench: Bench) -> float:
    return float(bench.sites[mlp(bench.layer)].neurons.decoder.norm(dim=1).median())


def _order(bench: Bench, variant: Variant, bound: float) -> Order:
    order = student(bench, bench.layer)
    if variant == VARIANTS["ReLU"]:
        return order
    coefficient = variant.strength * bench.setting.coefficient * (bound if variant.short else 1.0)
    return replace(
        order,
        activation=variant.activation,
        penalties=(L1(float(f"{coefficient:.4g}")),),
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
        return f"{share(part['n_simulators'], part['n_latents'])} ({part['simulators_per_neuron']:.2f} for each neuron)"

    plain, decayed = _several(students["GELU"]), _several(students["GELU, weight decay"])
    causes = decayed > 1.25 * plain and decayed > 0.1
    return (
        f"With rows of norm 1 at most, {told('ReLU')} of the ReLU latents are simulators and {told('GELU')} of the "
        f"GELU latents. With rows of {numbers['bound']:g} at most, a third of the neurons' median norm of "
        f"{numbers['neuron_norm']:.2f}, it is {told('ReLU, short rows')} and {told('GELU, short rows')}. Of the "
        f"simulated neurons, {_several(students['GELU, short rows']):.0%} have two simulators or more under GELU with "
        f"short rows, {plain:.0%} with rows of 1, and {decayed:.0%} with weight decay beside: "
        + ("weight decay adds to the clusters." if causes else "it isn't weight decay that makes the clusters here.")
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    students = numbers["students"]
    reported = {"ReLU": "29 %", "GELU, weight decay": "70 %"}

    def each(what: str, told: Any, reports: dict[str, str]) -> list[Compared]:
        return [Compared(f"{what}, {name}", reports.get(name, "-"), told(part)) for name, part in students.items()]

    return (
        *each("simulators", lambda part: share(part["n_simulators"], part["n_latents"]), reported),
        *each("neurons by their simulators", _told_sizes, {"GELU, weight decay": "two or three"}),
        *each("dead", lambda part: share(part["n_dead"], part["n_latents"]), {}),
        *each("variance unexplained (FVU)", lambda part: f"{part['fvu']:.3g}", {}),
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
            lambda: figures.cluster_sizes({n: _sizes(part) for n, part in students.items()}),
            "How many simulators each neuron has.",
        ),
    }


def _sizes(part: dict[str, Any]) -> dict[int, int]:
    return {int(size): n for size, n in part["per_neuron"].items()}


def _told_sizes(part: dict[str, Any]) -> str:
    return ", ".join(f"{size}: {n}" for size, n in _sizes(part).items() if size) or "none"


def _several(part: dict[str, Any]) -> float:
    """Returns the share of simulated neurons that have two simulators or more."""
    sizes = _sizes(part)
    simulated = sum(n for size, n in sizes.items() if size)
    return sum(n for size, n in sizes.items() if size > 1) / simulated if simulated else 0.0
