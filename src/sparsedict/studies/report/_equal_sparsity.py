"""The negative result, taken on: distillers of today's forms beside autoencoders at equal numbers of active latents."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from sparsedict import figures
from sparsedict.activations import JumpReLU, TopK
from sparsedict.figures import Curve, Palette
from sparsedict.metrics import fvu
from sparsedict.penalties import TargetL0
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._places import mlp
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study, verdict_of
from sparsedict.studies.report._limits import best_choice, best_linear, best_values, own_neurons
from sparsedict.studies.report._parts import modern
from sparsedict.studies.report._ratios import KINDS, counts_of, of_form, ratio, ratio_along

JUMP = (0.03, 0.02)
"""JumpReLU's threshold at the start and its bandwidth, as shares of the output's standard deviation.

A threshold that few latents reach at the start: training is dense, and slow, where many do."""
ACTIVATIONS = ("TopK", "JumpReLU")


class EqualSparsity(Study):
    """How much worse a distiller is than an autoencoder when both may use as many latents."""

    name: ClassVar[str] = "equal-sparsity"
    title: ClassVar[str] = "The negative result, at equal sparsity"
    shows: ClassVar[str] = "The report's conclusion"
    claim: ClassVar[str] = (
        "The student doesn't compare favourably with the autoencoder: its error is 3.06 times as large (3.3038 against "
        "1.0808). The two had different numbers of active latents, and the forms of dictionaries were those of 2023."
    )

    def measure(self, bench: Bench) -> Numbers:
        orders = _orders(bench)
        bench.train(orders.values())
        site = mlp(bench.layer)
        held, neurons = bench.held_out(site), bench.sites[site].neurons
        linear = best_linear(bench.sample(site))
        with bench.phases("losses", f"measuring the model's loss with {len(orders)} dictionaries in turn"):
            points = [{"activation": a, "kind": k, "asked": n, **_point(bench, o)} for (a, k, n), o in orders.items()]
            losses = bench.losses_of(site, linear)
        return {
            "layer": bench.layer,
            "n_tokens": bench.setting.modern.n_tokens,
            "points": points,
            "skip_alone": {
                "fvu": float(fvu(linear(held.inputs).reconstruction, held.outputs)),
                "recovered_zero": losses.zero,
                "recovered_mean": losses.mean,
            },
            "neurons": [{"l0": n, "fvu": own_neurons(neurons, held, n)} for n in bench.setting.counts],
        }

    def found(self, numbers: Numbers) -> Finding:
        points = numbers["points"]
        # The report's claim is that the student is worse.
        worse = [ratio(points, n, kind) > 1.0 for n in counts_of(points) for kind in KINDS[:2]]
        return Finding(verdict_of(worse), _summary(numbers), _rows(numbers), _drawings(numbers), NOTES)


NOTES = (
    "Every dictionary has the same width, tokens and seed. Ratios are of unexplained variance, at the same L0: for "
    "TopK exactly; for JumpReLU, which is trained to a target and reaches it about, the autoencoder's error is read "
    "off its curve, on logarithmic axes, at the L0 that the distiller has on held-out tokens. The curves are drawn "
    "against that L0 too.",
    "Three steps from a distiller to an autoencoder. Values: on each token, the least-squares solution for the latents "
    "that fired there. Choice: latents chosen by matching pursuit, the target in view, and the same solution for "
    "these, which is near the best choice but not it. What is left then is owed to the decoder rows. On the first "
    "2,048 held-out tokens.",
    "The verdict counts the TopK distillers, with the skip and without.",
)


def _orders(bench: Bench) -> dict[tuple[str, str, int], Order]:
    """Returns what is compared, by activation, kind and L0 asked for; JumpReLU at every second L0."""
    site, width = mlp(bench.layer), bench.width(bench.layer)
    variance = bench.variance(site)
    threshold, bandwidth = (float(f"{share * math.sqrt(variance):.3g}") for share in JUMP)
    orders: dict[tuple[str, str, int], Order] = {}
    for kind in KINDS:
        form: dict[str, Any] = {"kind": kind.partition(" ")[0], "skip": "skip" in kind}
        for n in bench.setting.counts:
            orders["TopK", kind, n] = modern(bench, site, width, TopK(n), **form)
        for n in bench.setting.counts[1::2]:
            # So strong that the target and not the error decides.
            penalties = (TargetL0(n, float(f"{4 * variance:.3g}")),)
            jump = JumpReLU(threshold, bandwidth)
            orders["JumpReLU", kind, n] = modern(bench, site, width, jump, penalties=penalties, **form)
    return orders


def _point(bench: Bench, order: Order) -> Numbers:
    """Measures one dictionary."""
    losses, error = bench.losses(order), bench.error(order)
    dictionary, held = bench.dictionary(order), bench.held_out(order.site)
    k = order.activation.k if isinstance(order.activation, TopK) else None
    return {
        "l0": bench.l0(order),
        "fvu": error.fvu,
        "squared_error": error.squared_error,
        "n_dead": bench.firing(order).dead.n_dead,
        "recovered_zero": losses.zero,
        "recovered_mean": losses.mean,
        "fvu_best_values": None if k is None else best_values(dictionary, held, k),
        "fvu_best_choice": None if k is None else best_choice(dictionary, held, k),
    }


def _summary(numbers: Numbers) -> str:
    points, skip = numbers["points"], numbers["skip_alone"]
    counts = counts_of(points)

    def ratios(kind: str, key: str = "fvu") -> str:
        return ", ".join(f"{ratio(points, n, kind, key):.2f}" for n in counts)

    return (
        f"At L0 {', '.join(map(str, counts))}, on equal tokens, the TopK distiller's error is {ratios('distiller')} "
        f"times the autoencoder's, and with a linear skip {ratios('distiller with skip')}; the skip alone leaves "
        f"{skip['fvu']:.2f} of the variance and recovers {skip['recovered_mean']:.0%} of the loss. {_of_jumps(points)} "
        f"What holds the plain TopK ratio up: if each takes the best values for the latents that it chose, it is "
        f"{ratios('distiller', 'fvu_best_values')}; if each chooses its latents with the target in view too, "
        f"{ratios('distiller', 'fvu_best_choice')}. {_why(points, counts)}"
    )


def _of_jumps(points: list[Numbers]) -> str:
    """Says what the ratios are with JumpReLU, at the L0 that its distillers reach."""
    told = {}
    for kind in KINDS[:2]:
        known = {p["l0"]: ratio_along(points, p) for p in of_form(points, "JumpReLU", kind)}
        told[kind] = ", ".join(f"{value:.2f} at {l0:.1f}" for l0, value in known.items() if value is not None)
    if not all(told.values()):
        return "JumpReLU was trained to one L0 only, so that its ratio at equal L0 isn't known."
    plain, skipped = told.values()
    return f"With JumpReLU it is {plain}, and with the skip {skipped}."


def _why(points: list[Numbers], counts: list[int]) -> str:
    """Says to which of the three steps most of the ratio is owed, by their shares of its logarithm, at each L0.

    To none of them where the others undo more than half of it.
    """
    owed: dict[str, list[int]] = {}
    undone: dict[str, list[int]] = {}
    for n in counts:
        plain, values, choice = (
            math.log(ratio(points, n, "distiller", key)) for key in ("fvu", "fvu_best_values", "fvu_best_choice")
        )
        steps = {VALUES: plain - values, CHOICE: values - choice, ROWS: choice}
        most = max(steps, key=lambda step: steps[step])
        if plain > 0 and plain < steps[most] / 2:
            undone.setdefault(most, []).append(n)
        elif plain > 0:
            owed.setdefault(most, []).append(n)
    if not owed and not undone:
        return "Nothing holds the plain distiller's error up: it is no larger than the autoencoder's."
    told = [f"{step} at L0 {_listed(at)}" for step, at in owed.items()]
    why = [f"What holds it up most is {'; '.join(told)}."] if told else []
    why += [f"At L0 {_listed(at)} it is {step} most of which the others undo." for step, at in undone.items()]
    return " ".join(why)


def _listed(counts: list[int]) -> str:
    return ", ".join(map(str, counts))


VALUES = "the encoder's values, which it must find through the MLP's nonlinearity,"
CHOICE = "the choice of latents, which the autoencoder makes with the answer in view,"
ROWS = "the decoder's rows,"


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    points, skip = numbers["points"], numbers["skip_alone"]
    counts = counts_of(points)
    keys = {
        "error over the autoencoder's": "fvu",
        "the same with the best values": "fvu_best_values",
        "the same with latents chosen in view of the target": "fvu_best_choice",
    }
    ratios = [
        Compared(f"{what}, {kind}, L0 {n}", "3.06" if key == "fvu" else "-", f"{ratio(points, n, kind, key):.2f}")
        for kind in KINDS[:2]
        for what, key in keys.items()
        for n in counts
    ]
    return (*ratios, *_jump_rows(points), *map(_told, points), *_plainer(numbers["neurons"], skip))


def _jump_rows(points: list[Numbers]) -> list[Compared]:
    rows = []
    for kind in KINDS[:2]:
        for p in of_form(points, "JumpReLU", kind):
            found = ratio_along(points, p)
            if found is not None:
                what = f"error over the autoencoder's, JumpReLU {kind}, L0 {p['l0']:.1f}"
                rows.append(Compared(what, "3.06", f"{found:.2f}"))
    return rows


def _told(p: Numbers) -> Compared:
    what = f"{p['activation']} {p['kind']}, asked for {p['asked']}: L0, FVU, loss recovered (mean)"
    return Compared(what, "-", f"{p['l0']:.1f}, {p['fvu']:.4f}, {p['recovered_mean']:.1%}")


def _plainer(neurons: list[Numbers], skip: Numbers) -> list[Compared]:
    counts, errors = ", ".join(str(p["l0"]) for p in neurons), ", ".join(f"{p['fvu']:.3f}" for p in neurons)
    return [
        Compared("the skip alone: FVU, loss recovered (mean)", "-", f"{skip['fvu']:.4f}, {skip['recovered_mean']:.1%}"),
        Compared(f"the MLP's own neurons, the strongest {counts} on each token: FVU", "-", errors),
    ]


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    points = numbers["points"]
    counts = counts_of(points)
    ratios = {
        kind: Curve(counts, [ratio(points, n, kind) for n in counts], Palette.DISTILLER, dashed="skip" in kind)
        for kind in KINDS[:2]
    }
    drawings = {
        "equal-sparsity-ratio": Drawing(
            lambda: figures.curves(
                ratios, L0_LABEL, "error over the autoencoder's", x_scale="log", levels={"equal": 1.0}
            ),
            "The distiller's unexplained variance over the autoencoder's, TopK. The report's ratio was 3.06.",
        )
    }
    for activation in ACTIVATIONS:
        for key, (name, label) in MEASURES.items():
            drawings[f"equal-sparsity-{name}-{activation.lower()}"] = _curves(numbers, activation, key, label)
    return drawings


L0_LABEL = "active latents per token (L0)"
MEASURES = {"fvu": ("error", "variance unexplained (FVU)"), "recovered_mean": ("loss", "loss recovered, mean (%)")}


def _curves(numbers: Numbers, activation: str, key: str, label: str) -> Drawing:
    scale, y_scale = (1.0, "log") if key == "fvu" else (100.0, "linear")
    drawn: dict[str, Curve] = {}
    for kind in KINDS:
        of = of_form(numbers["points"], activation, kind)
        colour = Palette.AUTOENCODER if kind == "autoencoder" else Palette.DISTILLER
        drawn[kind] = Curve([p["l0"] for p in of], [scale * p[key] for p in of], colour, dashed="skip" in kind)
    if key == "fvu":
        own = numbers["neurons"]
        drawn["own neurons"] = Curve([p["l0"] for p in own], [p["fvu"] for p in own], Palette.NULL, dashed=True)
    levels = {"skip alone": scale * numbers["skip_alone"][key]}
    what = "Error" if key == "fvu" else "Loss recovered"
    beside = "the skip alone and the MLP's own strongest neurons" if key == "fvu" else "the skip alone"
    return Drawing(
        lambda: figures.curves(drawn, L0_LABEL, label, x_scale="log", y_scale=y_scale, levels=levels),
        f"{what} against L0 with {activation}, beside {beside}.",
    )
