"""An open question: what a much larger student finds."""

from __future__ import annotations

from typing import ClassVar

import torch

from sparsedict import figures
from sparsedict.activations import TopK
from sparsedict.analysis import match_dictionaries
from sparsedict.figures import Curve, Palette
from sparsedict.norms import UnitNorm
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._places import mlp
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import AUXK, counts, number, share, typed
from sparsedict.studies.report._reading import LEAST_EXAMPLES, examples_of, token_share

SHARED = 0.7
N_READ = 200
"""Live latents whose examples are looked at."""


class WiderStudents(Study):
    """What students of 4, 16 and 64 latents for each neuron find."""

    name: ClassVar[str] = "wider-students"
    title: ClassVar[str] = "Much larger students"
    shows: ClassVar[str] = "An open question of the report"
    claim: ClassVar[str] = "If the student is made sufficiently larger, does one end up with compelling features?"

    def measure(self, bench: Bench) -> Numbers:
        setting = bench.setting
        k = setting.count
        orders = {
            expansion: Order(
                mlp(bench.layer),
                bench.width(bench.layer, expansion),
                setting.wide,
                (AUXK,),
                activation=TopK(k),
                decoder_norm=UnitNorm(),
            )
            for expansion in setting.expansions
        }
        bench.train(orders.values())
        found: Numbers = {"layer": bench.layer, "k": k, "of": {}, "n_tokens": setting.wide.n_tokens}
        before: torch.Tensor | None = None
        for expansion, order in orders.items():
            match, types, firing = typed(bench, order)
            losses = bench.losses(order)
            rows = bench.dictionary(order).decoder.detach()[~firing.dead.mask]
            found["of"][expansion] = {
                **counts(match, types, firing),
                "fvu": bench.error(order).fvu,
                "l0": bench.l0(order),
                "recovered_zero": losses.zero,
                "recovered_mean": losses.mean,
                # Of the smaller student's live latents, those that the larger has too; and the other way.
                "n_kept": None if before is None else _n_shared(before, rows),
                "n_before": None if before is None else len(before),
                "n_new": None if before is None else len(rows) - _n_shared(rows, before),
                "n_live": len(rows),
                **_token_shares(bench, order, ~firing.dead.mask),
            }
            before = rows
        return found

    def found(self, numbers: Numbers) -> Finding:
        of = {int(expansion): part for expansion, part in numbers["of"].items()}
        return Finding("answered", _summary(of, numbers), _rows(of), _drawings(of, numbers["k"]), NOTES)


NOTES = (
    "All with as many tokens: a wide student sees few of them for each latent. Dead are those that never fire on the "
    "held-out tokens.",
    f"The share of examples on one token is the mean over the first {N_READ} live latents of each, without those that "
    f"have fewer than {LEAST_EXAMPLES} examples; see the first 50 latents, above.",
)


def _summary(of: dict[int, Numbers], numbers: Numbers) -> str:
    small, large = of[min(of)], of[max(of)]
    return (
        f"From {min(of)} to {max(of)} latents for each neuron, at {numbers['k']} active latents and on "
        f"{numbers['n_tokens']:,} tokens each, the unexplained variance goes from {small['fvu']:.3f} to "
        f"{large['fvu']:.3f} and the loss recovered (mean) from {small['recovered_mean']:.1%} to "
        f"{large['recovered_mean']:.1%}; live sparse latents from {small['n_sparse_live']:,} to "
        f"{large['n_sparse_live']:,}, their median frequency from {number(small['frequency_sparse'], '.2%')} to "
        f"{number(large['frequency_sparse'], '.2%')}, simulators from {small['n_simulators']:,} to "
        f"{large['n_simulators']:,}. {share(large['n_kept'], large['n_before'])} of the next smaller one's live "
        f"latents are found again, and {share(large['n_new'], large['n_live'])} of the largest one's are new. Nobody "
        "has rated them. Of a latent's strongest examples, "
        f"{', '.join(number(part['token_share'], '.0%') for part in of.values())} fall on one and the same token at "
        f"{', '.join(map(str, of))} latents for each neuron."
    )


def _rows(of: dict[int, Numbers]) -> tuple[Compared, ...]:
    def row(what: str, key: str, form: str) -> Compared:
        return Compared(what, "-", ", ".join(number(part[key], form) for part in of.values()))

    def shares(what: str, part: str, whole: str) -> Compared:
        return Compared(what, "-", ", ".join(share(p[part], p[whole] or 0) for p in of.values()))

    return (
        Compared("latents for each neuron", "4", ", ".join(map(str, of))),
        row("variance unexplained (FVU)", "fvu", ".4f"),
        row("loss recovered, against zero", "recovered_zero", ".1%"),
        row("loss recovered, against the mean", "recovered_mean", ".1%"),
        row("simulators", "n_simulators", ","),
        row("neurons that have a simulator", "n_neurons_simulated", ","),
        row("live sparse latents", "n_sparse_live", ","),
        row("median frequency of sparse latents", "frequency_sparse", ".3%"),
        shares("dead", "n_dead", "n_latents"),
        row("strongest examples on one token, mean", "token_share", ".1%"),
        row("latents of which this is the mean", "n_read", ","),
        shares(f"latents of the smaller one that the next has too (cosine above {SHARED})", "n_kept", "n_before"),
        shares("latents that the smaller one doesn't have", "n_new", "n_live"),
    )


def _drawings(of: dict[int, Numbers], k: int) -> dict[str, Drawing]:
    xs, label = list(of), "latents for each neuron"
    kinds = {
        "simulators": ("n_simulators", Palette.SIMULATORS),
        "live sparse latents": ("n_sparse_live", Palette.SPARSE),
        "dead": ("n_dead", Palette.DEAD),
    }
    shares = {
        name: Curve(xs, [100 * part[key] / part["n_latents"] for part in of.values()], colour)
        for name, (key, colour) in kinds.items()
    }
    errors = {"student": Curve(xs, [part["fvu"] for part in of.values()])}
    return {
        "wider-types": Drawing(
            lambda: figures.curves(shares, label, "share of latents (%)", x_scale="log"),
            "What the latents are, by the student's width.",
        ),
        "wider-error": Drawing(
            lambda: figures.curves(errors, label, "variance unexplained (FVU)", x_scale="log"),
            f"Their error, at {k} active latents per token and equal tokens.",
        ),
    }


def _token_shares(bench: Bench, order: Order, alive: torch.Tensor) -> Numbers:
    """Returns how far single tokens explain the first live latents."""
    found = examples_of(bench, order, alive.nonzero().flatten()[:N_READ].tolist())
    known = [part for part in map(token_share, found.values()) if part is not None]
    return {"token_share": sum(known) / len(known) if known else None, "n_read": len(known)}


def _n_shared(rows: torch.Tensor, others: torch.Tensor) -> int:
    return int((match_dictionaries(rows, others).cosine_a > SHARED).sum())
