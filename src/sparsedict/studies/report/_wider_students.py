"""An open question: what a much larger student finds."""

from __future__ import annotations

from typing import ClassVar

import torch

from sparsedict import figures
from sparsedict.activations import TopK
from sparsedict.analysis import match_dictionaries
from sparsedict.figures import Curve, Palette
from sparsedict.norms import UnitNorm
from sparsedict.studies._bench import Bench, mlp
from sparsedict.studies._order import Order
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import AUXK, counts, number, share, typed

SHARED = 0.7


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
            }
            before = rows
        return found

    def found(self, numbers: Numbers) -> Finding:
        of = {int(expansion): part for expansion, part in numbers["of"].items()}
        xs = list(of)

        def per_cent(key: str) -> list[float]:
            return [100 * part[key] / part["n_latents"] for part in of.values()]

        shares = {
            "simulators": Curve(xs, per_cent("n_simulators"), Palette.SIMULATORS),
            "live sparse latents": Curve(xs, per_cent("n_sparse_live"), Palette.SPARSE),
            "dead": Curve(xs, per_cent("n_dead"), Palette.DEAD),
        }
        drawings = {
            "wider-types": Drawing(
                lambda: figures.curves(shares, "latents for each neuron", "share of latents (%)", x_scale="log"),
                "What the latents are, by the student's width.",
            ),
            "wider-error": Drawing(
                lambda: figures.curves(
                    {"student": Curve(xs, [part["fvu"] for part in of.values()])},
                    "latents for each neuron",
                    "variance unexplained (FVU)",
                    x_scale="log",
                ),
                f"Their error, at {numbers['k']} active latents per token and equal tokens.",
            ),
        }
        small, large = of[xs[0]], of[xs[-1]]
        summary = (
            f"From {xs[0]} to {xs[-1]} latents for each neuron, the unexplained variance goes from "
            f"{small['fvu']:.3f} to "
            f"{large['fvu']:.3f}, simulators from {small['n_simulators']:,} to {large['n_simulators']:,} (of "
            f"{large['n_latents']:,}) and live sparse latents from {small['n_sparse_live']:,} to "
            f"{large['n_sparse_live']:,}, "
            f"on {numbers['n_tokens']:,} tokens each."
        )

        def row(what: str, key: str, form: str) -> Compared:
            return Compared(what, "-", ", ".join(number(part[key], form) for part in of.values()))

        rows = (
            Compared("latents for each neuron", "4", ", ".join(map(str, xs))),
            row("variance unexplained (FVU)", "fvu", ".4f"),
            row("loss recovered, against zero", "recovered_zero", ".1%"),
            row("loss recovered, against the mean", "recovered_mean", ".1%"),
            row("simulators", "n_simulators", ","),
            row("neurons that have a simulator", "n_neurons_simulated", ","),
            row("live sparse latents", "n_sparse_live", ","),
            row("median frequency of sparse latents", "frequency_sparse", ".3%"),
            Compared("dead", "-", ", ".join(share(p["n_dead"], p["n_latents"]) for p in of.values())),
            Compared(
                "latents of the smaller one that the next has too (cosine above 0.7)",
                "-",
                ", ".join("-" if p["n_kept"] is None else share(p["n_kept"], p["n_before"]) for p in of.values()),
            ),
            Compared(
                "latents that the smaller one doesn't have",
                "-",
                ", ".join("-" if p["n_new"] is None else share(p["n_new"], p["n_live"]) for p in of.values()),
            ),
        )
        notes = (
            "Wide students see few tokens for each latent here; on more tokens, fewer would be dead and the error "
            "lower.",
        )
        return Finding("answered", summary, rows, drawings, notes)


def _n_shared(rows: torch.Tensor, others: torch.Tensor) -> int:
    return int((match_dictionaries(rows, others).cosine_a > SHARED).sum())
