"""Figure 5: reconstruction error and types of latents along a sweep of the L1 coefficient."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from sparsedict import figures
from sparsedict.analysis import AblatedError, LatentTypes, ReconstructionError, ablated_error
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import THRESHOLD, autoencoder, counts, number, share, student, typed


class L1Sweep(Study):
    """What the L1 coefficient does to the error, to simulators and to dead latents, beside an autoencoder."""

    name: ClassVar[str] = "l1-sweep"
    title: ClassVar[str] = "The sweep of the L1 coefficient"
    shows: ClassVar[str] = "Figure 5"
    claim: ClassVar[str] = (
        "The student's error rises with the coefficient; even at the lowest it is 3.3038 against the autoencoder's "
        "1.0808. Most of the work is done by simulators: with these held at their means the error is far higher. As "
        "the coefficient grows, sparse latents do more of the work, up to a point from which latents die. The "
        "autoencoder's live latents are about as many as the student's sparse ones."
    )

    def measure(self, bench: Bench) -> Numbers:
        coefficients = sorted({*bench.setting.coefficients, bench.setting.coefficient})
        orders = {c: student(bench, bench.layer, c) for c in coefficients}
        coder = autoencoder(bench, bench.layer)
        bench.train([*orders.values(), coder])
        return {
            "layer": bench.layer,
            "students": {c: _student(bench, order) for c, order in orders.items()},
            "autoencoder": {
                **_error(bench.error(coder)),
                "l0": bench.l0(coder),
                "n_live": int((bench.firing(coder).counts > 0).sum()),
                "n_latents": coder.n_latents,
                "frequencies": frequencies(bench, coder),
            },
            "n_tokens": bench.setting.n_held_out,
            "coefficient": bench.setting.coefficient,
        }

    def found(self, numbers: Numbers) -> Finding:
        students = {float(c): part for c, part in numbers["students"].items()}
        first, last = students[min(students)], students[max(students)]
        rises = first["full"]["squared_error"] < last["full"]["squared_error"]
        vanish = last["n_simulators"] < 0.25 * first["n_simulators"]
        work = first["simulators"]["squared_error"] > first["sparse"]["squared_error"]
        seen = sum((rises, vanish, work))
        verdict = "seen" if seen == 3 else "partly seen" if seen else "not seen"
        main = numbers["coefficient"]
        summary = _summary(students, numbers["autoencoder"], main)
        rows = _rows(students, numbers["autoencoder"], main)
        return Finding(verdict, summary, rows, _drawings(students, numbers), NOTES)


NOTES = (
    "Errors are squared, summed over the width, mean over held-out tokens. The ratio to the autoencoder depends on how "
    "many latents each may use; the comparison at equal L0 stands below.",
)


def _summary(students: dict[float, Any], coder: Any, main: float) -> str:
    low, high = min(students), max(students)
    first, last = students[low], students[high]
    without = {kind: first[kind]["squared_error"] for kind in ("simulators", "sparse")}
    ratio = first["full"]["squared_error"] / coder["squared_error"]
    return (
        f"From coefficient {low:g} to {high:g} the error goes from {first['full']['squared_error']:.3g} to "
        f"{last['full']['squared_error']:.3g} and the simulators from "
        f"{share(first['n_simulators'], first['n_latents'])} to {share(last['n_simulators'], last['n_latents'])}. "
        f"At the lowest coefficient the error is {without['simulators']:.3g} without simulators and "
        f"{without['sparse']:.3g} without sparse latents; sparse latents alone do best at {_best(students):g}. There "
        f"the dead are {share(students[_best(students)]['n_dead'], first['n_latents'])}, at the highest coefficient "
        f"{share(last['n_dead'], first['n_latents'])}. The error at the lowest coefficient is {ratio:.2f} times the "
        f"autoencoder's, with {first['l0']:.0f} active latents a token against {coder['l0']:.0f}; the autoencoder has "
        f"{coder['n_live']:,} live latents, the student at {main:g} has "
        f"{students[main]['n_sparse_live']:,} live sparse ones."
    )


def _best(students: dict[float, Any]) -> float:
    """Returns the coefficient at which sparse latents alone leave the least error."""
    return min(students, key=lambda c: students[c]["simulators"]["squared_error"])


def _drawings(students: dict[float, Any], numbers: Numbers) -> dict[str, Drawing]:
    errors = {c: _ablated(part, numbers["n_tokens"]) for c, part in students.items()}
    types = {c: _types(part) for c, part in students.items()}
    coder = ReconstructionError(numbers["autoencoder"]["squared_error"], numbers["autoencoder"]["fvu"])
    return {
        "figure-05-errors": Drawing(
            lambda: figures.ablated_errors(errors, coder),
            "Figure 5, top: squared error per token, full and with each type of latents held at its means; the "
            "autoencoder has no coefficient of this kind and is drawn as a level.",
        ),
        "figure-05-types": Drawing(
            lambda: figures.type_shares(types), "Figure 5, bottom: simulators and dead latents."
        ),
    }


def frequencies(bench: Bench, order: Order) -> dict[str, Any]:
    """Describes the first 100 latents' firing, as what the report published lets one."""
    found = bench.firing(order).frequency[:100]
    return {
        "n": len(found),
        "never": int((found == 0).sum()),
        "above_1": int((found > 0.01).sum()),
        "above_10": int((found > 0.1).sum()),
        "max": float(found.max()),
    }


