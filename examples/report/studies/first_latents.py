"""Figure 6 and table 1: top activating examples of the first latents, and their interpretability."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

from sparsedict import figures
from sparsedict.analysis import Example, LatentRecords, ratings
from sparsedict.analysis.ratings import Ratings
from sparsedict.figures import Palette
from sparsedict.pages import rating

from ..claims import Above, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Difference, Measured, Quantity, told
from ..experiment import Experiment
from ..folder import LATENTS
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import autoencoder, row, student, typed
from .ratings import Kinds, by_dictionary, by_kind, count, estimates, given_ratings, rating_set_of
from .reading import MIN_EXAMPLES, N_EXAMPLES, collected, token_share

N_LATENTS = 50


class FirstLatents(Study):
    """The examples of the first latents of a student and an autoencoder, and the shares that single tokens explain."""

    name: ClassVar[str] = "first-latents"
    title: ClassVar[str] = "Examples of the first 50 latents"
    shows: ClassVar[str] = "Figure 6 and table 1"
    claim: ClassVar[str] = (
        "Raters scored from 0 to 4 how well one rule explains the top activating examples of a latent, without "
        "knowing the kind of the latent. The student's simulators score 1.154 on average, and its sparse latents "
        "2.833. The autoencoder's latents score higher still. Latents with larger maxima seem to score higher."
    )
    given: ClassVar[str | None] = "ratings*.json"

    def measure(self, experiment: Experiment) -> Numbers:
        specs = {
            "student": student(experiment, experiment.layer),
            "autoencoder": autoencoder(experiment, experiment.layer),
        }
        experiment.train(specs.values())
        dictionaries = {name: experiment.dictionary(spec) for name, spec in specs.items()}
        records = collected(experiment, specs["student"].site, dictionaries)
        found: Numbers = {"layer": experiment.layer, "of": {}, "strings": {}, "pages": experiment.pages is not None}
        seen: set[int] = set()
        for name, spec in specs.items():
            found["of"][name] = _latents(experiment, spec, records[name], seen)
        ids = sorted(seen)
        texts = experiment.strings(ids) if experiment.strings is not None else [f"[{token}]" for token in ids]
        found["strings"] = dict(zip(ids, texts, strict=True))
        return found

    def measured(self, numbers: Numbers) -> Measured:
        return estimates(by_kind(numbers))

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        less = Difference("rating: sparse latents", "rating: simulators")
        more = Difference("rating: autoencoder", "rating: sparse latents")
        ranks = [
            Clause(f"{dictionary} latents with larger maxima rate higher: rank correlation",
                   Quantity(f"rank by rating: {dictionary}"), Above(0))
            for dictionary in by_dictionary(by_kind(numbers))
        ]  # fmt: skip
        return [
            Clause("sparse latents rate higher than simulators: difference of means", less, Above(0), "1.68"),
            Clause("the autoencoder's latents rate higher than sparse latents", more, Above(0), "above 0"),
            *ranks,
        ]

    def found(self, numbers: Numbers) -> Finding:
        kinds, known = by_kind(numbers), self.measured(numbers)
        rated = any(latent["rating"] is not None for of in kinds.values() for latent in of)
        rows = (*_rows(kinds, known), *_agreement(given_ratings(numbers)))
        drawings = {
            "figure-06-maxima": Drawing(
                lambda: _scatter(kinds, "share"),
                "Maximum of each latent, and share of its strongest examples that fall on its most frequent token.",
            )
        }
        if rated:
            drawings["table-01-ratings"] = Drawing(
                lambda: _scatter(kinds, "rating"), "Maximum and rating of each latent."
            )
        summary = f"{_of_ratings(kinds, known) if rated else UNRATED} {_of_shares(kinds, known)}"
        files = {}
        if any(latent["examples"] for latents in numbers["of"].values() for latent in latents):
            files["first-latents-rate.html"] = lambda path: rating.write_page(path, rating_set_of(numbers))
        return Finding(
            summary, self.judge(numbers), rows, drawings, NOTES, files, LINKS if numbers.get("pages") else {}
        )


LINKS = {f"{LATENTS}/index.html": "all latents of the student and the autoencoder"}
NOTES = (
    "The study compares one student and one autoencoder, both of the first seed. Confidence intervals are over "
    "latents. The interval of a mean is computed from its standard error, and the interval of a rank correlation by "
    "Fieller's approximation.",
    f"The {N_EXAMPLES} strongest examples of each latent on held-out text are each from a different sequence. Latents "
    f"with fewer than {MIN_EXAMPLES} examples are excluded from the shares. A single token that explains all examples "
    "is one kind of rule, but not the only kind. The share is therefore a lower bound of interpretability, and not a "
    "rating.",
    "To add ratings, open first-latents-rate.html, which shows the latents mixed and without their dictionaries. Put "
    "the downloaded file into the folder of this page, then run the same command again. Several raters add one file "
    "each; the rating of a latent is their mean.",
)
UNRATED = (
    "Table 1 has no values, because the latents of this run have no ratings. The page to rate is "
    "first-latents-rate.html."
)


def _of_ratings(kinds: Kinds, known: Measured) -> str:
    parts = [
        f"{kind} {told(known, f'rating: {kind}', '.2f')} ({count(of, 'rating')} rated)" for kind, of in kinds.items()
    ]
    return f"Mean ratings: {', '.join(parts)}. {_of_rank(kinds, known, 'rating')}"


def _of_shares(kinds: Kinds, known: Measured) -> str:
    parts = [
        f"{kind} {told(known, f'share: {kind}', '.1%')} ({count(of, 'share')} latents)" for kind, of in kinds.items()
    ]
    return (
        "The mean share of a latent's strongest examples that fall on its most frequent token is: "
        f"{', '.join(parts)}. {_of_rank(kinds, known, 'share')}"
    )


def _of_rank(kinds: Kinds, known: Measured, key: str) -> str:
    ranks = [f"{told(known, f'rank by {key}: {name}', '.2f')} among {name} latents" for name in by_dictionary(kinds)]
    return f"The rank correlation of this {key} with the latent's maximum is {' and '.join(ranks)}."


def _rows(kinds: Kinds, known: Measured) -> tuple[Compared, ...]:
    report = {"simulators": "1.154", "sparse latents": "2.833", "autoencoder": "higher"}

    def mean_rating(kind: str) -> str:
        n = count(kinds[kind], "rating")
        return f"{told(known, f'rating: {kind}', '.3f')} of {n}" if n else "not rated"

    return (
        *(Compared(f"mean rating from 0 to 4, {kind}", report[kind], mean_rating(kind)) for kind in kinds),
        *(Compared(f"among the first {N_LATENTS}, {kind}: all, dead", "-", _count(of)) for kind, of in kinds.items()),
        *(
            Compared(
                f"strongest examples on one token, {kind}: mean, latents",
                "-",
                f"{told(known, f'share: {kind}', '.1%')}, {count(of, 'share')}",
            )
            for kind, of in kinds.items()
        ),
        *(
            row(
                known,
                f"larger maximum, higher {measure}: rank correlation, {name}",
                f"rank by {key}: {name}",
                report,
                ".2f",
            )
            for key, measure, report in (("rating", "rating", "above 0"), ("share", "share on one token", "-"))
            for name in by_dictionary(kinds)
        ),
    )


def _agreement(found: Ratings) -> list[Compared]:
    """Returns a row for each pair of raters."""
    rows = []
    for a, b in itertools.combinations(found.raters, 2):
        both = ratings.agreement(Ratings((*found.by(a), *found.by(b))))
        here = f"{both.quadratic}, {both.n_both} latents"
        rows.append(Compared(f"agreement of {a} and {b}: quadratically weighted kappa", "-", here))
    return rows


def _latents(experiment: Experiment, spec: DictionarySpec, records: LatentRecords, seen: set[int]) -> list[Numbers]:
    _, types, firing = typed(experiment, spec)
    latents = []
    for latent in range(min(N_LATENTS, spec.n_latents)):
        examples = records.top_examples(latent)
        seen.update(int(token) for e in examples.examples for token in e.tokens.tolist())
        latents.append(
            {
                "latent": latent,
                "simulator": bool(types.simulators[latent]),
                "n_fired": int(firing.counts[latent]),
                "n_tokens": firing.n_tokens,
                "max": max((e.max for e in examples.examples), default=0.0),
                "share": token_share(examples),
                "examples": [_example(e) for e in examples.examples],
            }
        )
    return latents


def _example(example: Example) -> Numbers:
    return {
        "tokens": example.tokens,
        "activations": example.activations,
        "peak": example.peak,
        "sequence": example.sequence,
        "position": example.position,
    }


def _scatter(kinds: Kinds, key: str) -> Any:
    colours = {"simulators": Palette.SIMULATORS, "sparse latents": Palette.SPARSE, "autoencoder": Palette.AUTOENCODER}
    scale, label = (100, "strongest examples on one token (%)") if key == "share" else (1, "rating, from 0 to 4")
    known = {kind: [latent for latent in of if latent[key] is not None] for kind, of in kinds.items()}
    points = {kind: ([p["max"] for p in of], [scale * p[key] for p in of]) for kind, of in known.items()}
    return figures.points(points, "largest activation", label, colours=colours)


def _count(latents: list[Numbers]) -> str:
    return f"{len(latents)}, {sum(latent['n_fired'] == 0 for latent in latents)}"
