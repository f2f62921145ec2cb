"""Figure 5: reconstruction error and types of latents in a sweep of the L1 coefficient."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from sparsedict import figures
from sparsedict.analysis import ablated_error
from sparsedict.figures import Palette

from ..claims import Above, Below, Between, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Difference, Measured, Quantity, Ratio, mean_of, measured, told
from ..experiment import Experiment
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import Part, along, autoencoder, by_seed, curve, described, row, student, typed
from .ratios import FAR, read_off

FULL, SPARSE, SIMULATORS = "squared error", "error of the sparse latents alone", "error of the simulators alone"
AUTOENCODER = "autoencoder"
EQUAL = "error at the autoencoder's L0, over the autoencoder's"


class L1Sweep(Study):
    """The effect of the L1 coefficient on error, simulators and dead latents, compared with an autoencoder."""

    name: ClassVar[str] = "l1-sweep"
    title: ClassVar[str] = "The sweep of the L1 coefficient"
    shows: ClassVar[str] = "Figure 5"
    claim: ClassVar[str] = (
        "The student's error rises with the coefficient; even at the lowest it is 3.3038 against the autoencoder's "
        "1.0808. Most of the work is done by simulators: with these held at their means the error is far higher. As "
        "the coefficient grows, sparse latents do more of the work, up to a point from which latents die. The "
        "autoencoder's live latents are about as many as the student's sparse ones."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        coefficients = sorted({*experiment.setting.coefficients, experiment.setting.coefficient})
        students = {_name(c): student(experiment, experiment.layer, c) for c in coefficients}
        coder = {AUTOENCODER: autoencoder(experiment, experiment.layer)}
        experiment.train(
            repeated for spec in (*students.values(), *coder.values()) for repeated in experiment.repeated(spec)
        )
        of_students, of_coder = by_seed(experiment, students, _student), by_seed(experiment, coder, _autoencoder)
        seeds = [{**a, **b} for a, b in zip(of_students, of_coder, strict=True)]
        return {
            "layer": experiment.layer,
            "coefficients": coefficients,
            "coefficient": experiment.setting.coefficient,
            "best": _best(seeds, coefficients),
            "measured": measured([{**part, EQUAL: _at_equal_l0(part, coefficients)} for part in seeds]),
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        return [*_of_errors(numbers), *_of_types(numbers)]

    def found(self, numbers: Numbers) -> Finding:
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(numbers), NOTES)


NOTES = (
    "Errors are squared, summed over the width, mean over held-out tokens. For the error of one type of latents alone, "
    "the latents of the other type are fixed at their means.",
    "The errors of a student and an autoencoder are comparable only at the same number of active latents. The error of "
    "students at the autoencoder's L0 is interpolated along the sweep, on logarithmic axes. The report compares "
    "different numbers of active latents, as does the first of the two clauses on the autoencoder's error.",
    "The autoencoder has a separate coefficient, at which it is sparse. The table compares the firing frequencies of "
    "its first 100 latents with those in the report.",
)


def _name(c: float) -> str:
    return f"coefficient {c:g}"


def _of_errors(numbers: Numbers) -> list[Clause]:
    cs, main, best = numbers["coefficients"], numbers["coefficient"], numbers["best"]

    def of(c: float, key: str) -> str:
        return f"{_name(c)}: {key}"

    rises = [
        Clause(f"the error rises from coefficient {a:g} to {b:g}: ratio", Ratio(of(b, FULL), of(a, FULL)), Above(1))
        for a, b in pairwise(cs)
    ]
    against = Ratio(of(cs[0], FULL), f"{AUTOENCODER}: {FULL}")
    work = Ratio(of(main, SPARSE), of(main, SIMULATORS))
    course = []
    if cs[0] < best < cs[-1]:
        falls = Ratio(of(best, SPARSE), of(cs[0], SPARSE))
        again = Ratio(of(cs[-1], SPARSE), of(best, SPARSE))
        course = [
            Clause(f"the sparse latents' error alone falls from {cs[0]:g} to {best:g}: ratio", falls, Below(1)),
            Clause(f"it rises again from {best:g} to {cs[-1]:g}: ratio", again, Above(1)),
        ]
    held = Ratio(of(main, SPARSE), of(main, FULL))
    without = f"simulators do most of the work at {main:g}: error without them, over that without the sparse latents"
    return [
        *rises,
        Clause(f"the error at {cs[0]:g} is above the autoencoder's: ratio", against, Above(1), "3.06"),
        Clause("at the autoencoder's L0 the error is above the autoencoder's: ratio", Quantity(EQUAL), Above(1)),
        Clause(without, work, Above(1)),
        Clause(f"with the simulators at their means, the error at {main:g} is far higher: ratio", held, Above(FAR)),
        *course,
    ]


def _of_types(numbers: Numbers) -> list[Clause]:
    cs, main, best = numbers["coefficients"], numbers["coefficient"], numbers["best"]
    die = Difference(f"{_name(cs[-1])}: dead", f"{_name(best)}: dead")
    fewer = Ratio(f"{_name(cs[-1])}: simulators", f"{_name(cs[0])}: simulators")
    live = Ratio(f"{AUTOENCODER}: live latents", f"{_name(main)}: live sparse latents")
    return [
        Clause(f"more latents are dead at {cs[-1]:g} than at {best:g}: difference", die, Above(0), "yes", ".1%"),
        Clause(f"simulators fall from {cs[0]:g} to {cs[-1]:g}: ratio", fewer, Below(0.5), "yes"),
        Clause(f"live latents of the autoencoder over live sparse ones at {main:g}", live, Between(0.5, 2), "about 1"),
    ]


def _at_equal_l0(part: Part, coefficients: Sequence[float]) -> float | None:
    """Returns the ratio of the student's error at the autoencoder's L0 to the autoencoder's error, for one seed."""
    points = [(part[f"{_name(c)}: L0"] or 0.0, part[f"{_name(c)}: {FULL}"] or 0.0) for c in coefficients]
    error, theirs = read_off(points, part[f"{AUTOENCODER}: L0"] or 0.0), part[f"{AUTOENCODER}: {FULL}"]
    return error / theirs if error is not None and theirs else None


