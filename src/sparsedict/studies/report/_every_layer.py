"""The negative result in every layer: which MLPs an autoencoder takes apart with less error than a distiller."""

from __future__ import annotations

from typing import ClassVar

from sparsedict import figures
from sparsedict.activations import TopK
from sparsedict.figures import Curve, Palette
from sparsedict.metrics import fvu
from sparsedict.studies._bench import Bench
from sparsedict.studies._places import mlp
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study, verdict_of
from sparsedict.studies.report._limits import best_linear
from sparsedict.studies.report._parts import modern
from sparsedict.studies.report._ratios import KINDS


class EveryLayer(Study):
    """Whether a distiller's error is larger than an autoencoder's in other layers too, at one number of latents."""

    name: ClassVar[str] = "every-layer"
    title: ClassVar[str] = "The negative result, in every layer"
    shows: ClassVar[str] = "The report's conclusion"
    claim: ClassVar[str] = (
        "The student doesn't compare favourably with the autoencoder: its error is 3.06 times as large."
    )

    def measure(self, bench: Bench) -> Numbers:
        k = bench.setting.count
        orders = {
            (layer, kind): modern(
                bench,
                mlp(layer),
                bench.width(layer),
                TopK(k),
                kind=kind.partition(" ")[0],
                skip="skip" in kind,
            )
            for layer in bench.layers
            for kind in KINDS
        }
        bench.train(orders.values())
        of: Numbers = {str(layer): {} for layer in bench.layers}
        with bench.phases("losses", f"measuring the model's loss with {len(orders)} dictionaries in turn"):
            for (layer, kind), order in orders.items():
                losses = bench.losses(order)
                of[str(layer)][kind] = {
                    "fvu": bench.error(order).fvu,
                    "recovered_zero": losses.zero,
                    "recovered_mean": losses.mean,
                    "n_dead": bench.firing(order).dead.n_dead,
                }
        for layer in bench.layers:
            held = bench.held_out(mlp(layer))
            linear = best_linear(bench.sample(mlp(layer)))(held.inputs).reconstruction
            of[str(layer)]["skip alone"] = {"fvu": float(fvu(linear, held.outputs))}
        return {"k": k, "n_tokens": bench.setting.modern.n_tokens, "of": of}

    def found(self, numbers: Numbers) -> Finding:
        ratios = {kind: _ratios(numbers, kind) for kind in KINDS[:2]}
        worse = [value > 1.0 for value in ratios["distiller"].values()]
        drawings = _drawings(ratios, numbers["k"])
        return Finding(verdict_of(worse), _summary(numbers, ratios), _rows(numbers, ratios), drawings, NOTES)


NOTES = (
    "TopK; every dictionary of a layer has the same width, tokens and seed. The main layer's are those of the section "
    "above. Ratios are of unexplained variance. The verdict is on the distillers without a skip; the report's two had "
    "different numbers of active latents.",
)


def _ratios(numbers: Numbers, kind: str) -> dict[int, float]:
    """Returns a distiller's error over the autoencoder's, by layer."""
    return {int(layer): parts[kind]["fvu"] / parts["autoencoder"]["fvu"] for layer, parts in numbers["of"].items()}


def _summary(numbers: Numbers, ratios: dict[str, dict[int, float]]) -> str:
    plain, skipped = ratios.values()
    better = [str(layer) for layer, value in plain.items() if value <= 1.0]
    kept = {
        kind: ", ".join(f"{100 * parts[kind]['recovered_mean']:.1f}" for parts in numbers["of"].values())
        for kind in KINDS
    }
    alone = ", ".join(f"{parts['skip alone']['fvu']:.2f}" for parts in numbers["of"].values())
    where = f"no larger in layer {', '.join(better)}" if better else "larger in every layer"
    return (
        f"With {numbers['k']} active latents, in layers {', '.join(map(str, plain))}, the distiller's error is "
        f"{_each(plain)} times the autoencoder's, and with a linear skip {_each(skipped)}: without a skip it is "
        f"{where}. The skip alone leaves {alone} of the variance. Put into the model, the distillers recover "
        f"{kept['distiller']} % of the loss (mean), with the skip {kept['distiller with skip']} %, the autoencoders "
        f"{kept['autoencoder']} %."
    )


def _each(ratios: dict[int, float]) -> str:
    return ", ".join(f"{value:.2f}" for value in ratios.values())


def _rows(numbers: Numbers, ratios: dict[str, dict[int, float]]) -> tuple[Compared, ...]:
    of = numbers["of"]
    rows = [
        Compared(f"error over the autoencoder's, {kind}, layer {layer}", "3.06", f"{value:.2f}")
        for kind, values in ratios.items()
        for layer, value in values.items()
    ]
    for kind in (*KINDS, "skip alone"):
        errors = ", ".join(f"{parts[kind]['fvu']:.4f}" for parts in of.values())
        rows.append(Compared(f"variance unexplained (FVU), {kind}, layers {', '.join(of)}", "-", errors))
    for kind in KINDS:
        dead = ", ".join(f"{parts[kind]['n_dead']:,}" for parts in of.values())
        rows.append(Compared(f"dead latents, {kind}, layers {', '.join(of)}", "-", dead))
    return tuple(rows)


def _drawings(ratios: dict[str, dict[int, float]], k: int) -> dict[str, Drawing]:
    drawn = {
        kind: Curve(list(values), list(values.values()), Palette.DISTILLER, dashed="skip" in kind)
        for kind, values in ratios.items()
    }
    return {
        "every-layer-ratio": Drawing(
            lambda: figures.curves(drawn, "layer", "error over the autoencoder's", levels={"equal": 1.0}),
            f"The distiller's unexplained variance over the autoencoder's, layer by layer; TopK({k}) in all.",
        )
    }
