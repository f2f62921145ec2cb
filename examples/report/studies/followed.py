"""An open question of the report: the fate of simulators as the L1 coefficient increases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cosine_similarity

from sparsedict import figures
from sparsedict.analysis import ablated_error
from sparsedict.figures import Curve, Palette

from ..claims import Above, Below, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Quantity, Ratio, measured, told
from ..experiment import Experiment
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import Part, along, curve, median, row, student, typed

WARM_SHARE = 3
"""Divisor of the training tokens of a student that starts from another student."""
ELSEWHERE = 0.8
"""Cosine of a decoder row with its original direction below which the latent points elsewhere."""


class SimulatorsFollowed(Study):
    """The fate of the simulators of a student whose L1 coefficient is increased step by step."""

    name: ClassVar[str] = "simulators-followed"
    title: ClassVar[str] = "Simulators under a growing penalty"
    shows: ClassVar[str] = "An open question of the report"
    claim: ClassVar[str] = (
        "The report asks by what mechanism the work goes from simulators to sparse latents as the L1 penalty grows, "
        "and what the remaining simulators still do. Tested here: simulators turn into sparse latents that point "
        "elsewhere and fire more rarely, rather than die; and those that remain do little of the work."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        chains = [_chain(experiment, repeat) for repeat in range(experiment.setting.n_seeds)]
        for step in zip(*(chain.values() for chain in chains), strict=True):
            experiment.train(step)
        coefficients = list(chains[0])
        experiment.train(
            repeated for c in coefficients for repeated in experiment.repeated(student(experiment, experiment.layer, c))
        )
        return {
            "layer": experiment.layer,
            "coefficients": coefficients,
            "measured": measured([_follow(experiment, chain) for chain in chains]),
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
NEW, ANEW = "latents that became simulators", "simulators of a newly trained student"
WORK, ERROR = "share of the explained variance lost without the remaining simulators", "FVU"
NOTES = (
    "Each student starts from the previous student, with the next coefficient, so that latents keep their index. The "
    "study follows the live simulators of the lowest coefficient. All students but the first are trained on "
    f"1/{WARM_SHARE} of the tokens.",
    "A latent points elsewhere if the cosine of its decoder row with its row at the lowest coefficient is below "
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
        f"still simulators, {tell(high, SPARSE)} have become sparse latents, and {tell(high, DEAD)} are dead. The "
        f"median firing frequency of the live latents is {tell(high, FREQUENCY, '.2%')}, compared with "
        f"{tell(low, FREQUENCY)} at first, and {tell(high, TURNED)} of them point elsewhere. Without the remaining "
        f"simulators {tell(high, WORK)} of the explained variance is lost, compared with {tell(low, WORK)} at first."
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
            f"Fate of the simulators of the lowest coefficient as the coefficient increases. {bars}",
        )
    }
    if frequency:
        drawings["followed-frequency"] = Drawing(
            lambda: figures.curves(frequency, label, "median firing frequency (%)", x_scale="log", y_scale="log"),
            f"Firing frequency of the same latents, over the same coefficients. {bars}",
        )
    return drawings


def _chain(experiment: Experiment, repeat: int) -> dict[float, DictionarySpec]:
    found: dict[float, DictionarySpec] = {}
    before: DictionarySpec | None = None
    training = experiment.setting.report
    for c in experiment.setting.coefficients:
        spec = replace(student(experiment, experiment.layer, c, warm=before), repeat=repeat)
        if before is not None:
            short = replace(training, n_tokens=max(training.batch_size, training.n_tokens // WARM_SHARE))
            spec = replace(spec, training=short)
        found[c] = before = spec
    return found


def _follow(experiment: Experiment, chain: dict[float, DictionarySpec]) -> Part:
    """Returns the numbers of the live simulators of one seed's first student. Without simulators, there are none."""
    first = chain[min(chain)]
    _, types, _ = typed(experiment, first)
    chosen = types.simulators
    found: Part = {N_FOLLOWED: int(chosen.sum())}
    if not bool(chosen.any()):
        return found
    rows = experiment.dictionary(first).decoder.detach()[chosen]
    for c, spec in chain.items():
        state = _state(experiment, spec, chosen, rows)
        anew = replace(student(experiment, experiment.layer, c), repeat=spec.repeat)
        _, types, _ = typed(experiment, anew)
        state[ANEW] = types.n_simulators
        found |= {f"{_name(c)}: {key}": value for key, value in state.items()}
    return found


def _state(experiment: Experiment, spec: DictionarySpec, chosen: Tensor, rows: Tensor) -> Part:
    _, types, firing = typed(experiment, spec)
    dictionary = experiment.dictionary(spec)
    alive = ~firing.dead.mask
    cosine = cosine_similarity(dictionary.decoder.detach()[chosen], rows, dim=-1)
    still = types.simulators & chosen
    error = ablated_error(dictionary, experiment.held_out(spec.site), {"still": still})
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
