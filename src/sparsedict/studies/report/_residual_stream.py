"""The report's answer to features of several layers: autoencoders of the residual stream, layer after layer."""

from __future__ import annotations

from typing import ClassVar

import torch

from sparsedict import figures
from sparsedict.analysis import DictionaryMatch, match_dictionaries
from sparsedict.figures import Palette
from sparsedict.studies._bench import Bench
from sparsedict.studies._places import residual
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import modern, number, share

PRESENT = 0.7
"""Decoder cosine from which a latent counts as there already in the layer before."""


class ResidualStream(Study):
    """Whether what autoencoders find in the residual stream appears gradually from layer to layer."""

    name: ClassVar[str] = "residual-stream"
    title: ClassVar[str] = "Features of several layers"
    shows: ClassVar[str] = "The report's proposal"
    claim: ClassVar[str] = (
        "Distilling one MLP may miss features that several layers build together. An autoencoder of the residual "
        "stream after each layer should pick them up, and show them appearing gradually as the model builds them."
    )

    def measure(self, bench: Bench) -> Numbers:
        width = bench.width(bench.layer)
        orders = {layer: modern(bench, residual(layer), width, kind="autoencoder") for layer in bench.layers}
        bench.train(orders.values())
        found: Numbers = {"layers": bench.layers, "of": {}, "pairs": {}}
        live: dict[int, torch.Tensor] = {}
        for layer, order in orders.items():
            alive = bench.firing(order).counts > 0
            live[layer] = bench.dictionary(order).decoder.detach()[alive]
            n_live = int(alive.sum())
            found["of"][layer] = {"fvu": bench.error(order).fvu, "n_live": n_live, "n_latents": order.n_latents}
        for before, after in zip(bench.layers, bench.layers[1:], strict=False):
            match = match_dictionaries(live[after], live[before], seed=bench.seed)
            found["pairs"][f"{before} to {after}"] = {
                "cosine": match.cosine_a,
                "null": match.null_a,
                "n_present": int((match.cosine_a > PRESENT).sum()),
                "n_null": int((match.null_a > PRESENT).sum()),
            }
        found["ages"] = _ages(live, bench.layers)
        return found

    def found(self, numbers: Numbers) -> Finding:
        pairs = numbers["pairs"]
        if not pairs:
            return Finding("not measured", "The model has one layer only.")
        ages = numbers["ages"]
        gradual = all(n > 0.05 * sum(ages.values()) for n in ages.values())
        verdict = "seen" if gradual else "partly seen"
        return Finding(verdict, _summary(numbers), _rows(numbers), _drawings(pairs), NOTES)


def _summary(numbers: Numbers) -> str:
    pairs, ages = numbers["pairs"], numbers["ages"]
    last, n_last = numbers["layers"][-1], sum(ages.values())
    before = ", ".join(f"{_present(pair):.0%} (layer {name})" for name, pair in pairs.items())
    born = ", ".join(f"{n / n_last:.0%} to layer {layer}" for layer, n in ages.items())
    return (
        f"Of a layer's live latents, {before} were there in the layer before: one of its latents has a cosine above "
        f"{PRESENT} with them, as {_null(pairs):.1%} of random directions have. Followed backwards from layer to "
        f"layer as long as there is such a partner, the latents of layer {last} go back: {born}."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    ages, last = numbers["ages"], numbers["layers"][-1]
    n_last = sum(ages.values())
    return (
        *(Compared(f"there before, layer {n}", "gradually", f"{_present(p):.1%}") for n, p in numbers["pairs"].items()),
        Compared("the same of random directions, at most", "-", f"{_null(numbers['pairs']):.1%}"),
        *(
            Compared(f"cosine with the nearest of the layer before, median, layer {n}", "-", f"{_middle(p):.2f}")
            for n, p in numbers["pairs"].items()
        ),
        *(
            Compared(f"latents of layer {last} that go back to layer {layer}", "-", f"{n:,} ({n / n_last:.1%})")
            for layer, n in ages.items()
        ),
        *(
            Compared(f"layer {layer}: FVU, live", "-", f"{number(p['fvu'])}, {share(p['n_live'], p['n_latents'])}")
            for layer, p in numbers["of"].items()
        ),
    )


def _drawings(pairs: Numbers) -> dict[str, Drawing]:
    cosines = {f"layer {name}": torch.tensor(pair["cosine"]) for name, pair in pairs.items()}
    cosines["random directions"] = torch.tensor(next(iter(pairs.values()))["null"])
    colours = {"random directions": Palette.NULL}
    return {
        "residual-neighbours": Drawing(
            lambda: figures.cosine_histograms(
                cosines, "cosine with the nearest latent of the layer before", colours=colours
            ),
            "How near each live latent of a layer's residual stream is to one of the layer before.",
        )
    }


def _present(pair: Numbers) -> float:
    return pair["n_present"] / len(pair["cosine"])


def _middle(pair: Numbers) -> float:
    return float(torch.tensor(pair["cosine"]).median())


def _null(pairs: Numbers) -> float:
    return max(pair["n_null"] / len(pair["cosine"]) for pair in pairs.values())


NOTES = (
    "TopK autoencoders, one for the stream after each layer, all from the same seed and "
    "tokens. A latent that is the same direction in two layers may stand for a feature that goes on, or for two that "
    "were found by "
    "chance to be alike: the null says how often.",
)


def _ages(live: dict[int, torch.Tensor], layers: list[int]) -> dict[int, int]:
    """Counts the last layer's latents by the first layer of the unbroken chain of partners that leads to them."""
    last = layers[-1]
    born = torch.full((len(live[last]),), last)
    at = torch.arange(len(live[last]))
    going = torch.ones(len(live[last]), dtype=torch.bool)
    for after, before in zip(layers[::-1], layers[-2::-1], strict=False):
        match: DictionaryMatch = match_dictionaries(live[after], live[before])
        going = going & (match.cosine_a[at] > PRESENT)
        at = torch.where(going, match.latent_of_a[at], at.clamp(max=len(live[before]) - 1))
        born[going] = before
    return {layer: int((born == layer).sum()) for layer in layers}
