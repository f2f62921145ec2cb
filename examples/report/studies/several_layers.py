"""The report's last question: whether sparse distillation captures features that several layers compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor

import sparsedict as sd
from sparsedict import figures
from sparsedict.figures import Palette
from sparsedict.sites import Constant

from ..claims import Above, Below, Clause
from ..estimates import Difference, Quantity, Ratio, measured, told
from ..experiment import Experiment
from ..layer_latents import LiveLatents, duplicates, merged, written_later
from ..layers_spec import LayersSpec
from ..losses import SequenceLosses, losses_within, recovered, sampling_error
from ..sites import mlp
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import AUXK, Part, along, curve, row

KINDS: Mapping[str, sd.DecoderLayout] = {"per layer": sd.NextLayers(0), "cross layer": sd.LaterLayers()}
COLOURS = (Palette.DISTILLER, Palette.ENCODER)
WORDS = {
    "duplicates": "latents with a duplicate in another layer",
    "duplicates, other tokens": "the same on shifted tokens",
    "near copies": "latents with a near copy in another layer",
    "near copies, permuted": "the same with permuted columns",
    "live": "live latents",
}
LATER = {
    "later": "cross layer: latents that mainly write to later layers, by decoder norm",
    "later, by firings": "cross layer: the same, weighted by firing frequency",
    "later, random rows": "cross layer: the same with random decoder rows",
}
PAIRS = {
    "pairs": "pairs of duplicates of single layers",
    "merged": "of these, merged in one latent of the cross-layer distiller",
    "merged, other latent": "the same with another latent",
}
OFTEN, SOME = 0.05, 0.1
"""Shares of latents with a duplicate, and of latents that write to later layers, above which they aren't rare."""


