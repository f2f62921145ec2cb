"""Figure 5: reconstruction error and types of latents along a sweep of the L1 coefficient."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from sparsedict import figures
from sparsedict.analysis import AblatedError, LatentTypes, ReconstructionError, ablated_error
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study, verdict_of
from sparsedict.studies.report._parts import THRESHOLD, autoencoder, counts, number, share, student, typed
from sparsedict.studies.report._ratios import read_off


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
        coder, main = numbers["autoencoder"], numbers["coefficient"]
        seen = _seen(students, coder, main)
        missing = [what for what, is_so in seen.items() if not is_so]
        summary = _summary(students, coder, main) + (f" Not seen: {'; '.join(missing)}." if missing else "")
        rows, drawings = _rows(students, coder, main), _drawings(students, numbers)
        return Finding(verdict_of(seen.values()), summary, rows, drawings, NOTES)


NOTES = (
    "Errors are squared, summed over the width, mean over held-out tokens. In the figure and the table, latents of one "
    "type alone means that those of the other are held at their means.",
    "A student's error and an autoencoder's can be compared only where both use as many latents: the error at the "
    "autoencoder's L0 is read off the students' errors and L0 along the sweep, on logarithmic axes.",
    "The autoencoder has a coefficient of its own, at which it is sparse; the table says how often its first latents "
    "fire, and the report's.",
)


def _seen(students: dict[float, Any], coder: Any, main: float) -> dict[str, bool]:
    """Tells which parts of the claim are so."""
    low, high = min(students), max(students)
    first, last, equal = students[low], students[high], _at_equal_l0(students, coder)
    n_live, n_sparse = coder["n_live"], students[main]["n_sparse_live"]
    return {
        "the error rises with the coefficient": first["full"]["squared_error"] < last["full"]["squared_error"],
        "simulators do most of the work": first["simulators"]["squared_error"] > first["sparse"]["squared_error"],
        "simulators vanish": last["n_simulators"] < 0.25 * first["n_simulators"],
        "sparse latents do best at a coefficient in between": low < _best(students) < high,
        "latents die as the coefficient grows": last["n_dead"] > first["n_dead"],
        "the student is worse than the autoencoder even at the lowest coefficient": first["full"]["squared_error"]
        > coder["squared_error"],
        "the student is worse than the autoencoder at its L0": equal is not None and equal > coder["squared_error"],
        "about as many live autoencoder latents as live sparse ones": 0.5 * n_live < n_sparse < 2 * n_live,
    }


def _at_equal_l0(students: dict[float, Any], coder: Any) -> float | None:
    """Returns the students' error at the autoencoder's number of active latents."""
    return read_off([(part["l0"], part["full"]["squared_error"]) for part in students.values()], coder["l0"])


def _over(error: float | None, coder: Any) -> str:
    return "-" if error is None else f"{error / coder['squared_error']:.2f}"


def _summary(students: dict[float, Any], coder: Any, main: float) -> str:
    low, high = min(students), max(students)
    first, last, best = students[low], students[high], _best(students)
    error = {name: number(first[name]["squared_error"]) for name in ("full", "simulators", "sparse")}
    return (
        f"From coefficient {low:g} to {high:g} the error goes from {error['full']} to "
        f"{number(last['full']['squared_error'])} and the simulators from "
        f"{share(first['n_simulators'], first['n_latents'])} of the latents to "
        f"{share(last['n_simulators'], last['n_latents'])}. At the lowest coefficient the error is "
        f"{error['simulators']} if only the sparse latents work and {error['sparse']} if only the simulators do. "
        f"Sparse latents alone do best at {best:g}, where {share(students[best]['n_dead'], first['n_latents'])} of the "
        f"latents are dead; at {high:g} it is {share(last['n_dead'], first['n_latents'])}. At the lowest coefficient "
        f"the student's error is {_over(first['full']['squared_error'], coder)} times the autoencoder's, but with "
        f"{first['l0']:.0f} active latents a token against {coder['l0']:.0f}; at the autoencoder's number it would be "
        f"{_over(_at_equal_l0(students, coder), coder)} times. The autoencoder has {coder['n_live']:,} live latents, "
        f"the student at {main:g} {students[main]['n_sparse_live']:,} live sparse ones."
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
            "Figure 5, top: squared error per token, with all latents and with those of one type alone, the others "
            "held at their means. The autoencoder has one coefficient of its own and is drawn as a level.",
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

    def first_100(part: Any) -> str:
        found = part["frequencies"]
        return f"{found['never']}, {found['above_1']}, {found['above_10']}, {found['max']:.1%}"

    return (
        Compared("coefficients of the sweep", "0.1 to 2", ", ".join(f"{c:g}" for c in students)),
        Compared(f"error at the lowest coefficient ({low:g})", "3.3038", number(first["full"]["squared_error"])),
        Compared("error of the autoencoder", "1.0808", number(coder["squared_error"])),
        Compared("their ratio", "3.06", _over(first["full"]["squared_error"], coder)),
        Compared("their L0", "-", f"{first['l0']:.0f}, {coder['l0']:.0f}"),
        Compared("ratio at the autoencoder's L0", "-", _over(_at_equal_l0(students, coder), coder)),
        Compared(
            "error of the sparse latents alone, lowest coefficient",
            "much higher",
            number(first["simulators"]["squared_error"]),
        ),
        Compared("error of the simulators alone, lowest coefficient", "-", number(first["sparse"]["squared_error"])),
        Compared("coefficient at which the sparse latents alone do best", "0.5 to 1.0", f"{_best(students):g}"),
        Compared(
            "simulators along the sweep",
            "fall",
            ", ".join(share(part["n_simulators"], part["n_latents"]) for part in students.values()),
        ),
        Compared(
            "dead along the sweep", "rise", ", ".join(share(p["n_dead"], p["n_latents"]) for p in students.values())
        ),
        Compared("L0 along the sweep", "-", ", ".join(f"{part['l0']:.0f}" for part in students.values())),
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
