"""The report's proposal for features of several layers: autoencoders of the residual stream of each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from sparsedict import figures
from sparsedict.analysis import DictionaryMatch, match_dictionaries
from sparsedict.figures import Palette
from sparsedict.latents import firing_counts

from ..claims import Above, Below, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Difference, Ratio, measured, told
from ..experiment import Experiment
from ..sites import residual
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import Part, along, curve, median, modern, row

PRESENT = 0.7
"""Decoder cosine above which a latent counts as present in the previous layer."""
MIN_RISE = 0.01
MIN_FIRINGS = 20
N_READ = 16_384


class ResidualStream(Study):
    """A test of whether the latents of residual-stream autoencoders appear gradually from layer to layer."""

    name: ClassVar[str] = "residual-stream"
    title: ClassVar[str] = "Features along the residual stream"
    shows: ClassVar[str] = "The report's proposal"
    claim: ClassVar[str] = (
        "Distillation of one MLP may miss features that several layers compute together. An autoencoder of the "
        "residual stream after each layer should find these features, and show that they appear gradually from layer "
        "to layer."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        width = experiment.width(experiment.layer)
        specs = {layer: modern(experiment, residual(layer), width, kind="autoencoder") for layer in experiment.layers}
        experiment.train(repeated for spec in specs.values() for repeated in experiment.repeated(spec))
        seeds = [_measure(experiment, specs, repeat) for repeat in range(experiment.setting.n_seeds)]
        last, n = experiment.layers[-1], experiment.setting.n_seeds
        drawn = {f"layer {a} to {b}": _match(experiment, specs[b], specs[a], 0) for a, b in pairwise(experiment.layers)}
        drawn["same stream, another seed"] = _match(experiment, specs[last], specs[last], 0)
        cosines = {name: match.cosine_a for name, match in drawn.items()}
        cosines["random directions"] = next(iter(drawn.values())).null_a
        return {"layers": experiment.layers, "measured": measured(seeds), "cosines": cosines, "n_seeds": n}

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        layers = numbers["layers"]
        first, last = layers[0], layers[-1]
        rises = [
            Clause(f"more of layer {last}'s latents is read linearly after layer {b} than after layer {a}: difference",
                   Difference(_read(b), _read(a)), Above(MIN_RISE), "gradually", ".1%")
            for a, b in pairwise(layers)
        ]  # fmt: skip
        partners = [
            Clause(f"latents with a partner in the layer before, {a} to {b}, minus those of the untrained start",
                   Difference(_partner(a, b), _untrained(a, b)), Above(MIN_RISE), "gradually", ".1%")
            for a, b in pairwise(layers)
        ]  # fmt: skip
        late = Clause(
            "share read after the first layer, over the share read after the last layer: ratio",
            Ratio(_read(first), _read(last)),
            Below(0.5),
            "gradually",
        )
        return [*partners, *rises, late] if len(layers) > 1 else []

    def found(self, numbers: Numbers) -> Finding:
        if len(numbers["layers"]) < 2:
            return Finding("The model has one layer only.")
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(numbers), NOTES)


def _read(layer: int) -> str:
    return f"layer {layer}: variance read linearly, median latent"


def _partner(before: int, after: int) -> str:
    return f"layer {before} to {after}: partner in the layer before"


def _untrained(before: int, after: int) -> str:
    return f"layer {before} to {after}: partner, untrained start"


def _random(before: int, after: int) -> str:
    return f"layer {before} to {after}: partner, random directions"


CONTROL = "partner in the same stream's autoencoder of another seed"


def _measure(experiment: Experiment, specs: dict[int, DictionarySpec], repeat: int) -> Part:
    """Returns the numbers of one seed's autoencoders. Those of the previous layer have the next seed."""
    last = specs[experiment.layers[-1]]
    found: Part = {CONTROL: _present(_match(experiment, last, last, repeat).cosine_a)}
    for before, after in pairwise(experiment.layers):
        match = _match(experiment, specs[after], specs[before], repeat)
        start = _match_starts(experiment, specs[after], specs[before], repeat)
        found |= {
            _partner(before, after): _present(match.cosine_a),
            _untrained(before, after): _present(start.cosine_a),
            _random(before, after): _present(match.null_a),
            f"layer {before} to {after}: cosine, median": median(match.cosine_a),
        }
    for layer, spec in specs.items():
        quarters = _readable(experiment, replace(last, repeat=repeat), residual(layer))
        found |= dict(zip((_read(layer), *(f"layer {layer}: {q}" for q in QUARTERS)), quarters, strict=True))
        own = replace(spec, repeat=repeat)
        found[f"layer {layer}: FVU"] = experiment.error(own).fvu
        found[f"layer {layer}: dead"] = experiment.firing(own).dead.n_dead / spec.n_latents
    return found


QUARTERS = ("variance read linearly, lower quarter", "variance read linearly, upper quarter")