def _best(seeds: Sequence[Part], coefficients: Sequence[float]) -> float:
    """Returns the inner coefficient with the smallest error of the sparse latents alone."""
    inner = coefficients[1:-1] or coefficients
    return min(inner, key=lambda c: sum(part[f"{_name(c)}: {SPARSE}"] or 0.0 for part in seeds))


def _student(experiment: Experiment, spec: DictionarySpec) -> Part:
    _, types, _ = typed(experiment, spec)
    error = ablated_error(experiment.dictionary(spec), experiment.held_out(spec.site), types)
    alone = {SPARSE: error.simulators.squared_error, SIMULATORS: error.sparse.squared_error}
    return {**described(experiment, spec), **alone, **_frequencies(experiment, spec)}


def _autoencoder(experiment: Experiment, spec: DictionarySpec) -> Part:
    error, firing = experiment.error(spec), experiment.firing(spec)
    return {
        FULL: error.squared_error,
        "FVU": error.fvu,
        "L0": experiment.l0(spec),
        "live latents": spec.n_latents - firing.dead.n_dead,
        **_frequencies(experiment, spec),
    }


NEVER, ONE, TEN, MOST = "never fire", "fire on more than 1 %", "fire on more than 10 %", "largest frequency"


def _frequencies(experiment: Experiment, spec: DictionarySpec) -> Part:
    """Returns statistics of the firing of the first 100 latents, as published in the report."""
    found = experiment.firing(spec).frequency[:100]
    numbers = {NEVER: found == 0, ONE: found > 0.01, TEN: found > 0.1}
    return {**{name: int(mask.sum()) for name, mask in numbers.items()}, MOST: float(found.max())}


