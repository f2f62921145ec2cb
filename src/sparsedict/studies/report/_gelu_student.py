"""Figure 11: a student with GELU latents, and the clusters of its simulators."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, ClassVar

from sparsedict import figures
from sparsedict.analysis import clusters
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import (
    counts,
    gelu_student,
    match_from,
    match_numbers,
    share,
    student,
    typed,
)

GELU_RUNS: dict[str, tuple[float, float]] = {
    "GELU": (1.0, 0.0),
    "GELU, weaker L1": (0.1, 0.0),
    "GELU, weaker L1, weight decay": (0.1, 0.001),
}
"""Share of the ReLU student's coefficient, and weight decay."""
PARALLEL = 0.8


class GELUStudent(Study):
    """Whether GELU latents become simulators more often, in clusters, and whether weight decay causes these."""

    name: ClassVar[str] = "gelu-student"
    title: ClassVar[str] = "A student with GELU latents"
    shows: ClassVar[str] = "Figure 11 and appendix B"
    claim: ClassVar[str] = (
        "With GELU latents, 70 % become simulators and the rest are almost dead. Simulators come in clusters, "
        "typically two or three very similar ones for each neuron. A comment supposes that any weight decay would "
        "cause the clusters."
    )

    def measure(self, bench: Bench) -> Numbers:
        base = bench.setting.report
        orders: dict[str, Order] = {"ReLU": student(bench, bench.layer)}
        for name, (scale, decay) in GELU_RUNS.items():
            orders[name] = gelu_student(bench, replace(base, weight_decay=decay), scale)
        bench.train(orders.values())
        return {"layer": bench.layer, "students": {name: _student(bench, order) for name, order in orders.items()}}

    def found(self, numbers: Numbers) -> Finding:
        students = numbers["students"]
        relu, gelu = students["ReLU"], students["GELU"]
        weaker, decayed = students["GELU, weaker L1"], students["GELU, weaker L1, weight decay"]
        name = max(GELU_RUNS, key=lambda name: students[name]["n_simulators"])
        most = students[name]
        match, types, _ = match_from(most["latents"])
        drawings = {
            "figure-11-gelu": Drawing(
                lambda: figures.decoder_similarity(match, types),
                f"Figure 11: decoder cosines of the student with most simulators: {name}.",
            ),
            "figure-11-clusters": Drawing(
                lambda: figures.cluster_sizes({n: _sizes(part) for n, part in students.items()}),
                "How many simulators each neuron has.",
            ),
        }
        more = most["n_simulators"] > 1.1 * relu["n_simulators"]
        clustered = max(_several(part) for name, part in students.items() if name != "ReLU") > 0.25
        causes = _several(decayed) > 1.5 * _several(weaker) and _several(decayed) > 0.1
        summary = (
            f"{share(gelu['n_simulators'], gelu['n_latents'])} of the GELU latents are simulators at the ReLU "
            f"student's coefficient, {share(weaker['n_simulators'], weaker['n_latents'])} at a tenth of it, against "
            f"{share(relu['n_simulators'], relu['n_latents'])} of the ReLU latents. Of the simulated neurons, "
            f"{_several(weaker):.1%} have two simulators or more at the weaker coefficient, and "
            f"{_several(decayed):.1%} "
            "with weight decay beside: "
            + ("weight decay does cause clusters here." if causes else "weight decay doesn't cause clusters here.")
        )
        verdict = "seen" if more and clustered else "partly seen" if more or clustered else "not seen"
        return Finding(verdict, summary, _rows(students), drawings, NOTES)


NOTES = (
    f"Weaker L1 is a tenth of the coefficient. Weight decay is Adam's own, added to the gradient as in the report's "
    f"code: {GELU_RUNS['GELU, weaker L1, weight decay'][1]:g}. A latent counts as firing where it "
    "is greater than zero, which a GELU latent nearly always is on half of the tokens.",
    "The pressure of L1 alone doesn't care whether one latent does a neuron's work or three share it; weight decay "
    "prefers sharing, and a decoder norm of at most 1 asks for it where the neuron's own row is longer.",
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


def _sizes(part: dict[str, Any]) -> dict[int, int]:
    return {int(size): n for size, n in part["per_neuron"].items()}


def _several(part: dict[str, Any]) -> float:
    """Returns the share of simulated neurons that have two simulators or more."""
    sizes = _sizes(part)
    simulated = sum(n for size, n in sizes.items() if size)
    return sum(n for size, n in sizes.items() if size > 1) / simulated if simulated else 0.0


def _rows(students: dict[str, Any]) -> tuple[Compared, ...]:
    rows = []
    for name, part in students.items():
        report = {"ReLU": "29 %", "GELU": "70 % (weight decay 0.0001)"}.get(name, "-")
        rows.append(Compared(f"simulators, {name}", report, share(part["n_simulators"], part["n_latents"])))
    for name, part in students.items():
        sizes = ", ".join(f"{size}: {n}" for size, n in _sizes(part).items() if size)
        rows.append(
            Compared(f"neurons by their simulators, {name}", "two or three" if "GELU" in name else "-", sizes or "none")
        )
    rows += [
        Compared(f"variance unexplained (FVU), {name}", "-", f"{part['fvu']:.3g}") for name, part in students.items()
    ]
    return tuple(rows)
