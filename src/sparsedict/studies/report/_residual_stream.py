"""The report's answer to features of several layers: autoencoders of the residual stream, layer after layer."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from sparsedict import figures
from sparsedict.analysis import DictionaryMatch, match_dictionaries
from sparsedict.figures import Curve, Palette
from sparsedict.latents import firing_counts
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._places import residual
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import modern, number, share

PRESENT = 0.7
"""Decoder cosine from which a latent counts as there already in the layer before."""
LEAST_RISE = 0.01
LEAST_FIRINGS = 20
N_READ = 16_384


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
        last = orders[bench.layers[-1]]
        again = replace(last, n_latents=width // 2)
        bench.train([*orders.values(), again])
        live = {layer: _live(bench, order) for layer, order in orders.items()}
        return {
            "layers": bench.layers,
            "of": {
                layer: {"fvu": bench.error(order).fvu, "n_live": len(live[layer]), "n_latents": order.n_latents}
                for layer, order in orders.items()
            },
            "pairs": {
                f"{before} to {after}": _pair(live[after], live[before], bench.seed)
                for before, after in zip(bench.layers, bench.layers[1:], strict=False)
            },
            "control": _pair(live[bench.layers[-1]], _live(bench, again), bench.seed),
            "ages": _ages(live, bench.layers),
            "readable": {layer: _readable(bench, last, residual(layer)) for layer in bench.layers},
        }

    def found(self, numbers: Numbers) -> Finding:
        pairs = numbers["pairs"]
        if not pairs:
            return Finding("not measured", "The model has one layer only.")
        medians = [part["median"] for part in numbers["readable"].values()]
        rises = all(later > earlier + LEAST_RISE for earlier, later in pairwise(medians))
        stays = min(map(_present, pairs.values())) > 2 * _null(pairs) + LEAST_RISE
        verdict = "seen" if rises and stays else "partly seen" if rises or stays else "not seen"
        return Finding(verdict, _summary(numbers), _rows(numbers), _drawings(numbers), NOTES)


def _summary(numbers: Numbers) -> str:
    pairs, ages, readable = numbers["pairs"], numbers["ages"], numbers["readable"]
    last, n_last = numbers["layers"][-1], sum(ages.values())
    before = ", ".join(f"{_present(pair):.0%} (layer {name})" for name, pair in pairs.items())
    born = ", ".join(f"{n / n_last:.0%} to layer {layer}" for layer, n in ages.items())
    shares = ", ".join(f"{part['median']:.1%}" for part in readable.values())
    most = readable[str(last)]["median"]
    before_last = [part["median"] / most if most > 0 else 0.0 for part in readable.values()]
    return (
        f"Of a layer's live latents, {before} were there in the layer before: one of its latents has a cosine above "
        f"{PRESENT} with them, as {_null(pairs):.1%} of random directions have, and as "
        f"{_present(numbers['control']):.0%} of layer {last}'s have in a second autoencoder of the same stream. "
        f"Followed backwards as long as there is such a partner, the latents of layer {last} go back: {born}. Without "
        f"asking for the same direction: of the variance of layer {last}'s latents, in the middle, a linear map reads "
        f"{shares} from the stream after layers {', '.join(readable)}, so that {before_last[0]:.0%} of what can be "
        "read so is there after the first layer, and the rest comes bit by bit."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    ages, last = numbers["ages"], numbers["layers"][-1]
    n_last = sum(ages.values())
    return (
        *(
            Compared(f"latents with a partner in the layer before, {n}", "gradually", f"{_present(p):.1%}")
            for n, p in numbers["pairs"].items()
        ),
        Compared("the same of random directions, at most", "-", f"{_null(numbers['pairs']):.1%}"),
        *(
            Compared(f"cosine with the nearest of the layer before, median, layer {n}", "-", f"{_middle(p):.2f}")
            for n, p in numbers["pairs"].items()
        ),
        *(
            Compared(f"latents of layer {last} that go back to layer {layer}", "-", f"{n:,} ({n / n_last:.1%})")
            for layer, n in ages.items()
        ),
        Compared(
            f"control: layer {last}'s in a second autoencoder of half the width",
            "-",
            f"{_present(numbers['control']):.1%}",
        ),
        *(
            Compared(
                f"variance of layer {last}'s latents that is read linearly after layer {layer}: quarter, middle, three "
                "quarters",
                "gradually" if layer == str(last) else "-",
                f"{part['quarter']:.1%}, {part['median']:.1%}, {part['three_quarters']:.1%}",
            )
            for layer, part in numbers["readable"].items()
        ),
        *(
            Compared(f"layer {layer}: FVU, live", "-", f"{number(p['fvu'])}, {share(p['n_live'], p['n_latents'])}")
            for layer, p in numbers["of"].items()
        ),
    )


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    pairs, readable = numbers["pairs"], numbers["readable"]
    cosines = {f"layer {name}": torch.tensor(pair["cosine"]) for name, pair in pairs.items()}
    cosines["random directions"] = torch.tensor(next(iter(pairs.values()))["null"])
    colours = {"random directions": Palette.NULL}
    layers = [int(layer) for layer in readable]
    read = {
        words: Curve(layers, [100 * part[key] for part in readable.values()])
        for key, words in {
            "three_quarters": "best quarter above",
            "median": "middle",
            "quarter": "worst quarter below",
        }.items()
    }
    return {
        "residual-neighbours": Drawing(
            lambda: figures.cosine_histograms(
                cosines, "cosine with the nearest latent of the layer before", colours=colours
            ),
            "How near each live latent of a layer's residual stream is to one of the layer before.",
        ),
        "residual-readable": Drawing(
            lambda: figures.curves(read, "stream after layer", "variance read linearly (%)"),
            "How much of the last layer's latents a linear map reads from the stream after each layer.",
        ),
    }


def _present(pair: Numbers) -> float:
    return pair["n_present"] / len(pair["cosine"])


def _middle(pair: Numbers) -> float:
    return float(torch.tensor(pair["cosine"]).median())


def _null(pairs: Numbers) -> float:
    return max(pair["n_null"] / len(pair["cosine"]) for pair in pairs.values())


NOTES = (
    f"What a linear map reads: ridge regression from the stream to the activations of the last layer's latents, on one "
    f"half of the held-out tokens and measured on the other; of latents that fire on {LEAST_FIRINGS} tokens or more of "
    "each half. After the last layer itself it is less than all, for TopK isn't linear.",
    "TopK autoencoders, one for the stream after each layer, all from the same seed and "
    "tokens. A latent that is the same direction in two layers may stand for a feature that goes on, or for two that "
    "were found by "
    "chance to be alike: the null says how often.",
)


def _live(bench: Bench, order: Order) -> Tensor:
    """Returns the decoder rows of the latents that fire on held-out tokens."""
    return bench.dictionary(order).decoder.detach()[bench.firing(order).counts > 0]


def _pair(rows: Tensor, others: Tensor, seed: int) -> Numbers:
    """Matches rows with others, beside random directions."""
    match = match_dictionaries(rows, others, seed=seed)
    return {
        "cosine": match.cosine_a,
        "null": match.null_a,
        "n_present": int((match.cosine_a > PRESENT).sum()),
        "n_null": int((match.null_a > PRESENT).sum()),
    }


@torch.no_grad()
def _readable(bench: Bench, order: Order, site: str) -> Numbers:
    """Returns quartiles of the share of each latent's variance that a linear map reads from another stream."""
    latents = bench.dictionary(order).encode(bench.held_out(order.site).inputs[:N_READ])
    stream = bench.held_out(site).inputs[:N_READ]
    half = len(stream) // 2
    often = (firing_counts(latents[:half]) >= LEAST_FIRINGS) & (firing_counts(latents[half:]) >= LEAST_FIRINGS)
    latents = latents[:, often].double()
    x = torch.cat([stream, stream.new_ones(len(stream), 1)], dim=1).double()
    gram = x[:half].T @ x[:half]
    gram.diagonal().add_(1e-4 * gram.diagonal().mean())
    read = x[half:] @ torch.linalg.solve(gram, x[:half].T @ latents[:half])
    left = (latents[half:] - read).square().mean(0) / latents[half:].var(0, correction=0)
    low, middle, high = (1 - left).quantile(left.new_tensor([0.25, 0.5, 0.75])).tolist() if len(left) else (0.0,) * 3
    return {"n": len(left), "quarter": low, "median": middle, "three_quarters": high}


def _ages(live: dict[int, Tensor], layers: list[int]) -> dict[int, int]:
    """Counts the last layer's latents by the first layer of the unbroken chain of partners that leads to them."""
    last = layers[-1]
    device = live[last].device
    born = torch.full((len(live[last]),), last, device=device)
    at = torch.arange(len(live[last]), device=device)
    going = torch.ones(len(live[last]), dtype=torch.bool, device=device)
    for after, before in zip(layers[::-1], layers[-2::-1], strict=False):
        match: DictionaryMatch = match_dictionaries(live[after], live[before])
        going = going & (match.cosine_a[at] > PRESENT)
        at = torch.where(going, match.latent_of_a[at], at.clamp(max=len(live[before]) - 1))
        born[going] = before
    return {layer: int((born == layer).sum()) for layer in layers}
