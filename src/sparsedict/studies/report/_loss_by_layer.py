"""The comment's result: loss recovered in every layer as the L1 coefficient grows."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from sparsedict import figures
from sparsedict.figures import Curve
from sparsedict.studies._bench import Bench
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import counts, student, typed

Layers = dict[str, dict[float, Numbers]]
"""By layer, then by coefficient."""


class LossByLayer(Study):
    """How much of the model's loss the student of each layer keeps, and how many of its latents are simulators."""

    name: ClassVar[str] = "loss-by-layer"
    title: ClassVar[str] = "Loss recovered in every layer"
    shows: ClassVar[str] = "A comment on the report"
    claim: ClassVar[str] = (
        "In a four-layer model without norms, students of 20,000 ReLU latents under a stronger L1 recover 96, 93, 81 "
        "and 86 % of the loss (base 1.128; zero-ablated 3.72, 1.84, 1.56, 2.07), while simulators are nearly gone. At "
        "low coefficients there are simulators in every layer but the first, and ever fewer as the coefficient grows."
    )

    def measure(self, bench: Bench) -> Numbers:
        chosen = _spread(bench.setting.coefficients)
        orders = {(layer, c): student(bench, layer, c) for layer in bench.layers for c in chosen}
        bench.train(orders.values())
        found: Numbers = {"coefficients": chosen, "of": {layer: {} for layer in bench.layers}}
        with bench.phases("losses", f"measuring the model's loss with {len(orders)} students in turn"):
            for (layer, c), order in orders.items():
                losses = bench.losses(order)
                found["of"][layer][c] = {
                    **counts(*typed(bench, order)),
                    "coefficient": bench.coefficient(c, layer),
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
        gone, kept = _gone(of), _kept(of)
        everywhere = len(gone) == len(kept) == len(of)
        verdict = "seen" if everywhere else "partly seen" if gone or kept else "not seen"
        return Finding(verdict, _summary(of, gone, kept), _rows(of), _drawings(of), _notes(of))


GONE, KEPT = 0.1, 0.7
"""Of the simulators at the lowest coefficient, and of the loss: what counts as nearly gone, and as recovered."""


def _gone(of: Layers) -> list[str]:
    """Returns the layers whose simulators are nearly gone at the highest coefficient."""
    ends = {n: [part["n_simulators"] for part in (parts[min(parts)], parts[max(parts)])] for n, parts in of.items()}
    return [n for n, (first, last) in ends.items() if last <= GONE * first]


def _kept(of: Layers) -> list[str]:
    """Returns the layers that recover most of the loss at the highest coefficient."""
    return [n for n, parts in of.items() if parts[max(parts)]["recovered_zero"] >= KEPT]


def _summary(of: Layers, gone: list[str], kept: list[str]) -> str:
    coefficients = list(next(iter(of.values())))
    low, high = min(coefficients), max(coefficients)
    return (
        f"In layers {', '.join(of)}, the loss recovered goes from {_each(of, low, 'recovered_zero')} % at coefficient "
        f"{low:g} to {_each(of, high, 'recovered_zero')} % at {high:g}, and the simulators from "
        f"{_simulators(of, low)} % of the latents to {_simulators(of, high)} %. At {high:g} the simulators are nearly "
        f"gone (a tenth of what they were, or fewer) in {len(gone)} of {len(of)} layers, and {KEPT:.0%} of the loss or "
        f"more is recovered in {len(kept)}."
    )


def _rows(of: Layers) -> tuple[Compared, ...]:
    coefficients = list(next(iter(of.values())))
    high = max(coefficients)
    some = next(iter(of.values()))[high]
    measured = {
        "loss recovered (%)": ("96, 93, 81, 86", lambda c: _each(of, c, "recovered_zero")),
        "loss recovered against the mean output (%)": ("-", lambda c: _each(of, c, "recovered_mean")),
        "simulators (%)": ("nearly none", lambda c: _simulators(of, c)),
        "active latents per token (L0)": ("-", lambda c: ", ".join(f"{parts[c]['l0']:.0f}" for parts in of.values())),
    }
    zeroed = ", ".join(f"{parts[high]['loss_zero_ablated']:.2f}" for parts in of.values())
    return (
        *(
            Compared(f"{what}, coefficient {c:g}", report if c == high else "-", told(c))
            for what, (report, told) in measured.items()
            for c in coefficients
        ),
        Compared("loss of the model", "1.128", f"{some['loss_base']:.3f}"),
        Compared("loss with one MLP zeroed", "3.72, 1.84, 1.56, 2.07", zeroed),
    )


def _drawings(of: Layers) -> dict[str, Drawing]:
    label = "L1 coefficient in the main layer, per token"

    def drawn(share: Callable[[Numbers], float]) -> dict[str, Curve]:
        return {f"layer {n}": Curve(list(parts), [100 * share(p) for p in parts.values()]) for n, parts in of.items()}

    recovered = drawn(lambda part: part["recovered_zero"])
    simulators = drawn(lambda part: part["n_simulators"] / part["n_latents"])
    return {
        "comment-loss-recovered": Drawing(
            lambda: figures.curves(recovered, label, "loss recovered (%)", x_scale="log"),
            "Loss recovered, against zero in the MLP's place.",
        ),
        "comment-simulators": Drawing(
            lambda: figures.curves(simulators, label, "simulators (%)", x_scale="log"),
            "Simulators among the latents of the same students.",
        ),
    }


def _notes(of: Layers) -> tuple[str, ...]:
    some = next(iter(next(iter(of.values())).values()))
    return (
        "Where several numbers stand in a row, they are the layers', in order. The coefficient is that of the main "
        "layer; in the others it is scaled with the standard deviation of the output, which balances error and penalty "
        f"alike. Losses on {some['n_tokens']:,} held-out tokens.",
    )


N_COEFFICIENTS = 3


def _spread(coefficients: tuple[float, ...]) -> list[float]:
    """Chooses a few of the sweep's coefficients: the first, and not the last, which leaves hardly a latent alive."""
    among = coefficients[:-1] if len(coefficients) > 2 else coefficients
    n = min(N_COEFFICIENTS, len(among))
    return [among[round(i * (len(among) - 1) / (n - 1))] for i in range(n)]


def _each(of: Layers, c: float, key: str) -> str:
    return ", ".join(f"{100 * parts[c][key]:.1f}" for parts in of.values())


def _simulators(of: Layers, c: float) -> str:
    return ", ".join(f"{100 * parts[c]['n_simulators'] / parts[c]['n_latents']:.1f}" for parts in of.values())