def _student(bench: Bench, order: Order) -> Numbers:
    match, types, firing = typed(bench, order)
    error = ablated_error(bench.dictionary(order), bench.held_out(order.site), types)
    named = {"full": error.full, "simulators": error.simulators, "sparse": error.sparse}
    return {
        **{name: _error(part) for name, part in named.items()},
        **counts(match, types, firing),
        "l0": bench.l0(order),
        "decoder_cosine": match.decoder_cosine,
        "dead": firing.dead.mask,
        "frequencies": frequencies(bench, order),
    }


def _error(error: ReconstructionError) -> Numbers:
    return {"squared_error": error.squared_error, "fvu": error.fvu}


def _ablated(part: Numbers, n_tokens: int) -> AblatedError:
    parts = {name: ReconstructionError(**part[name]) for name in ("full", "simulators", "sparse")}
    return AblatedError(parts.pop("full"), parts, n_tokens)


def _types(part: Numbers) -> LatentTypes:
    simulators = torch.tensor(part["decoder_cosine"]) > THRESHOLD
    return LatentTypes(simulators, ~simulators, THRESHOLD, torch.tensor(part["dead"]))


def _rows(students: dict[float, Any], coder: Any, main: float) -> tuple[Compared, ...]:
    first, low = students[min(students)], min(students)
    ratio = first["full"]["squared_error"] / coder["squared_error"]

    def first_100(part: Any) -> str:
        found = part["frequencies"]
        return f"{found['never']}, {found['above_1']}, {found['above_10']}, {found['max']:.1%}"

    return (
        Compared(f"error at the lowest coefficient ({low:g})", "3.3038", number(first["full"]["squared_error"])),
        Compared("error of the autoencoder", "1.0808", number(coder["squared_error"])),
        Compared("their ratio", "3.06", f"{ratio:.2f}"),
        Compared(
            "error without simulators, lowest coefficient", "much higher", number(first["simulators"]["squared_error"])
        ),
        Compared(
            "error without sparse latents, lowest coefficient", "less so", number(first["sparse"]["squared_error"])
        ),
        Compared("sparse latents alone are best at", "0.5 to 1.0", f"{_best(students):g}"),
        Compared(
            "simulators along the sweep",
            "fall",
            ", ".join(share(part["n_simulators"], part["n_latents"]) for part in students.values()),
        ),
        Compared(
            "dead along the sweep", "rise", ", ".join(share(p["n_dead"], p["n_latents"]) for p in students.values())
        ),
        Compared("L0 along the sweep", "-", ", ".join(f"{part['l0']:.0f}" for part in students.values())),
        Compared("L0 of the autoencoder", "-", number(coder["l0"], ".1f")),
        Compared(
            f"live autoencoder latents; live sparse ones of the student at {main:g}",
            "about equal",
            f"{coder['n_live']:,}; {students[main]['n_sparse_live']:,}",
        ),
        Compared(
            f"first 100 latents, student at {main:g}: never fire, above 1 %, above 10 %, largest",
            "3, 53, 11, 17.2%",
            first_100(students[main]),
        ),
        Compared("first 100 latents, autoencoder: the same", "27, 10, 0, 3.15%", first_100(coder)),
    )
