"""Figures 2 to 4 and 12 to 14: neuron simulators and sparse latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsedict import figures
from sparsedict.analysis import NeuronMatch
from sparsedict.display import shown

from ..claims import Above, Between, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Difference, Measured, Quantity, Ratio, measured, told
from ..experiment import Experiment
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import (
    Part,
    by_seed,
    described,
    match_from,
    match_numbers,
    row,
    student,
    typed,
)

LOWER, MIDDLE, UPPER = ("latents with a cosine of " + of for of in ("0.4 to 0.6", "0.6 to 0.8", "0.8 to 1"))


class NeuronSimulators(Study):
    """A test of whether the latents of students in two layers divide into neuron simulators and sparse latents."""

    name: ClassVar[str] = "neuron-simulators"
    title: ClassVar[str] = "Two kinds of latents"
    shows: ClassVar[str] = "Figures 2, 3, 4 and 12, 13, 14"
    claim: ClassVar[str] = (
        "The cosines of the student's decoder rows with the nearest neuron's have two humps: 29 % of the latents lie "
        "above 0.8, about one for each neuron at four latents per neuron. These neuron simulators fire far more often "
        "than the rest, and their encoder rows are much less like the neuron's (mean 0.154, standard deviation 0.048). "
        "The other layer looks the same."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        specs = {f"layer {layer}": student(experiment, layer) for layer in (experiment.layer, experiment.other_layer)}
        seeds = by_seed(experiment, specs, _measure)
        return {
            "layers": [experiment.layer, experiment.other_layer],
            "measured": measured(seeds),
            "of": {name: _first(experiment, spec) for name, spec in specs.items()},
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        return [clause for layer in numbers["layers"] for clause in _clauses(f"layer {layer}")]

    def found(self, numbers: Numbers) -> Finding:
        drawings: dict[str, Drawing] = {}
        for layer, first in zip(numbers["layers"], (2, 12), strict=True):
            drawings |= _drawings(numbers["of"][f"layer {layer}"], f"layer {layer}", first)
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), drawings, NOTES)


NOTES = (
    "Two humps: fewer live latents have a cosine of 0.6 to 0.8 than of 0.4 to 0.6, and fewer than of 0.8 to 1.",
    "A simulator is a live latent with a decoder cosine above 0.8 with a neuron. Its encoder cosine is the cosine with "
    "the encoder row of the neuron with the nearest decoder row.",
    "Number of directions of the input: (sum of the variances)^2 / (sum of their squares) along the principal axes. It "
    "equals the width if the variance is the same in all directions.",
)


def _clauses(layer: str) -> list[Clause]:
    def of(key: str) -> str:
        return f"{layer}: {key}"

    frequencies = Ratio(of("frequency of simulators"), of("frequency of sparse latents"))
    cosines = Difference(of("decoder cosine"), of("encoder cosine"))
    lower, upper = Difference(of(LOWER), of(MIDDLE)), Difference(of(UPPER), of(MIDDLE))
    return [
        Clause(f"{layer}: more latents with a cosine of 0.4 to 0.6 than of 0.6 to 0.8", lower, Above(0), "yes", ",.0f"),
        Clause(f"{layer}: more latents with a cosine of 0.8 to 1 than of 0.6 to 0.8", upper, Above(0), "yes", ",.0f"),
        Clause(
            f"{layer}: about one simulator for each neuron",
            Quantity(of("simulators per neuron")),
            Between(2 / 3, 3 / 2),
            "1.16",
        ),
        Clause(f"{layer}: simulators fire far more often: ratio of medians", frequencies, Above(3), "-", ".1f"),
        Clause(f"{layer}: simulators' decoder cosine minus encoder cosine", cosines, Above(0.2), "above 0.7"),
    ]


def _measure(experiment: Experiment, spec: DictionarySpec) -> Part:
    match, _, firing = typed(experiment, spec)
    return {**described(experiment, spec), **humps(match, firing.dead.mask)}


def humps(match: NeuronMatch, dead: Tensor) -> Part:
    """Returns the numbers of live latents in ranges of the decoder cosine."""
    cosine = match.decoder_cosine[~dead]
    ranges = {LOWER: (0.4, 0.6), MIDDLE: (0.6, 0.8), UPPER: (0.8, 1.01)}
    return {name: int(((cosine > low) & (cosine <= high)).sum()) for name, (low, high) in ranges.items()}


def _first(experiment: Experiment, spec: DictionarySpec) -> Numbers:
    """Returns the numbers for the figures of the first seed's student, and facts of its site."""
    match, _, firing = typed(experiment, spec)
    return {
        "latents": match_numbers(match, firing),
        "coefficient": spec.penalties[0].coefficient,  # pyright: ignore[reportAttributeAccessIssue]
        "n_directions": n_directions(experiment.held_out(spec.site).inputs),
        "d_in": experiment.sites[spec.site].d_in,
    }


