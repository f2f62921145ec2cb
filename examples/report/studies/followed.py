"""An open question: what becomes of a simulator as the L1 coefficient grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cosine_similarity

from sparsedict import figures
from sparsedict.analysis import ablated_error
from sparsedict.figures import Curve, Palette

from ..bench import Bench
from ..claims import Above, Below, Clause
from ..estimates import Quantity, Ratio, measured, told
from ..order import Order
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import Part, along, curve, median, row, student, typed

WARM_SHARE = 3
"""A student that starts from another is trained on this part of the tokens."""
ELSEWHERE = 0.8
"""Cosine of a latent's decoder row with what it was, below which it has become something else."""


class SimulatorsFollowed(Study):
    """The fate of a student's simulators while its L1 coefficient is raised step by step."""

    name: ClassVar[str] = "simulators-followed"
    title: ClassVar[str] = "Simulators under a growing penalty"
    shows: ClassVar[str] = "An open question of the report"
    claim: ClassVar[str] = (
        "The report asks by what mechanism the work goes from simulators to sparse latents as the L1 penalty grows, "
        "and what the remaining simulators still do. Tested here: simulators turn into sparse latents that point "
        "elsewhere and fire more rarely, rather than die; and those that remain do little of the work."
    )

    def measure(self, bench: Bench) -> Numbers:
        chains = [_chain(bench, repeat) for repeat in range(bench.setting.n_seeds)]
        for step in zip(*(chain.values() for chain in chains), strict=True):
            bench.train(step)
        coefficients = list(chains[0])
        bench.train(repeated for c in coefficients for repeated in bench.repeated(student(bench, bench.layer, c)))
        return {
            "layer": bench.layer,
            "coefficients": coefficients,
            "measured": measured([_follow(bench, chain) for chain in chains]),
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        low, high = (_name(numbers["coefficients"][i]) for i in (0, -1))
        rarer = Ratio(f"{high}: {FREQUENCY}", f"{low}: {FREQUENCY}")
        work = Ratio(f"{high}: {WORK}", f"{low}: {WORK}")
        return [
            Clause(f"{high}: most of the followed have turned sparse",
                   Quantity(f"{high}: {SPARSE}"), Above(0.5), form=".1%"),
            Clause(f"{high}: most of the living point elsewhere",
                   Quantity(f"{high}: {TURNED}"), Above(0.5), form=".1%"),
            Clause(f"the living fire more rarely at {high} than at {low}: ratio of medians", rarer, Below(0.5)),
            Clause(f"work of the remaining simulators at {high}, over that at {low}", work, Below(0.1)),
        ]  # fmt: skip

    def found(self, numbers: Numbers) -> Finding:
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(numbers), NOTES)


N_FOLLOWED, STILL, SPARSE, DEAD = "simulators followed", "still simulators", "turned sparse", "dead"
TURNED, FREQUENCY = "pointing elsewhere, of the living", "median frequency of the living"
NEW, ANEW = "latents that became simulators", "simulators of a student trained anew"
WORK, ERROR = "share of the explained variance lost without the remaining simulators", "FVU"
NOTES = (
    "Each student starts from the one before, with the next coefficient, so that a latent keeps its number. Followed "
    f"are the live simulators at the lowest coefficient. All but the first are trained on 1/{WARM_SHARE} of the "
    "tokens.",
    f"A latent points elsewhere where its decoder row's cosine with its own row at the lowest coefficient is below "
    f"{ELSEWHERE}.",
)
FATES = {STILL: Palette.SIMULATORS, SPARSE: Palette.SPARSE, DEAD: Palette.DEAD}


def _name(c: float) -> str:
    return f"coefficient {c:g}"


