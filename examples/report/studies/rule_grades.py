"""Table 1 by automatic grades: how well one simple rule about tokens predicts a latent on held-out text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsedict import figures
from sparsedict.analysis import scores
from sparsedict.analysis.scores import TokenLatents
from sparsedict.figures import Palette

from ..claims import Above, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Difference, Quantity, measured, told
from ..experiment import Experiment
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import Part, autoencoder, row, student, typed
from .reading import rank_correlation

N_LATENTS = 250
"""Largest number of latents of each kind."""
N_TOKENS = 50_000
"""Largest number of held-out tokens."""
KINDS = {"simulators": "1.154", "sparse latents": "2.833", "autoencoder": "higher", "neurons": "-"}
"""The kinds of latents, with the mean rating of the report."""
DICTIONARIES = {"the student's": ("simulators", "sparse latents"), "the autoencoder's": ("autoencoder",)}
COLOURS = {
    "simulators": Palette.SIMULATORS,
    "sparse latents": Palette.SPARSE,
    "autoencoder": Palette.AUTOENCODER,
    "neurons": Palette.NULL,
}
Points = dict[str, dict[str, list[float]]]
"""Maximum, F1 and grade of each latent with a score, by kind."""


class RuleGrades(Study):
    """The grades of latents by their best simple rule, by kind of latent, and their relation to the maxima."""

    name: ClassVar[str] = "rule-grades"
    title: ClassVar[str] = "Table 1 without readers: grades by rules"
    shows: ClassVar[str] = "Table 1"
    claim: ClassVar[str] = (
        "The student's simulators score 1.154 on average, and its sparse latents 2.833. The autoencoder's latents "
        "score higher still. Latents with larger maxima seem to score higher."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        specs = (student(experiment, experiment.layer), autoencoder(experiment, experiment.layer))
        experiment.train(repeated for spec in specs for repeated in experiment.repeated(spec))
        seeds, first = [], {}
        for repeat in range(experiment.setting.n_seeds):
            points = _points(experiment, *(replace(spec, repeat=repeat) for spec in specs), with_neurons=not repeat)
            first = first or points
            seeds.append(_part(points))
        return {"layer": experiment.layer, "measured": measured(seeds), "points": first}

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        less = Difference("grade: sparse latents", "grade: simulators")
        more = Difference("grade: autoencoder", "grade: sparse latents")
        return [
            Clause("sparse latents have higher grades than simulators: difference of means", less, Above(0), "1.68"),
            Clause("the autoencoder's latents have higher grades than sparse latents", more, Above(0), "above 0"),
            *(
                Clause(f"{name} latents with larger maxima have a higher F1: rank correlation",
                       Quantity(f"rank: {name}"), Above(0), "above 0")
                for name in DICTIONARIES
            ),
        ]  # fmt: skip

    def found(self, numbers: Numbers) -> Finding:
        points: Points = numbers["points"]
        drawing = Drawing(
            lambda: _scatter(points),
            "First seed: largest activation of each latent, and F1 of its best rule on held-out text.",
        )
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), {"table-01-rules": drawing}, NOTES)


NOTES = (
    "The grades aren't ratings. For each latent, a search finds the best simple rule on one half of the held-out text: "
    "a set of tokens at an offset, a prefix or suffix, a class of tokens, the position, or two of these together. Its "
    "F1 on the other half gives the grade: the number of the thresholds 0.2, 0.4, 0.6 and 0.8 that F1 reaches. A rule "
    "that a reader sees, but that isn't of these forms, has no grade.",
    f"At most {N_LATENTS} latents of each kind are drawn at random among those that fire. Latents that are active on "
    "fewer than ten tokens of a half have no grade. Intervals are over seeds, which share the held-out text. The "
    "neurons of the MLP, counted as active where they are positive, are measured once.",
)


def _points(
    experiment: Experiment, own_student: DictionarySpec, own_autoencoder: DictionarySpec, *, with_neurons: bool
) -> Points:
    """Returns the points of one seed."""
    _, types, _ = typed(experiment, own_student)
    live = ~experiment.firing(own_autoencoder).dead.mask
    seed = own_student.seed(experiment.seed)
    found = {}
    for spec, masks in (
        (own_student, {"simulators": types.simulators, "sparse latents": types.sparse}),
        (own_autoencoder, {"autoencoder": live}),
    ):
        for kind, mask in masks.items():
            found[kind] = graded(_text(experiment, spec.site, experiment.dictionary(spec), mask, seed))
    if with_neurons:
        neurons = experiment.sites[own_student.site].neurons
        found["neurons"] = graded(
            _text(experiment, own_student.site, neurons, torch.ones(neurons.n, dtype=torch.bool), seed, above=0.0)
        )
    return found


def _text(
    experiment: Experiment, site: str, dictionary: Any, mask: Tensor, seed: int, *, above: float | None = None
) -> TokenLatents:
    """Returns some latents of a kind on held-out text."""
    latents = mask.cpu().nonzero().flatten()
    chosen = latents[torch.randperm(len(latents), generator=torch.Generator().manual_seed(seed))[:N_LATENTS]]
    n_tokens = min(N_TOKENS, experiment.setting.n_held_out)
    tokens = experiment.held_out_tokens[: math.ceil(n_tokens / experiment.held_out_tokens.shape[1])]
    with experiment.phases("rules", f"recording {len(chosen)} latents"):
        return scores.record(
            experiment.sites[site], dictionary, tokens, strings=experiment.strings, latents=chosen, above=above
        )


def graded(text: TokenLatents) -> dict[str, list[float]]:
    """Returns maximum, F1 and grade of the latents that have a score."""
    found = scores.RuleScore()(text) if text.n_latents else None
    if found is None:
        return {"max": [], "F1": [], "grade": []}
    columns = {"max": text.maxima, "F1": found.value, "grade": found.columns["grade"]}
    return {name: column[found.scored].tolist() for name, column in columns.items()}


def _part(points: Points) -> Part:
    """Returns the numbers of one seed."""
    found: Part = {}
    for kind, of in points.items():
        for key in ("grade", "F1"):
            found[f"{key}: {kind}"] = fmean(of[key]) if of[key] else None
        found[f"scored: {kind}"] = len(of["F1"])
    for name, kinds in DICTIONARIES.items():
        maxima, f1 = ([value for kind in kinds for value in points[kind][key]] for key in ("max", "F1"))
        found[f"rank: {name}"] = rank_correlation(maxima, f1)
    return found


def _summary(numbers: Numbers) -> str:
    known = numbers["measured"]
    means = ", ".join(f"{kind} {told(known, f'grade: {kind}', '.2f')}" for kind in KINDS)
    ranks = " and ".join(f"{told(known, f'rank: {name}', '.2f')} among {name} latents" for name in DICTIONARIES)
    return (
        f"Mean grade from 0 to 4 by the best simple rule: {means}. The rank correlation of F1 with the latent's "
        f"maximum is {ranks}."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known = numbers["measured"]
    return (
        *(
            row(known, f"mean grade by rules from 0 to 4, {kind}", f"grade: {kind}", r, ".3f")
            for kind, r in KINDS.items()
        ),
        *(row(known, f"mean F1 of the best rule, {kind}", f"F1: {kind}", form=".3f") for kind in KINDS),
        *(row(known, f"latents with a grade, {kind}", f"scored: {kind}", form=".0f") for kind in KINDS),
        *(
            row(known, f"larger maximum, higher F1: rank correlation, {name}", f"rank: {name}", "above 0", ".2f")
            for name in DICTIONARIES
        ),
    )


def _scatter(points: Points) -> Any:
    shown = {kind: (of["max"], of["F1"]) for kind, of in points.items()}
    return figures.points(shown, "largest activation", "F1 of the best rule", colours=COLOURS)