class SeveralLayers(Study):
    """A comparison of a distiller for each layer with one distiller whose latents also write to later layers."""

    name: ClassVar[str] = "several-layers"
    title: ClassVar[str] = "Features of several layers"
    shows: ClassVar[str] = "The report's further questions"
    claim: ClassVar[str] = (
        "The report sees no clear way to capture features of several layers by sparse MLP distillation. A cross-layer "
        "distiller is such a way, if distillers of single layers have duplicates of each other's latents, latents of "
        "the cross-layer distiller write to later layers and have fewer duplicates, its error is smaller at the same "
        "L0, and the model recovers more of its loss with all MLPs replaced."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        specs = {kind: _spec(experiment, layout) for kind, layout in KINDS.items()}
        repeated = {kind: experiment.repeated(spec) for kind, spec in specs.items()}
        experiment.train(spec for own in repeated.values() for spec in own)
        by_seed = [
            _measure(experiment, {kind: own[index] for kind, own in repeated.items()})
            for index in range(experiment.setting.n_seeds)
        ]
        sampling = _losses(experiment, repeated, by_seed)
        return {
            "k": experiment.setting.count,
            "layers": experiment.layers,
            "n_latents": specs["per layer"].n_latents,
            "n_tokens": int(experiment.predicted.sum()),
            "measured": measured(by_seed, sampling),
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        fewer, smaller = (Ratio(f"cross layer: {key}", f"per layer: {key}") for key in ("duplicates", "FVU"))
        better = Difference("cross layer: loss recovered", "per layer: loss recovered")
        return [
            Clause("per layer: latents with a duplicate in another layer", Quantity("per layer: duplicates"),
                   Above(OFTEN), form=".1%"),
            Clause("cross layer: latents that mainly write to later layers", Quantity("cross layer: later"),
                   Above(SOME), form=".1%"),
            Clause("the cross-layer distiller has fewer duplicates: ratio", fewer, Below(1)),
            Clause("the cross-layer distiller has a smaller error: ratio", smaller, Below(1)),
            Clause("the cross-layer distiller recovers more of the loss: difference", better, Above(0), form=".1%"),
        ]  # fmt: skip

    def found(self, numbers: Numbers) -> Finding:
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(numbers), _notes(numbers))


def _spec(experiment: Experiment, layout: sd.DecoderLayout) -> LayersSpec:
    setting, names = experiment.setting, tuple(mlp(layer) for layer in experiment.layers)
    activation = sd.PerLayer(sd.BatchTopK(setting.count))
    return LayersSpec(names, experiment.width(experiment.layer), setting.modern, activation, layout, (AUXK,), skip=True)


def _measure(experiment: Experiment, specs: Mapping[str, LayersSpec]) -> Part:
    """Returns the numbers of one seed, except losses."""
    batch = sd.Activations(
        {
            f"{mlp(layer)}.{role}": getattr(experiment.held_out(mlp(layer)), role)
            for layer in experiment.layers
            for role in ("inputs", "outputs")
        }
    )
    latents: dict[str, LiveLatents] = {}
    found: Part = {}
    for kind, spec in specs.items():
        dictionary = experiment.dictionary(spec)
        assert isinstance(dictionary, sd.CrossLayerDistiller)
        latents[kind] = LiveLatents.measure(dictionary, batch)
        errors = _errors(dictionary, batch)
        own: Part = {f"FVU, layer {layer}": error for layer, error in zip(experiment.layers, errors, strict=True)}
        own |= {"FVU": fmean(errors), **latents[kind].shares(), **duplicates(latents[kind])}
        found |= {f"{kind}: {key}": value for key, value in own.items()}
    cross = latents["cross layer"]
    pairs = merged(latents["per layer"], cross)
    return found | {f"cross layer: {key}": value for key, value in (written_later(cross) | pairs).items()}


@torch.no_grad()
def _errors(dictionary: sd.CrossLayerDistiller, batch: sd.Activations) -> list[float]:
    """Returns the FVU of each layer."""
    inputs, targets = dictionary.select(batch)
    both: list[tuple[Tensor, ...]] = [
        part.split(dictionary.output_widths, dim=-1) for part in (dictionary(inputs).reconstruction, targets)
    ]
    return [float(sd.metrics.fvu(own, target)) for own, target in zip(*both, strict=True)]


def _losses(
    experiment: Experiment, specs: Mapping[str, Sequence[LayersSpec]], by_seed: Sequence[Part]
) -> dict[str, float]:
    """Adds the loss recovered with all MLPs replaced. Returns the common sampling errors."""
    sites = sd.Sites({mlp(layer): experiment.sites[mlp(layer)] for layer in experiment.layers})
    first = sites[mlp(experiment.layer)]

    def run(x: object) -> SequenceLosses:
        return losses_within(first, experiment.loss_tokens, experiment.predicted, lambda: sites.replaced(x))

    with experiment.phases("losses", "measuring the model's loss with all MLPs replaced"):
        base = experiment.ablations(mlp(experiment.layer)).base
        means = {name: experiment.held_out(name).outputs.float().mean(0) for name in sites}
        against = {
            "loss recovered": run({name: Constant(torch.zeros_like(mean)) for name, mean in means.items()}),
            "loss recovered against the mean output": run({name: Constant(mean) for name, mean in means.items()}),
        }
        sampling: dict[str, float] = {}
        for kind, repeated in specs.items():
            losses = [run(experiment.dictionary(spec)) for spec in repeated]
            for key, worst in against.items():
                for part, own in zip(by_seed, losses, strict=True):
                    part[f"{kind}: {key}"] = recovered(own, base, worst)
                sampling[f"{kind}: {key}"] = sampling_error(losses, base, worst)
    return sampling


def _summary(numbers: Numbers) -> str:
    known = numbers["measured"]
    fewer, smaller = (Ratio(f"cross layer: {key}", f"per layer: {key}") for key in ("duplicates", "FVU"))
    return (
        f"With all MLPs replaced and {numbers['k']} active latents per layer, distillers of single layers recover "
        f"{told(known, 'per layer: loss recovered', '.1%')} of the loss and the cross-layer distiller "
        f"{told(known, 'cross layer: loss recovered', '.1%')}. The error of the cross-layer distiller is "
        f"{told(known, smaller, '.2f')} times as large. {told(known, 'cross layer: later', '.1%')} of its latents "
        f"mainly write to later layers. It has {told(known, fewer, '.2f')} times as many latents with a duplicate in "
        "another layer."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known, layers = numbers["measured"], numbers["layers"]
    shares = ("loss recovered", "loss recovered against the mean output", "duplicates", "duplicates, other tokens",
              "near copies", "near copies, permuted", "live")  # fmt: skip
    both = [row(known, f"{WORDS.get(key, key)}, {kind}", f"{kind}: {key}", form=".1%")
            for key in shares for kind in KINDS]  # fmt: skip
    later = [row(known, words, f"cross layer: {key}", form=".1%") for key, words in LATER.items()]
    pairs = [row(known, words, f"cross layer: {key}", form=".0f") for key, words in PAIRS.items()]
    errors = [
        Compared(f"FVU, {kind}, layer by layer", "-", along(known, [f"{kind}: FVU, layer {n}" for n in layers], ".3f"))
        for kind in KINDS
    ]
    return (*both, *later, *pairs, *errors)


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    known = numbers["measured"]
    found = {
        kind: curve(known, {n: f"{kind}: FVU, layer {n}" for n in numbers["layers"]}, colour)
        for kind, colour in zip(KINDS, COLOURS, strict=True)
    }
    drawn = {kind: of for kind, of in found.items() if of is not None}
    return {
        "several-layers-fvu": Drawing(
            lambda: figures.curves(drawn, "layer", "unexplained variance"),
            f"Unexplained variance in each layer with {numbers['k']} active latents per layer. Means over the seeds "
            "with 95 % intervals.",
        )
    }


def _notes(numbers: Numbers) -> tuple[str, ...]:
    return (
        f"Both kinds have {numbers['n_latents']:,} latents per layer, BatchTopK in each layer, and a linear skip "
        "connection for each MLP, so that latents don't represent the linear part of an MLP.",
        "A latent has a duplicate if its activations have a correlation above 0.7 with a latent of another layer, and "
        "a near copy if its decoder row has a cosine above 0.7. They are compared with shifted tokens and permuted "
        "columns. Latents that are active on fewer than 10 held-out tokens aren't counted.",
        "A latent mainly writes to later layers if more than half of its squared decoder norm is there, in units of "
        "the spread of each layer. This is compared with random rows. Pairs of duplicates of single layers are merged "
        "if one latent of the cross-layer distiller is active on the same tokens and writes both decoder rows.",
        f"Losses are measured on {numbers['n_tokens']:,} held-out tokens.",
    )