def _summary(numbers: Numbers) -> str:
    known, low, high = numbers["measured"], *(_name(numbers["coefficients"][i]) for i in (0, -1))

    def tell(name: str, key: str, form: str = ".1%") -> str:
        return told(known, f"{name}: {key}", form)

    return (
        f"Of {told(known, N_FOLLOWED, ',.0f')} live simulators followed from {low} to {high}, {tell(high, STILL)} are "
        f"simulators still, {tell(high, SPARSE)} have turned into sparse latents, and {tell(high, DEAD)} are dead. The "
        f"living fire on {tell(high, FREQUENCY, '.2%')} of the tokens at the median, against "
        f"{tell(low, FREQUENCY)} at first, and {tell(high, TURNED)} of them point elsewhere. Without the remaining "
        f"simulators {tell(high, WORK)} of the explained variance is lost, against {tell(low, WORK)} at first."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known, coefficients = numbers["measured"], numbers["coefficients"]

    def sweep(key: str, form: str = ".1%", report: str = "-") -> Compared:
        return Compared(key, report, along(known, (f"{_name(c)}: {key}" for c in coefficients), form))

    return (
        Compared("coefficients", "-", ", ".join(f"{c:g}" for c in coefficients)),
        row(known, N_FOLLOWED, N_FOLLOWED, form=",.0f"),
        sweep(STILL, report="fewer"),
        sweep(SPARSE),
        sweep(DEAD),
        sweep(ANEW, ",.0f"),
        sweep(TURNED),
        sweep(FREQUENCY, ".2%"),
        sweep(NEW, ",.0f"),
        sweep(WORK),
        sweep(ERROR, ".3f"),
    )


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    known, label = numbers["measured"], "L1 coefficient, per token"

    def drawn(key: str, colour: str) -> Curve | None:
        return curve(known, {c: f"{_name(c)}: {key}" for c in numbers["coefficients"]}, colour, scale=100)

    fates = {name: of for name, colour in FATES.items() if (of := drawn(name, colour)) is not None}
    found = {"those still alive": drawn(FREQUENCY, Palette.SIMULATORS)}
    frequency = {name: of for name, of in found.items() if of is not None}
    if not fates:
        return {}
    bars = "Means over the seeds with 95 % intervals."
    drawings = {
        "followed-fates": Drawing(
            lambda: figures.curves(fates, label, "of the first simulators (%)", x_scale="log"),
            f"Fate of the simulators of the lowest coefficient, as it is raised. {bars}",
        )
    }
    if frequency:
        drawings["followed-frequency"] = Drawing(
            lambda: figures.curves(frequency, label, "median firing frequency (%)", x_scale="log", y_scale="log"),
            f"Firing frequency of the same latents, over the same coefficients. {bars}",
        )
    return drawings


def _chain(bench: Bench, repeat: int) -> dict[float, Order]:
    found: dict[float, Order] = {}
    before: Order | None = None
    training = bench.setting.report
    for c in bench.setting.coefficients:
        order = replace(student(bench, bench.layer, c, warm=before), repeat=repeat)
        if before is not None:
            short = replace(training, n_tokens=max(training.batch_size, training.n_tokens // WARM_SHARE))
            order = replace(order, training=short)
        found[c] = before = order
    return found


def _follow(bench: Bench, chain: dict[float, Order]) -> Part:
    """Follows the live simulators of one seed's first student; without any, there are no numbers."""
    first = chain[min(chain)]
    _, types, _ = typed(bench, first)
    chosen = types.simulators
    found: Part = {N_FOLLOWED: int(chosen.sum())}
    if not bool(chosen.any()):
        return found
    rows = bench.dictionary(first).decoder.detach()[chosen]
    for c, order in chain.items():
        state = _state(bench, order, chosen, rows)
        anew = replace(student(bench, bench.layer, c), repeat=order.repeat)
        _, types, _ = typed(bench, anew)
        state[ANEW] = types.n_simulators
        found |= {f"{_name(c)}: {key}": value for key, value in state.items()}
    return found


def _state(bench: Bench, order: Order, chosen: Tensor, rows: Tensor) -> Part:
    _, types, firing = typed(bench, order)
    dictionary = bench.dictionary(order)
    alive = ~firing.dead.mask
    cosine = cosine_similarity(dictionary.decoder.detach()[chosen], rows, dim=-1)
    still = types.simulators & chosen
    error = ablated_error(dictionary, bench.held_out(order.site), {"still": still})
    explained = 1 - error.full.fvu
    n, n_alive = int(chosen.sum()), int((chosen & alive).sum())
    return {
        STILL: int(still.sum()) / n,
        SPARSE: int((types.sparse & chosen).sum()) / n,
        DEAD: 1 - n_alive / n,
        TURNED: int(((cosine < ELSEWHERE) & alive[chosen]).sum()) / n_alive if n_alive else None,
        NEW: int((types.simulators & ~chosen).sum()),
        FREQUENCY: median(firing.frequency[chosen & alive]),
        WORK: (error.ablated["still"].fvu - error.full.fvu) / explained if explained > 0 else None,
        ERROR: error.full.fvu,
    }
