"""The report's answer to features of several layers: autoencoders of the residual stream, layer after layer."""

from __future__ import annotations

from typing import ClassVar

import torch

from sparsedict import figures
from sparsedict.analysis import DictionaryMatch, match_dictionaries
from sparsedict.figures import Palette
from sparsedict.studies._bench import Bench, residual
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
        layers, pairs, of = numbers["layers"], numbers["pairs"], numbers["of"]
        if not pairs:
            return Finding("not measured", "The model has one layer only.")
        cosines = {f"layer {name}": torch.tensor(pair["cosine"]) for name, pair in pairs.items()}
        cosines["random directions"] = torch.tensor(next(iter(pairs.values()))["null"])
        drawings = {
            "residual-neighbours": Drawing(
                lambda: figures.cosine_histograms(
                    cosines,
                    "cosine with the nearest latent of the layer before",
                    colours={"random directions": Palette.NULL},
                ),
                "How near each live latent of a layer's residual stream is to one of the layer before.",
            )
        }
        shares = {name: pair["n_present"] / len(pair["cosine"]) for name, pair in pairs.items()}
        nulls = max(pair["n_null"] / len(pair["cosine"]) for pair in pairs.values())
        ages = numbers["ages"]
        n_last = sum(ages.values())
        summary = (
            f"From layer to layer, {', '.join(f'{value:.0%}' for value in shares.values())} of the live latents were "
            f"there before (cosine above {PRESENT}; of random directions {nulls:.1%}). Followed backwards from layer "
            f"{layers[-1]}, "
            + ", ".join(f"{n / n_last:.0%} go back to layer {layer}" for layer, n in ages.items())
            + ": features are added in every layer, and most stay once they are there."
            if min(shares.values()) > 0.3
            else ": most latents of a layer have no partner in the layer before."
        )
        rows = (
            *(Compared(f"there before, layer {name}", "gradually", f"{value:.1%}") for name, value in shares.items()),
            Compared("the same of random directions, at most", "-", f"{nulls:.1%}"),
            *(
                Compared(f"latents of layer {layers[-1]} first seen in layer {layer}", "-", f"{n:,} ({n / n_last:.1%})")
                for layer, n in ages.items()
            ),
            *(
                Compared(f"layer {layer}: FVU, live", "-", f"{number(p['fvu'])}, {share(p['n_live'], p['n_latents'])}")
                for layer, p in of.items()
            ),
        )
        gradual = all(n > 0.05 * n_last for n in list(ages.values())[1:])
        return Finding("seen" if gradual else "partly seen", summary, rows, drawings, NOTES)


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
