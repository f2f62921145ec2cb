"""An open question: what becomes of a simulator as the L1 coefficient grows."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from sparsedict import figures
from sparsedict.analysis import ablated_error
from sparsedict.figures import Curve, Palette
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import median, number, student, typed

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
        start = firing.frequency[chosen]
        steps = {}
        for c, order in orders.items():
            steps[c] = _state(bench, order, chosen, rows, start)
        return {"layer": bench.layer, "n_followed": int(chosen.sum()), "steps": steps, "n_latents": first.n_latents}

    def found(self, numbers: Numbers) -> Finding:
        steps = {float(c): part for c, part in numbers["steps"].items()}
        n = numbers["n_followed"]
        if not n:
            return Finding("not measured", "The student at the lowest coefficient has no simulator to follow.")
        xs = list(steps)
        kinds = {
            "still simulators": ("n_simulators", Palette.SIMULATORS),
            "turned sparse": ("n_sparse", Palette.SPARSE),
            "dead": ("n_dead", Palette.DEAD),
        }
        shares = {
            name: Curve(xs, [100 * steps[c][key] / n for c in xs], colour) for name, (key, colour) in kinds.items()
        }
        label = "L1 coefficient, per token"
        drawings = {
            "followed-fates": Drawing(
                lambda: figures.curves(shares, label, "of the first simulators (%)", x_scale="log"),
                f"What the {n:,} simulators of the lowest coefficient are, as it is raised.",
            ),
            "followed-frequency": Drawing(
                lambda: figures.curves(
                    {
                        "those still alive": Curve(
                            xs, [100 * (steps[c]["frequency"] or 1e-6) for c in xs], Palette.SIMULATORS
                        )
                    },
                    label,
                    "median firing frequency (%)",
                    x_scale="log",
                ),
                "How often the same latents fire.",
            ),
        }
        last = steps[max(steps)]
        summary = (
            f"Of {n:,} simulators followed from coefficient {min(steps):g} to {max(steps):g}, "
            f"{last['n_simulators'] / n:.0%} are simulators still, {last['n_sparse'] / n:.0%} have turned into "
            "sparse latents, "
            f"and {last['n_dead'] / n:.0%} are dead. The living fire on {number(last['frequency'], '.1%')} of the "
            f"tokens instead of {number(steps[min(steps)]['frequency'], '.1%')}, and {last['n_turned']:,} of them "
            "point elsewhere than "
            f"at first (cosine below {TURNED})."
        )

        def along(key: str, form: str = ",") -> str:
            return ", ".join(number(part[key], form) for part in steps.values())

        rows = (
            Compared("coefficients", "-", ", ".join(f"{c:g}" for c in steps)),
            Compared("still simulators", "fewer", along("n_simulators")),
            Compared("turned into sparse latents", "-", along("n_sparse")),
            Compared("dead", "-", along("n_dead")),
            Compared("alive and pointing elsewhere than at first", "-", along("n_turned")),
            Compared("median frequency of the living", "falls", along("frequency", ".2%")),
            Compared("latents that became simulators, not followed", "-", along("n_new")),
            Compared(
                "share of the explained variance that goes when those still simulators are taken away",
                "-",
                along("work", ".2f"),
            ),
        )
        notes = (
            "Each student starts from the one before, with the next coefficient, so that a latent keeps its number. "
            "Followed are the live simulators at the lowest coefficient.",
        )
        return Finding("answered", summary, rows, drawings, notes)


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


WARM_SHARE = 3
"""A student that starts from another is trained on this part of the tokens."""


def _state(bench: Bench, order: Order, chosen: Tensor, rows: Tensor, start: Tensor) -> Numbers:
    _, types, firing = typed(bench, order)
    dictionary = bench.dictionary(order)
    alive = ~firing.dead.mask
    now = dictionary.decoder.detach()[chosen]
    cosine = (normalize(now, dim=-1) * normalize(rows, dim=-1)).sum(-1)
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
