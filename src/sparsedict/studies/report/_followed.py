"""An open question: what becomes of a simulator as the L1 coefficient grows."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cosine_similarity

from sparsedict import figures
from sparsedict.analysis import ablated_error
from sparsedict.figures import Curve, Palette
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import median, number, share, student, typed

WARM_SHARE = 3
"""A student that starts from another is trained on this part of the tokens."""
TURNED = 0.8
"""Cosine of a latent's decoder row with what it was, below which it has become something else."""


class SimulatorsFollowed(Study):
    """What becomes of the simulators of a student whose L1 coefficient is raised step by step."""

    name: ClassVar[str] = "simulators-followed"
    title: ClassVar[str] = "What becomes of a simulator"
    shows: ClassVar[str] = "An open question of the report"
    claim: ClassVar[str] = (
        "As the L1 penalty grows, by what mechanism does the work go from simulators to sparse latents, and what do "
        "the remaining simulators still do?"
    )

    def measure(self, bench: Bench) -> Numbers:
        orders = _chain(bench)
        first = orders[min(orders)]
        _, types, firing = typed(bench, first)
        chosen = types.simulators & ~firing.dead.mask
        rows = bench.dictionary(first).decoder.detach()[chosen]
        anew = {c: student(bench, bench.layer, c) for c in orders}
        bench.train(anew.values())
        steps = {
            c: {**_state(bench, order, chosen, rows), "n_anew": typed(bench, anew[c])[1].n_simulators}
            for c, order in orders.items()
        }
        return {"layer": bench.layer, "n_followed": int(chosen.sum()), "steps": steps, "n_latents": first.n_latents}

    def found(self, numbers: Numbers) -> Finding:
        steps = {float(c): part for c, part in numbers["steps"].items()}
        n = numbers["n_followed"]
        if not n:
            return Finding("not measured", "The student at the lowest coefficient has no simulator to follow.")
        return Finding("answered", _summary(steps, n), _rows(steps), _drawings(steps, n), NOTES)


NOTES = (
    "Each student starts from the one before, with the next coefficient, so that a latent keeps its number. Followed "
    f"are the live simulators at the lowest coefficient. All but the first are trained on 1/{WARM_SHARE} of the "
    "tokens.",
    f"A latent points elsewhere where its decoder row's cosine with its own row at the lowest coefficient is below "
    f"{TURNED}.",
)
FATES = {
    "still simulators": ("n_simulators", Palette.SIMULATORS),
    "turned sparse": ("n_sparse", Palette.SPARSE),
    "dead": ("n_dead", Palette.DEAD),
}


def _summary(steps: dict[float, Numbers], n: int) -> str:
    low, high = min(steps), max(steps)
    first, last = steps[low], steps[high]
    n_alive = n - last["n_dead"]
    return (
        f"Of {n:,} live simulators followed from coefficient {low:g} to {high:g}, {last['n_simulators'] / n:.0%} are "
        f"simulators still, {last['n_sparse'] / n:.0%} have turned into sparse latents, and {last['n_dead'] / n:.0%} "
        f"are dead. Half of the living fire on more than {number(last['frequency'], '.2%')} of the tokens, against "
        f"{number(first['frequency'], '.1%')} at first, and {share(last['n_turned'], n_alive)} of them point elsewhere "
        f"than at first. Taking away those that are simulators still costs {number(last['work'], '.0%')} of the "
        f"explained variance, against {number(first['work'], '.0%')} at first. {_of_anew(steps)}"
    )


def _of_anew(steps: dict[float, Numbers]) -> str:
    """Says where the followed student keeps more simulators than one that is trained anew, if anywhere."""
    c = max(steps, key=lambda c: steps[c]["n_simulators"] - steps[c]["n_anew"])
    kept, anew = steps[c]["n_simulators"], steps[c]["n_anew"]
    if kept <= anew:
        return "Students trained anew have as many simulators at each coefficient."
    return (
        f"They last where they would not have come: at coefficient {c:g} there are {kept:,} of them still, while a "
        f"student trained anew has {anew:,}."
    )


def _rows(steps: dict[float, Numbers]) -> tuple[Compared, ...]:
    def along(key: str, form: str = ",") -> str:
        return ", ".join(number(part[key], form) for part in steps.values())

    return (
        Compared("coefficients", "-", ", ".join(f"{c:g}" for c in steps)),
        Compared("still simulators", "fewer", along("n_simulators")),
        Compared("turned into sparse latents", "-", along("n_sparse")),
        Compared("dead", "-", along("n_dead")),
        Compared("simulators of students trained anew", "-", along("n_anew")),
        Compared("alive and pointing elsewhere than at first", "-", along("n_turned")),
        Compared("median frequency of the living", "-", along("frequency", ".2%")),
        Compared("latents that became simulators, not followed", "-", along("n_new")),
        Compared(
            "share of the explained variance that goes when those still simulators are taken away",
            "-",
            along("work", ".2f"),
        ),
        Compared("variance unexplained (FVU)", "-", along("fvu", ".3f")),
    )


def _drawings(steps: dict[float, Numbers], n: int) -> dict[str, Drawing]:
    xs, label = list(steps), "L1 coefficient, per token"
    fates = {name: Curve(xs, [100 * steps[c][key] / n for c in xs], colour) for name, (key, colour) in FATES.items()}
    alive = [c for c in xs if steps[c]["frequency"] is not None]
    frequency = {"those still alive": Curve(alive, [100 * steps[c]["frequency"] for c in alive], Palette.SIMULATORS)}
    return {
        "followed-fates": Drawing(
            lambda: figures.curves(fates, label, "of the first simulators (%)", x_scale="log"),
            f"What the {n:,} simulators of the lowest coefficient are, as it is raised.",
        ),
        "followed-frequency": Drawing(
            lambda: figures.curves(frequency, label, "median firing frequency (%)", x_scale="log", y_scale="log"),
            "How often the same latents fire.",
        ),
    }


def _chain(bench: Bench) -> dict[float, Order]:
    found: dict[float, Order] = {}
    before: Order | None = None
    training = bench.setting.report
    for c in bench.setting.coefficients:
        order = student(bench, bench.layer, c, warm=before)
        if before is not None:
            short = replace(training, n_tokens=max(training.batch_size, training.n_tokens // WARM_SHARE))
            order = replace(order, training=short)
        found[c] = before = order
    return found


def _state(bench: Bench, order: Order, chosen: Tensor, rows: Tensor) -> Numbers:
    _, types, firing = typed(bench, order)
    dictionary = bench.dictionary(order)
    alive = ~firing.dead.mask
    now = dictionary.decoder.detach()[chosen]
    cosine = cosine_similarity(now, rows, dim=-1)
    still = types.simulators & chosen & alive
    error = ablated_error(dictionary, bench.held_out(order.site), {"still": still})
    explained = 1 - error.full.fvu
    return {
        "n_simulators": int(still.sum()),
        "n_sparse": int((types.sparse & chosen & alive).sum()),
        "n_dead": int((chosen & ~alive).sum()),
        "n_turned": int(((cosine < TURNED) & alive[chosen]).sum()),
        "n_new": int((types.simulators & ~chosen & alive).sum()),
        "frequency": median(firing.frequency[chosen & alive]),
        "work": (error.ablated["still"].fvu - error.full.fvu) / explained if explained > 0 else None,
        "fvu": error.full.fvu,
    }
