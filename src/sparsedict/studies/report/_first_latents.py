"""Figure 6 and table 1: top activating examples of the first latents, and how readable they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from sparsedict import figures, pages
from sparsedict.analysis import Example, TopExamples, top_examples
from sparsedict.figures import Palette
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import autoencoder, student, typed

N_LATENTS = 50
N_EXAMPLES = 10
CONTEXT = 12
KINDS = ("simulators", "sparse latents", "autoencoder")


class FirstLatents(Study):
    """What the first latents of student and autoencoder fire on, and how well single tokens explain it."""

    name: ClassVar[str] = "first-latents"
    title: ClassVar[str] = "The first 50 latents, read"
    shows: ClassVar[str] = "Figure 6 and table 1"
    claim: ClassVar[str] = (
        "Rated blindly from 0 to 4 by how well one rule explains their top activating examples, the student's "
        "simulators score 1.154 on average, its sparse latents 2.833, and the autoencoder's latents higher still. "
        "Latents with larger "
        "maxima seem to score higher."
    )

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
        kinds = _by_kind(numbers)
        maxima = [latent["max"] for latents in kinds.values() for latent in latents if latent["share"] is not None]
        shares = [latent["share"] for latents in kinds.values() for latent in latents if latent["share"] is not None]
        means = {kind: _mean([latent["share"] for latent in of]) for kind, of in kinds.items()}
        rank = _rank_correlation(maxima, shares)
        summary = (
            "The blind ratings are not part of this run: nobody has rated its latents, and the library has no "
            "automatic rule "
            "score yet, so table 1 stays open. What can be counted is how often a latent's strongest examples fall "
            "on one and the same token: "
            + ", ".join(f"{kind} {_per_cent(mean)}" for kind, mean in means.items())
            + f". Its rank correlation with the latent's maximum is {'-' if rank is None else f'{rank:.2f}'}."
        )
        report = {"simulators": "1.154", "sparse latents": "2.833", "autoencoder": "higher"}
        rows = (
            *(Compared(f"mean rating from 0 to 4, {kind}", report[kind], "not rated") for kind in KINDS),
            *(
                Compared(f"latents among the first {N_LATENTS}, {kind}: all, dead", "-", _count(kinds[kind]))
                for kind in KINDS
            ),
            *(
                Compared(f"strongest examples on one token, {kind}, mean", "-", _per_cent(means[kind]))
                for kind in KINDS
            ),
            Compared(
                "larger maxima, higher score (rank correlation)", "felt so", "-" if rank is None else f"{rank:.2f}"
            ),
        )
        drawings = {
            "figure-06-maxima": Drawing(
                lambda: _scatter(kinds),
                "Each latent's maximum, and the share of its strongest examples that fall on its most frequent token.",
            )
        }
        return Finding("not measured", summary, rows, drawings, NOTES, {"first-latents.html": _page(numbers)})


NOTES = (
    f"The {N_EXAMPLES} strongest examples of each latent on held-out text, each from a sequence of its own. One token "
    "explaining all of them is a rule, but not the only kind of rule: the share is a lower bound of readability, "
    "and no rating.",
)


def _latents(bench: Bench, order: Order, seen: set[int]) -> list[Numbers]:
    _, types, firing = typed(bench, order)
    n = min(N_LATENTS, order.n_latents)
    context = bench.held_out_tokens.shape[1]
    tokens = bench.held_out_tokens[: math.ceil(bench.setting.n_held_out / context)]
    with bench.phases("examples", f"looking for top examples of the first {n} latents"):
        site = bench.sites[order.site]
        found = top_examples(
            site, bench.dictionary(order), tokens, latents=range(n), n_examples=N_EXAMPLES, context=CONTEXT
        )
    latents = []
    for latent, examples in found.items():
        seen.update(int(token) for e in examples.examples for token in e.tokens.tolist())
        peaks = Counter(int(e.tokens[e.peak]) for e in examples.examples)
        latents.append(
            {
                "latent": latent,
                "simulator": bool(types.simulators[latent]),
                "n_fired": int(firing.counts[latent]),
                "n_tokens": firing.n_tokens,
                "max": max((e.max for e in examples.examples), default=0.0),
                "share": max(peaks.values()) / len(examples) if len(examples) >= N_EXAMPLES // 2 else None,
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


def _by_kind(numbers: Numbers) -> dict[str, list[Numbers]]:
    ours = numbers["of"]["student"]
    return {
        "simulators": [latent for latent in ours if latent["simulator"]],
        "sparse latents": [latent for latent in ours if not latent["simulator"]],
        "autoencoder": numbers["of"]["autoencoder"],
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


def _scatter(kinds: dict[str, list[Numbers]]) -> Any:
    colours = {"simulators": Palette.SIMULATORS, "sparse latents": Palette.SPARSE, "autoencoder": Palette.AUTOENCODER}
    points = {
        kind: (
            [p["max"] for p in of if p["share"] is not None],
            [100 * p["share"] for p in of if p["share"] is not None],
        )
        for kind, of in kinds.items()
    }
    return figures.points(points, "largest activation", "strongest examples on one token (%)", colours=colours)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _per_cent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _count(latents: list[Numbers]) -> str:
    return f"{len(latents)}, {sum(latent['n_fired'] == 0 for latent in latents)}"


def _rank_correlation(a: list[float], b: list[float]) -> float | None:
    """Returns Spearman's correlation, ties sharing their mean rank; None where either doesn't vary."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    ranks = torch.stack([_ranks(torch.tensor(values, dtype=torch.float64)) for values in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: torch.Tensor) -> torch.Tensor:
    smaller = (values[:, None] > values).sum(1).double()
    equal = (values[:, None] == values).sum(1).double()
    return smaller + (equal - 1) / 2
