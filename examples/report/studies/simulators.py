"""Figures 2, 3 and 4, and 12 to 14: two kinds of latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsedict import figures
from sparsedict.analysis import NeuronMatch
from sparsedict.display import shown

from ..bench import Bench
from ..claims import Above, Between, Clause
from ..estimates import Difference, Measured, Quantity, Ratio, measured, told
from ..order import Order
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
    """Whether a student's latents fall into neuron simulators and sparse latents, in two layers."""

    name: ClassVar[str] = "neuron-simulators"
    title: ClassVar[str] = "Two kinds of latents"
    shows: ClassVar[str] = "Figures 2, 3, 4 and 12, 13, 14"
    claim: ClassVar[str] = (
        "The cosines of the student's decoder rows with the nearest neuron's have two humps: 29 % of the latents lie "
        "above 0.8, about one for each neuron at four latents per neuron. These neuron simulators fire far more often "
        "than the rest, and their encoder rows are much less like the neuron's (mean 0.154, standard deviation 0.048). "
        "The other layer looks the same."
    )

    def measure(self, bench: Bench) -> Numbers:
        orders = {f"layer {layer}": student(bench, layer) for layer in (bench.layer, bench.other_layer)}
        seeds = by_seed(bench, orders, _measure)
        return {
            "layers": [bench.layer, bench.other_layer],
            "measured": measured(seeds),
            "of": {name: _first(bench, order) for name, order in orders.items()},
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        return [clause for layer in numbers["layers"] for clause in _clauses(f"layer {layer}")]

    def found(self, numbers: Numbers) -> Finding:
        drawings: dict[str, Drawing] = {}
        for layer, first in zip(numbers["layers"], (2, 12), strict=True):
            drawings |= _drawings(numbers["of"][f"layer {layer}"], f"layer {layer}", first)
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), drawings, NOTES)


NOTES = (
    "Two humps: of the latents that aren't dead, fewer have a cosine of 0.6 to 0.8 than of 0.4 to 0.6, and fewer than "
    "of 0.8 to 1.",
    "A simulator is a latent that isn't dead and whose decoder cosine with a neuron exceeds 0.8. The encoder's cosine "
    "is that with the encoder row of the neuron whose decoder row is nearest.",
    "Directions of the input: (sum of the variances)^2 / (sum of their squares) along its principal axes, which is the "
    "width where the input varies alike in all directions.",
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
        Clause(f"{layer}: decoder cosine less encoder cosine, simulators", cosines, Above(0.2), "above 0.7"),
    ]


def _measure(bench: Bench, order: Order) -> Part:
    match, _, firing = typed(bench, order)
    return {**described(bench, order), **humps(match, firing.dead.mask)}


def humps(match: NeuronMatch, dead: Tensor) -> Part:
    """Counts live latents by decoder cosine."""
    cosine = match.decoder_cosine[~dead]
    ranges = {LOWER: (0.4, 0.6), MIDDLE: (0.6, 0.8), UPPER: (0.8, 1.01)}
    return {name: int(((cosine > low) & (cosine <= high)).sum()) for name, (low, high) in ranges.items()}


def _first(bench: Bench, order: Order) -> Numbers:
    """Returns what figures need of the first seed's student, and facts of its site."""
    match, _, firing = typed(bench, order)
    return {
        "latents": match_numbers(match, firing),
        "coefficient": order.penalties[0].coefficient,  # pyright: ignore[reportAttributeAccessIssue]
        "n_directions": n_directions(bench.held_out(order.site).inputs),
        "d_in": bench.sites[order.site].d_in,
    }


def n_directions(inputs: Tensor) -> float:
    """Returns in how many directions inputs vary: the participation ratio of their covariance."""
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
        f"{tell('encoder cosine', '.3f')}, their decoder cosine {tell('decoder cosine', '.3f')}. The MLP's input has "
        f"{of['d_in']} numbers, which vary in about {shown(of['n_directions'], '.0f')} directions; a section below "
        "looks at the same MLP where its inputs vary in few."
    )


def _drawings(part: dict[str, Any], layer: str, first: int) -> dict[str, Drawing]:
    match, types, firing = match_from(part["latents"])
    return {
        f"figure-{first:02}-decoder-similarity": Drawing(
            lambda: figures.decoder_similarity(match, types),
            f"Figure {first}, {layer}, first seed: cosine of each latent's decoder row with the nearest neuron's. Bars "
            "are stacked by type.",
        ),
        f"figure-{first + 1:02}-encoder-similarity": Drawing(
            lambda: figures.encoder_similarity(match, types),
            f"Figure {first + 1}, {layer}: the same for encoder rows; types by the decoder.",
        ),
        f"figure-{first + 2:02}-firing-frequency": Drawing(
            lambda: figures.firing_frequency(firing, types),
            f"Figure {first + 2}, {layer}: how often latents fire, bars stacked by type; those that never fired as one "
            "bar on the left.",
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