def _summary(numbers: Numbers) -> str:
    known: Measured = numbers["measured"]
    cs, main, best = numbers["coefficients"], numbers["coefficient"], numbers["best"]
    low, high = _name(cs[0]), _name(cs[-1])
    l0 = [told(known, f"{name}: L0", ".1f") for name in (low, AUTOENCODER)]
    ratio = told(known, Ratio(f"{low}: {FULL}", f"{AUTOENCODER}: {FULL}"), ".2f")
    smallest = f" Among the inner coefficients, the error of the sparse latents alone is smallest at {best:g}."
    smallest = smallest if len(cs) > 3 else ""
    return (
        f"From coefficient {cs[0]:g} to {cs[-1]:g} the error changes from {told(known, f'{low}: {FULL}')} to "
        f"{told(known, f'{high}: {FULL}')}, and the simulators from {told(known, f'{low}: simulators', '.1%')} of the "
        f"latents to {told(known, f'{high}: simulators', '.1%')}. At {main:g} the error is "
        f"{told(known, f'{_name(main)}: {SPARSE}')} with the sparse latents alone and "
        f"{told(known, f'{_name(main)}: {SIMULATORS}')} with the simulators alone.{smallest} At the lowest "
        f"coefficient the student's error is {ratio} times that of the autoencoder, with {l0[0]} active latents per "
        f"token compared with {l0[1]}. At the autoencoder's L0 it is {told(known, EQUAL, '.2f')} times that of the "
        "autoencoder."
    )


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    known, cs = numbers["measured"], numbers["coefficients"]

    def drawn(key: str, colour: str, scale: float = 1.0) -> figures.Curve | None:
        return curve(known, {c: f"{_name(c)}: {key}" for c in cs}, colour, scale=scale)

    errors = {
        "full": drawn(FULL, Palette.DISTILLER),
        "sparse latents alone": drawn(SPARSE, Palette.SPARSE),
        "simulators alone": drawn(SIMULATORS, Palette.SIMULATORS),
    }
    types = {"simulators": drawn("simulators", Palette.SIMULATORS, 100), "dead": drawn("dead", Palette.DEAD, 100)}
    level = mean_of(known, f"{AUTOENCODER}: {FULL}")
    levels = {} if level is None else {AUTOENCODER: level}
    shown, shares = ({name: c for name, c in of.items() if c is not None} for of in (errors, types))
    return {
        "figure-05-errors": Drawing(
            lambda: figures.curves(
                shown, LABEL, "squared error per token", x_scale="log", y_scale="log", levels=levels
            ),
            "Figure 5, top: squared error per token, with all latents and with one type of latents alone, the others "
            "fixed at their means. The horizontal line is the autoencoder, which has a single coefficient. "
            f"{BARS}",
        ),
        "figure-05-types": Drawing(
            lambda: figures.curves(shares, LABEL, "share of latents (%)", x_scale="log"),
            f"Figure 5, bottom: simulators and dead latents, over the same coefficients. {BARS}",
        ),
    }


LABEL = "L1 coefficient, per token"
BARS = "Means over the seeds with 95 % intervals."


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known, cs, main = numbers["measured"], numbers["coefficients"], numbers["coefficient"]
    low = _name(cs[0])

    def sweep(key: str, report: str, form: str = ".3g") -> Compared:
        return Compared(f"{key}, along the sweep", report, along(known, (f"{_name(c)}: {key}" for c in cs), form))

    def first_100(name: str) -> str:
        counts = along(known, (f"{name}: {key}" for key in (NEVER, ONE, TEN)), ".1f")
        return f"{counts}; {told(known, f'{name}: {MOST}', '.1%')}"

    first = f"first 100 latents: {NEVER}, {ONE}, {TEN}, {MOST}"
    return (
        Compared("coefficients of the sweep", "0.1 to 2", ", ".join(f"{c:g}" for c in cs)),
        row(known, f"error at the lowest coefficient ({cs[0]:g})", f"{low}: {FULL}", "3.3038"),
        row(known, "error of the autoencoder", f"{AUTOENCODER}: {FULL}", "1.0808"),
        row(known, "their ratio", Ratio(f"{low}: {FULL}", f"{AUTOENCODER}: {FULL}"), "3.06"),
        row(known, EQUAL, EQUAL, "-", ".2f"),
        row(known, "live latents of the autoencoder", f"{AUTOENCODER}: live latents", "-", ",.0f"),
        sweep(FULL, "rises"),
        sweep(SPARSE, "lowest at 0.5 to 1.0"),
        sweep(SIMULATORS, "-"),
        sweep("simulators", "fall", ".1%"),
        sweep("dead", "rise", ".1%"),
        sweep("live sparse latents", "-", ",.0f"),
        sweep("L0", "-", ".1f"),
        Compared(f"student at {main:g}, {first}", "3, 53, 11, 17.2 %", first_100(_name(main))),
        Compared(f"autoencoder, {first}", "27, 10, 0, 3.15 %", first_100(AUTOENCODER)),
    )
