"""The negative result of the report in every layer: the MLPs for which autoencoders have smaller errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from sparsedict import figures
from sparsedict.activations import TopK
from sparsedict.display import shown
from sparsedict.figures import Palette
from sparsedict.metrics import fvu

from ..claims import Above, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import measured, told
from ..experiment import Experiment
from ..sites import mlp
from ..study import Compared, Drawing, Finding, Numbers, Study
from .limits import best_linear
from .parts import Part, along, by_seed, curve, modern, row
from .ratios import FAR, KINDS, RATIO_LABEL, ratio_of


class EveryLayer(Study):
    """A test of whether distillers have larger errors than autoencoders in all layers, at the same L0."""

    name: ClassVar[str] = "every-layer"
    title: ClassVar[str] = "The negative result, in every layer"
    shows: ClassVar[str] = "The report's conclusion"
    claim: ClassVar[str] = (
        "The student has a larger error than the autoencoder: 3.06 times as large. The report has this result for one "
        "layer."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        specs = {f"{_place(n)}, {kind}": _order(experiment, n, kind) for n in experiment.layers for kind in KINDS}
        seeds = by_seed(experiment, specs, _measure)
        alone = {}
        for layer in experiment.layers:
            held = experiment.held_out(mlp(layer))
            linear = best_linear(experiment.sample(mlp(layer)))(held.inputs).reconstruction
            alone[layer] = float(fvu(linear, held.outputs))
        return {
            "k": experiment.setting.count,
            "n_tokens": experiment.setting.modern.n_tokens,
            "layers": experiment.layers,
            "measured": measured(seeds),
            "skip_alone": alone,
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        return [
            Clause(f"{_place(n)}: the error is {how} the autoencoder's: ratio", ratio_of(_place(n), "distiller"),
                   Above(bound), "3.06")
            for how, bound in (("above", 1), ("far above", FAR))
            for n in numbers["layers"]
        ]  # fmt: skip

    def found(self, numbers: Numbers) -> Finding:
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(numbers), NOTES)


NOTES = (
    "All dictionaries use TopK. Dictionaries of one layer have the same width and number of training tokens. The "
    "dictionaries of the main layer are those of the section on equal sparsity. Ratios are of unexplained variance, "
    "separately for each seed. The clauses concern distillers without a skip connection. The report's two "
    "dictionaries had different numbers of active latents.",
)


def _place(layer: int) -> str:
    return f"layer {layer}"


def _named(layer: int, kind: str, key: str) -> str:
    return f"{_place(layer)}, {kind}: {key}"


def _order(experiment: Experiment, layer: int, kind: str) -> DictionarySpec:
    form = {"kind": kind.partition(" ")[0], "skip": "skip" in kind}
    return modern(experiment, mlp(layer), experiment.width(layer), TopK(experiment.setting.count), **form)


def _measure(experiment: Experiment, spec: DictionarySpec) -> Part:
    return {"FVU": experiment.error(spec).fvu, "dead": experiment.firing(spec).dead.n_dead / spec.n_latents}


def _summary(numbers: Numbers) -> str:
    known, layers = numbers["measured"], numbers["layers"]

    def ratios(kind: str) -> str:
        return "; ".join(told(known, ratio_of(_place(n), kind), ".2f") for n in layers)

    alone = ", ".join(shown(error, ".2f") for error in numbers["skip_alone"].values())
    return (
        f"With {numbers['k']} active latents, in layers {', '.join(map(str, layers))}, the error of the distiller is "
        f"{ratios('distiller')} times that of the autoencoder. With a linear skip connection, it is "
        f"{ratios('distiller with skip')} times as large. The skip connection alone leaves {alone} of the variance "
        "unexplained."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known, layers = numbers["measured"], numbers["layers"]
    ratios = [
        row(known, f"error over the autoencoder's, {kind}, layer {n}", ratio_of(_place(n), kind), "3.06", ".2f")
        for kind in KINDS[:2]
        for n in layers
    ]
    parts = [
        Compared(f"{key}, {kind}, layer by layer", "-", along(known, [_named(n, kind, key) for n in layers], form))
        for key, form in (("FVU", ".4f"), ("dead", ".1%"))
        for kind in KINDS
    ]
    alone = ", ".join(shown(error, ".4f") for error in numbers["skip_alone"].values())
    return (*ratios, *parts, Compared("FVU, skip alone, layer by layer", "-", alone))


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    known = numbers["measured"]
    found = {
        kind: curve(known, {n: ratio_of(_place(n), kind) for n in numbers["layers"]}, colour)
        for kind, colour in zip(KINDS, (Palette.DISTILLER, Palette.ENCODER), strict=False)
    }
    drawn = {name: of for name, of in found.items() if of is not None}
    return {
        "every-layer-ratio": Drawing(
            lambda: figures.curves(drawn, "layer", RATIO_LABEL, levels={"equal": 1.0}),
            f"Unexplained variance of the distiller over that of the autoencoder in each layer, TopK({numbers['k']}). "
            "Means over the seeds with 95 % intervals.",
        )
    }