def n_directions(inputs: Tensor) -> float:
    """Returns the effective number of directions of inputs, the participation ratio of their covariance."""
    variances = torch.linalg.eigvalsh(torch.cov(inputs.double().T))
    return float(variances.sum().square() / variances.square().sum())


def _summary(numbers: Numbers) -> str:
    known, main = numbers["measured"], f"layer {numbers['layers'][0]}"
    of = numbers["of"][main]

    def tell(key: str, form: str) -> str:
        return told(known, f"{main}: {key}", form)

    return (
        f"In {main}, {tell('simulators', '.1%')} of the latents are simulators, {tell('simulators per neuron', '.2f')} "
        f"for each neuron; {tell('neurons with a simulator', '.1%')} of the neurons have one. The median simulator "
        f"fires on {tell('frequency of simulators', '.1%')} of the tokens, the median live sparse latent on "
        f"{tell('frequency of sparse latents', '.2%')}. The simulators' encoder cosine is "
        f"{tell('encoder cosine', '.3f')}, their decoder cosine {tell('decoder cosine', '.3f')}. The input of the MLP "
        f"has width {of['d_in']} and varies in about {shown(of['n_directions'], '.0f')} directions. A section below "
        "examines the same MLP with inputs that vary in few directions."
    )


def _drawings(part: dict[str, Any], layer: str, first: int) -> dict[str, Drawing]:
    match, types, firing = match_from(part["latents"])
    never = " The bar on the left shows latents that never fired." if firing.dead.n_dead else ""
    return {
        f"figure-{first:02}-decoder-similarity": Drawing(
            lambda: figures.decoder_similarity(match, types),
            f"Figure {first}, {layer}, first seed: cosine of each latent's decoder row with that of the nearest "
            "neuron. Bars are stacked by type.",
        ),
        f"figure-{first + 1:02}-encoder-similarity": Drawing(
            lambda: figures.encoder_similarity(match, types),
            f"Figure {first + 1}, {layer}: the same for encoder rows. The types are determined by the decoder.",
        ),
        f"figure-{first + 2:02}-firing-frequency": Drawing(
            lambda: figures.firing_frequency(firing, types),
            f"Figure {first + 2}, {layer}: firing frequencies, with bars stacked by type.{never}",
        ),
    }


ROWS = (
    ("simulators", "29 %", ".1%"),
    ("simulators per neuron", "about 1", ".2f"),
    ("neurons with a simulator", "-", ".1%"),
    ("encoder cosine", "0.1538", ".3f"),
    ("encoder cosine, deviation", "0.0475", ".3f"),
    ("decoder cosine", "above 0.9", ".3f"),
    ("frequency of simulators", "far more", ".2%"),
    ("frequency of sparse latents", "far less", ".2%"),
    (LOWER, "-", ",.0f"),
    (MIDDLE, "-", ",.0f"),
    (UPPER, "-", ",.0f"),
    ("dead", "-", ".1%"),
    ("L0", "-", ".1f"),
    ("FVU", "-", ".4f"),
)


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known: Measured = numbers["measured"]
    rows: list[Compared] = []
    for layer, report in zip(numbers["layers"], (True, False), strict=True):
        name = f"layer {layer}"
        of = numbers["of"][name]
        rows += [
            row(known, f"{name}: {key}", f"{name}: {key}", told if report else "-", form) for key, told, form in ROWS
        ]
        rows.append(Compared(f"{name}: L1 coefficient per token", "0.2048", f"{of['coefficient']:g}"))
        directions = f"{shown(of['n_directions'], '.0f')} of {of['d_in']}"
        rows.append(Compared(f"{name}: directions in which the input varies, of its width", "-", directions))
    return tuple(rows)
