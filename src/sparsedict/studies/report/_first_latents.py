"""Figure 6 and table 1: top activating examples of the first latents, and how readable they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from sparsedict import figures, pages
from sparsedict.analysis import Example, TopExamples
from sparsedict.figures import Palette
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study, Verdict
from sparsedict.studies.report._parts import autoencoder, number, share, student, typed
from sparsedict.studies.report._ratings import Kinds, by_dictionary, by_kind, count, mean, rank
from sparsedict.studies.report._reading import LEAST_EXAMPLES, N_EXAMPLES, examples_of, token_share

N_LATENTS = 50


class FirstLatents(Study):
    """What the first latents of student and autoencoder fire on, and how well single tokens explain it."""

    name: ClassVar[str] = "first-latents"
    title: ClassVar[str] = "The first 50 latents, read"
    shows: ClassVar[str] = "Figure 6 and table 1"
    claim: ClassVar[str] = (
        "Rated blindly from 0 to 4 by how well one rule explains their top activating examples, the student's "
        "simulators score 1.154 on average, its sparse latents 2.833, and the autoencoder's latents higher still. "
        "Latents with larger maxima seem to score higher."
    )
    given: ClassVar[str | None] = "ratings.json"

    def measure(self, bench: Bench) -> Numbers:
        orders = {"student": student(bench, bench.layer), "autoencoder": autoencoder(bench, bench.layer)}
        bench.train(orders.values())
        found: Numbers = {"layer": bench.layer, "of": {}, "strings": {}}
        seen: set[int] = set()
        for name, order in orders.items():
            found["of"][name] = _latents(bench, order, seen)
        ids = sorted(seen)
        texts = bench.strings(ids) if bench.strings is not None else [f"[{token}]" for token in ids]
        found["strings"] = dict(zip(ids, texts, strict=True))
        return found

    def found(self, numbers: Numbers) -> Finding:
        kinds = by_kind(numbers)
        rated = any(latent["rating"] is not None for of in kinds.values() for latent in of)
        verdict = _verdict(kinds) if rated else "not measured"
        summary = _of_ratings(kinds) if rated else UNRATED
        drawings = {
            "figure-06-maxima": Drawing(
                lambda: _scatter(kinds, "share"),
                "Each latent's maximum, and the share of its strongest examples that fall on its most frequent token.",
            )
        }
        if rated:
            drawings["table-01-ratings"] = Drawing(
                lambda: _scatter(kinds, "rating"), "Each latent's maximum, and its rating."
            )
        summary = f"{summary} {_of_shares(kinds)}"
        return Finding(verdict, summary, _rows(kinds), drawings, NOTES, {"first-latents.html": _page(numbers)})


NOTES = (
    f"The {N_EXAMPLES} strongest examples of each latent on held-out text, each from a sequence of its own; latents "
    f"that have fewer than {LEAST_EXAMPLES} are left out of the shares. One token explaining all examples is a rule, "
    "but not the only kind of rule: the share is a lower bound of readability, and no rating.",
    'Ratings: write them beside this page as ratings.json, such as {"student": {"0": 3, "1": 0}, "autoencoder": {"0": '
    "4}}, by dictionary and latent, and give the same command again.",
)
UNRATED = (
    "Table 1 stays open: nobody has rated this run's latents, and the library has no automatic rule score yet. The "
    "texts are there to be read."
)


def _verdict(kinds: Kinds) -> Verdict:
    means = [mean(of, "rating") for of in kinds.values()]
    if any(mean is None for mean in means):
        return "not measured"
    simulators, sparse, coder = (mean or 0.0 for mean in means)
    return "seen" if simulators < sparse < coder else "partly seen" if simulators < max(sparse, coder) else "not seen"


def _of_ratings(kinds: Kinds) -> str:
    told = [f"{kind} {number(mean(of, 'rating'), '.2f')} ({count(of, 'rating')} rated)" for kind, of in kinds.items()]
    return f"Mean ratings: {', '.join(told)}. {_of_rank(kinds, 'rating')}"


def _of_shares(kinds: Kinds) -> str:
    told = [f"{kind} {share(mean(of, 'share'), 1)} ({count(of, 'share')} latents)" for kind, of in kinds.items()]
    return (
        "What can be counted is the share of a latent's strongest examples that fall on one and the same token: "
        f"{', '.join(told)}. {_of_rank(kinds, 'share')}"
    )


def _of_rank(kinds: Kinds, key: str) -> str:
    ranks = [f"{number(rank(of, key), '.2f')} among {dictionary}" for dictionary, of in by_dictionary(kinds).items()]
    return f"Its rank correlation with the latent's maximum is {' and '.join(ranks)}."


def _rows(kinds: Kinds) -> tuple[Compared, ...]:
    report = {"simulators": "1.154", "sparse latents": "2.833", "autoencoder": "higher"}

    def rating(of: list[Numbers]) -> str:
        return f"{mean(of, 'rating'):.3f} of {count(of, 'rating')}" if count(of, "rating") else "not rated"

    ranks = [
        Compared(f"larger maximum, higher {what}: rank correlation, {dictionary}", told, number(rank(of, key), ".2f"))
        for key, what, told in (("rating", "rating", "felt so"), ("share", "share on one token", "-"))
        for dictionary, of in by_dictionary(kinds).items()
    ]
    return (
        *(Compared(f"mean rating from 0 to 4, {kind}", report[kind], rating(of)) for kind, of in kinds.items()),
        *(Compared(f"among the first {N_LATENTS}, {kind}: all, dead", "-", _count(of)) for kind, of in kinds.items()),
        *(
            Compared(
                f"strongest examples on one token, {kind}: mean, latents",
                "-",
                f"{share(mean(of, 'share'), 1)}, {count(of, 'share')}",
            )
            for kind, of in kinds.items()
        ),
        *ranks,
    )


def _latents(bench: Bench, order: Order, seen: set[int]) -> list[Numbers]:
    _, types, firing = typed(bench, order)
    found = examples_of(bench, order, range(min(N_LATENTS, order.n_latents)))
    latents = []
    for latent, examples in found.items():
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


def _page(numbers: Numbers) -> Any:
    strings: Mapping[int, str] = {int(token): text for token, text in numbers["strings"].items()}
    groups = {name: [_card(latent) for latent in latents] for name, latents in numbers["of"].items()}

    def write(path: Path) -> None:
        pages.write_examples(
            path,
            groups,
            strings=lambda ids: [strings.get(token, f"[{token}]") for token in ids],
            title=f"The first {N_LATENTS} latents of student and autoencoder",
            lead=f"Layer {numbers['layer']}: the strongest examples of each on held-out text.",
        )

    return write


def _card(latent: Numbers) -> pages.LatentCard:
    examples = tuple(
        Example(torch.tensor(e["tokens"]), torch.tensor(e["activations"]), e["peak"], e["sequence"], e["position"])
        for e in latent["examples"]
    )
    return pages.LatentCard(
        latent["latent"],
        TopExamples(latent["latent"], examples, latent["n_tokens"]),
        latent["n_fired"] / latent["n_tokens"],
        latent["n_tokens"],
        "simulator" if latent["simulator"] else "sparse latent",
    )


def _scatter(kinds: Kinds, key: str) -> Any:
    colours = {"simulators": Palette.SIMULATORS, "sparse latents": Palette.SPARSE, "autoencoder": Palette.AUTOENCODER}
    scale, label = (100, "strongest examples on one token (%)") if key == "share" else (1, "rating, from 0 to 4")
    known = {kind: [latent for latent in of if latent[key] is not None] for kind, of in kinds.items()}
    points = {kind: ([p["max"] for p in of], [scale * p[key] for p in of]) for kind, of in known.items()}
    return figures.points(points, "largest activation", label, colours=colours)


def _count(latents: list[Numbers]) -> str:
    return f"{len(latents)}, {sum(latent['n_fired'] == 0 for latent in latents)}"
