"""The comment's result: loss recovered in every layer as the L1 coefficient grows."""

from __future__ import annotations

from typing import ClassVar

from sparsedict import figures
from sparsedict.figures import Curve
from sparsedict.studies._bench import Bench
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import counts, student, typed


class LossByLayer(Study):
    """How much of the model's loss the student of each layer keeps, and how many of its latents are simulators."""

    name: ClassVar[str] = "loss-by-layer"
    title: ClassVar[str] = "Loss recovered in every layer"
    shows: ClassVar[str] = "A comment on the report"
    claim: ClassVar[str] = (
        "In a four-layer model without norms, students of 20,000 ReLU latents under a stronger L1 recover 96, 93, 81 "
        "and 86 % of the loss (base 1.128; zero-ablated 3.72, 1.84, 1.56, 2.07), while simulators are nearly gone: "
        "it is there at low coefficients in every layer but the first, and goes as the coefficient grows."
    )

    def measure(self, bench: Bench) -> Numbers:
        chosen = _spread(bench.setting.coefficients)
        orders = {(layer, c): student(bench, layer, c) for layer in bench.layers for c in chosen}
        bench.train(orders.values())
        found: Numbers = {"coefficients": chosen, "of": {layer: {} for layer in bench.layers}}
        with bench.phases("losses", f"measuring the model's loss with {len(orders)} students in turn"):
            for (layer, c), order in orders.items():
                losses = bench.losses(order)
                match, types, firing = typed(bench, order)
                found["of"][layer][c] = {
                    **counts(match, types, firing),
                    "coefficient": float(getattr(order.penalties[0], "coefficient")),  # noqa: B009
                    "l0": bench.l0(order),
                    "fvu": bench.error(order).fvu,
                    "recovered_zero": losses.zero,
                    "recovered_mean": losses.mean,
                    "loss_base": losses.base,
                    "loss_zero_ablated": losses.zero_ablated,
                    "n_tokens": losses.n_tokens,
                }
        return found

    def found(self, numbers: Numbers) -> Finding:
        of = {layer: {float(c): part for c, part in parts.items()} for layer, parts in numbers["of"].items()}
        low, high = min(numbers["coefficients"]), max(numbers["coefficients"])

        def drawn(key: str) -> dict[str, Curve]:
            scale = {"n_simulators": lambda p: 100 * p[key] / p["n_latents"]}.get(key, lambda p: 100 * p[key])
            return {f"layer {n}": Curve(list(parts), [scale(p) for p in parts.values()]) for n, parts in of.items()}

        label = "L1 coefficient in the main layer, per token"
        drawings = {
            "comment-loss-recovered": Drawing(
                lambda: figures.curves(drawn("recovered_zero"), label, "loss recovered (%)", x_scale="log"),
                "Loss recovered, against zero in the MLP's place.",
            ),
            "comment-simulators": Drawing(
                lambda: figures.curves(drawn("n_simulators"), label, "simulators (%)", x_scale="log"),
                "Simulators among the latents of the same students.",
            ),
        }
        falls = {n: parts[high]["n_simulators"] < 0.5 * parts[low]["n_simulators"] for n, parts in of.items()}
        falling = [n for n, fell in falls.items() if fell]
        summary = (
            f"From the lowest to the highest coefficient, the loss recovered goes from "
            f"{_each(of, low, 'recovered_zero')} % to {_each(of, high, 'recovered_zero')} % in layers {', '.join(of)}, "
            f"and the simulators from {_simulators(of, low)} % to {_simulators(of, high)} %. "
            f"They fall by half or more in {len(falling)} of {len(of)} layers."
        )
        some = next(iter(of.values()))[low]
        rows = (
            *(
                Compared(
                    f"loss recovered (%), coefficient {c:g}",
                    "96, 93, 81, 86" if c == high else "-",
                    _each(of, c, "recovered_zero"),
                )
                for c in numbers["coefficients"]
            ),
            *(
                Compared(f"simulators (%), coefficient {c:g}", "nearly none" if c == high else "-", _simulators(of, c))
                for c in numbers["coefficients"]
            ),
            *(
                Compared(f"L0, coefficient {c:g}", "-", ", ".join(f"{parts[c]['l0']:.0f}" for parts in of.values()))
                for c in numbers["coefficients"]
            ),
            Compared("loss of the model", "1.128", f"{some['loss_base']:.3f}"),
            Compared(
                "loss with one MLP zeroed",
                "3.72, 1.84, 1.56, 2.07",
                ", ".join(f"{p[low]['loss_zero_ablated']:.2f}" for p in of.values()),
            ),
        )
        notes = (
            "The coefficient is that of the main layer; in the others it is scaled with the standard deviation of the "
            f"output, which balances error and penalty alike. Losses on {some['n_tokens']:,} held-out tokens.",
        )
        verdict = "seen" if len(falling) == len(of) else "partly seen" if falling else "not seen"
        return Finding(verdict, summary, rows, drawings, notes)


N_COEFFICIENTS = 3


def _spread(coefficients: tuple[float, ...]) -> list[float]:
    """Chooses a few of the sweep's coefficients, first and last among them."""
    last = len(coefficients) - 1
    n = min(N_COEFFICIENTS, len(coefficients))
    return [coefficients[round(i * last / (n - 1))] for i in range(n)]


def _each(of: dict[str, dict[float, Numbers]], c: float, key: str) -> str:
    return ", ".join(f"{100 * parts[c][key]:.1f}" for parts in of.values())


def _simulators(of: dict[str, dict[float, Numbers]], c: float) -> str:
    return ", ".join(f"{100 * parts[c]['n_simulators'] / parts[c]['n_latents']:.1f}" for parts in of.values())