def _summary(numbers: Numbers) -> str:
    known, layers = numbers["measured"], numbers["layers"]
    pairs = list(pairwise(layers))

    def each(key: Callable[[int, int], str]) -> str:
        return along(known, (key(a, b) for a, b in pairs), ".1%")

    return (
        f"Of the live latents of a layer, {each(_partner)} have a partner in the previous layer (layers "
        f"{', '.join(f'{a} to {b}' for a, b in pairs)}). A partner is a latent of an autoencoder of another seed with "
        f"a cosine above {PRESENT}. The share is {each(_untrained)} for untrained autoencoders and {each(_random)} "
        f"for random directions. Of the latents of layer {layers[-1]}, {told(known, CONTROL, '.1%')} have a partner "
        "in an autoencoder of the same stream from another seed. From the stream after layers "
        f"{', '.join(map(str, layers))}, a linear map explains {along(known, map(_read, layers), '.1%')} of the "
        f"variance of the latents of layer {layers[-1]}, at the median."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known, layers = numbers["measured"], numbers["layers"]
    rows = [row(known, CONTROL, CONTROL, form=".1%")]
    for before, after in pairwise(layers):
        rows += [row(known, key, key, form=".1%") for key in (_partner(before, after), _untrained(before, after),
                                                              _random(before, after))]  # fmt: skip
        median_cosine = f"layer {before} to {after}: cosine, median"
        rows.append(row(known, median_cosine, median_cosine, form=".2f"))
    for layer in layers:
        keys = (_read(layer), *(f"layer {layer}: {q}" for q in QUARTERS), f"layer {layer}: dead")
        rows += [row(known, key, key, form=".1%") for key in keys]
        rows.append(row(known, f"layer {layer}: FVU", f"layer {layer}: FVU", form=".4f"))
    return tuple(rows)


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    known, layers = numbers["measured"], numbers["layers"]
    cosines = {name: torch.tensor(values) for name, values in numbers["cosines"].items()}
    keys = {
        "median": _read,
        **{q.rpartition(", ")[2]: (lambda layer, q=q: f"layer {layer}: {q}") for q in QUARTERS},
    }
    read = {name: curve(known, {n: key(n) for n in layers}, scale=100) for name, key in keys.items()}
    drawn = {name: of for name, of in read.items() if of is not None}
    return {
        "residual-neighbours": Drawing(
            lambda: figures.cosine_histograms(
                cosines, "cosine with the nearest latent", colours={"random directions": Palette.NULL}
            ),
            "First seed: density of the cosine of each live latent of a layer's residual stream with the nearest "
            "latent of the previous layer, of another seed. For comparison: the latents of the last layer with an "
            "autoencoder of the same stream from another seed, and random directions, whose peak is cut off.",
        ),
        "residual-readable": Drawing(
            lambda: figures.curves(drawn, "stream after layer", "variance read linearly (%)"),
            "Share of the variance of the last layer's latents that a linear map explains from the stream after each "
            "layer: quartiles over latents, means over the seeds with 95 % intervals.",
        ),
    }


def _present(cosine: Tensor) -> float:
    return float((cosine > PRESENT).double().mean())


NOTES = (
    "The linear map is a ridge regression from the stream to the activations of the last layer's latents. It is "
    "fitted on one half of the held-out tokens and measured on the other half. Only latents that fire on at least "
    f"{MIN_FIRINGS} tokens of each half are included. The share after the last layer is below 100 %, because TopK is "
    "not linear.",
    "Each layer and each seed has a TopK autoencoder of the stream after the layer. Partners are searched for in an "
    "autoencoder of another seed, with other initial weights and another order of the data. The comparison of "
    "untrained autoencoders uses the initial rows, which are activations of tokens.",
)


def _live(experiment: Experiment, spec: DictionarySpec) -> Tensor:
    """Returns the decoder rows of the latents that fire on held-out tokens."""
    return experiment.dictionary(spec).decoder.detach()[experiment.firing(spec).counts > 0]


def _match(experiment: Experiment, spec: DictionarySpec, other: DictionarySpec, repeat: int) -> DictionaryMatch:
    """Returns the match of the live latents of one seed's dictionary with those of the next seed."""
    spec, other = replace(spec, repeat=repeat), experiment.other_seed(replace(other, repeat=repeat))
    return match_dictionaries(_live(experiment, spec), _live(experiment, other), seed=spec.seed(experiment.seed))


def _match_starts(experiment: Experiment, spec: DictionarySpec, other: DictionarySpec, repeat: int) -> DictionaryMatch:
    """Returns the match of the initial rows of two dictionaries."""
    spec, other = replace(spec, repeat=repeat), experiment.other_seed(replace(other, repeat=repeat))
    return match_dictionaries(experiment.start(spec), experiment.start(other), seed=spec.seed(experiment.seed))


@torch.no_grad()
def _readable(experiment: Experiment, spec: DictionarySpec, site: str) -> tuple[float, float, float]:
    """Returns quartiles of the variance of latents that a linear map from another stream explains, median first."""
    latents = experiment.dictionary(spec).encode(experiment.held_out(spec.site).inputs[:N_READ])
    stream = experiment.held_out(site).inputs[:N_READ]
    half = len(stream) // 2
    often = (firing_counts(latents[:half]) >= MIN_FIRINGS) & (firing_counts(latents[half:]) >= MIN_FIRINGS)
    latents = latents[:, often].double()
    x = torch.cat([stream, stream.new_ones(len(stream), 1)], dim=1).double()
    gram = x[:half].T @ x[:half]
    gram.diagonal().add_(1e-4 * gram.diagonal().mean())
    read = x[half:] @ torch.linalg.solve(gram, x[:half].T @ latents[:half])
    left = (latents[half:] - read).square().mean(0) / latents[half:].var(0, correction=0)
    low, middle, high = (1 - left).quantile(left.new_tensor([0.25, 0.5, 0.75])).tolist() if len(left) else (0.0,) * 3
    return middle, low, high
