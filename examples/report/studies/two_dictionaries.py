"""An open question: what distillation finds that an autoencoder doesn't, and the other way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from sparsedict import figures
from sparsedict.activations import TopK
from sparsedict.analysis import DictionaryMatch, match_dictionaries
from sparsedict.figures import Palette

from ..bench import Bench
from ..claims import Above, Below, Clause
from ..estimates import Difference, Ratio, measured, told
from ..order import Order
from ..places import mlp
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import Part, median, modern, row, typed

SHARED = 0.7
"""Decoder cosine from which two latents count as one and the same."""
KINDS = ("distiller", "autoencoder")
FOUND = {
    "autoencoder": "distiller's latents found again in an autoencoder",
    "distiller": "distiller's latents found again in a second distiller",
    "start": "distiller's latents found again in an autoencoder, untrained starts",
    "random": "distiller's latents found again in random directions",
}
BACK = "autoencoder's latents found again in a distiller"


class TwoDictionaries(Study):
    """The latents that a distiller and an autoencoder of one MLP share, and those that they don't."""

    name: ClassVar[str] = "two-dictionaries"
    title: ClassVar[str] = "Latents of a distiller and of an autoencoder"
    shows: ClassVar[str] = "An open question of the report"
    claim: ClassVar[str] = (
        "The report asks which kinds of features are learned by distillation, and which by an autoencoder. Tested "
        "here: the two find other latents, beyond the difference between two seeds of a distiller, and simulators are "
        "the distiller's."
    )

    def measure(self, bench: Bench) -> Numbers:
        k = bench.setting.count
        orders = {kind: _order(bench, kind, k) for kind in KINDS}
        bench.train(repeated for order in orders.values() for repeated in bench.repeated(order))
        matches = {kind: _match(bench, orders["distiller"], order) for kind, order in orders.items()}
        cosines = {f"found in the {kind}": match.cosine_a for kind, match in matches.items()}
        return {
            "layer": bench.layer,
            "k": k,
            "measured": measured([_measure(bench, orders, repeat) for repeat in range(bench.setting.n_seeds)]),
            "cosines": {**cosines, "random directions": matches["autoencoder"].null_a},
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        own = Difference("distiller: simulators among its own", "autoencoder: simulators among its own")
        return [
            Clause("latents found again in an autoencoder, over those found again in a second distiller",
                   Ratio(FOUND["autoencoder"], FOUND["distiller"]), Below(0.5)),
            Clause("latents shared with the autoencoder, less those of the untrained starts",
                   Difference(FOUND["autoencoder"], FOUND["start"]), Above(0), form=".1%"),
            Clause("simulators among the distiller's own latents, less those among the autoencoder's own",
                   own, Above(0), form=".1%"),
        ]  # fmt: skip

    def found(self, numbers: Numbers) -> Finding:
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(numbers), _notes(numbers))


def _order(bench: Bench, kind: str, k: int) -> Order:
    return modern(bench, mlp(bench.layer), bench.width(bench.layer), TopK(k), kind=kind)


def _live(bench: Bench, order: Order) -> Tensor:
    return bench.firing(order).counts > 0


def _match(bench: Bench, order: Order, other: Order) -> DictionaryMatch:
    """Matches the live latents of a dictionary with those of another one of the next seed."""
    other = bench.other_seed(replace(other, repeat=order.repeat))
    rows = [bench.dictionary(o).decoder.detach()[_live(bench, o)] for o in (order, other)]
    return match_dictionaries(rows[0], rows[1], seed=order.seed(bench.seed))


def _match_starts(bench: Bench, order: Order, other: Order) -> DictionaryMatch:
    other = bench.other_seed(replace(other, repeat=order.repeat))
    return match_dictionaries(bench.start(order), bench.start(other), seed=order.seed(bench.seed))


def _measure(bench: Bench, orders: dict[str, Order], repeat: int) -> Part:
    """Measures one seed's pair; each is compared with dictionaries of the next seed."""
    ours, theirs = (replace(orders[kind], repeat=repeat) for kind in KINDS)
    there, back = _match(bench, ours, theirs), _match(bench, theirs, ours)
    found: Part = {
        FOUND["autoencoder"]: _share(there.cosine_a),
        FOUND["distiller"]: _share(_match(bench, ours, ours).cosine_a),
        FOUND["start"]: _share(_match_starts(bench, ours, theirs).cosine_a),
        FOUND["random"]: _share(there.null_a),
        BACK: _share(back.cosine_a),
    }
    for kind, order, match in zip(KINDS, (ours, theirs), (there, back), strict=True):
        found |= {f"{kind}: {key}": value for key, value in _divided(bench, order, match.cosine_a).items()}
    return found


def _share(cosine: Tensor) -> float:
    return float((cosine > SHARED).double().mean())


def _divided(bench: Bench, order: Order, cosine: Tensor) -> Part:
    """Describes a dictionary's latents that the other has too, and its own."""
    match, types, firing = typed(bench, order)
    alive = ~firing.dead.mask
    simulator, frequency = types.simulators[alive], firing.frequency[alive]
    nearest = match.decoder_cosine[alive]
    found: Part = {}
    for which, mask in (("its own", cosine <= SHARED), ("the shared", cosine > SHARED)):
        some = bool(mask.any())
        found |= {
            f"simulators among {which}": float(simulator[mask].double().mean()) if some else None,
            f"median frequency of {which}": median(frequency[mask]),
            f"median cosine with the nearest neuron of {which}": median(nearest[mask]),
        }
    return found


def _summary(numbers: Numbers) -> str:
    known = numbers["measured"]

    def tell(key: str) -> str:
        return told(known, key, ".1%")

    return (
        f"Of a distiller's live latents, {tell(FOUND['autoencoder'])} have a partner in an autoencoder (decoder cosine "
        f"above {SHARED}), and {tell(FOUND['distiller'])} in a second distiller; {tell(BACK)} of the autoencoder's "
        f"have one in a distiller. Of the untrained starts it is {tell(FOUND['start'])}, of random directions "
        f"{tell(FOUND['random'])}. Simulators are {tell('distiller: simulators among its own')} of the distiller's own "
        f"latents and {tell('autoencoder: simulators among its own')} of the autoencoder's own."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known = numbers["measured"]
    shared = [row(known, key, key, form=".1%") for key in (*FOUND.values(), BACK)]
    divided = [
        row(known, f"{kind}: {what} {which}", f"{kind}: {what} {which}", form=form)
        for kind in KINDS
        for what, form in (
            ("simulators among", ".1%"),
            ("median frequency of", ".2%"),
            ("median cosine with the nearest neuron of", ".2f"),
        )
        for which in ("its own", "the shared")
    ]
    return (*shared, *divided)


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    cosines = {name: torch.tensor(values) for name, values in numbers["cosines"].items()}
    colours = {
        "found in the distiller": Palette.DISTILLER,
        "found in the autoencoder": Palette.AUTOENCODER,
        "random directions": Palette.NULL,
    }
    return {
        "shared-latents": Drawing(
            lambda: figures.cosine_histograms(
                cosines, "decoder cosine with the nearest latent of the other", colours=colours
            ),
            "First seed: density of the cosine of each live latent of the distiller with the nearest of an "
            "autoencoder and of a distiller, both of another seed, and of random directions, whose peak is cut off.",
        )
    }


def _notes(numbers: Numbers) -> tuple[str, ...]:
    return (
        f"TopK with {numbers['k']} active latents, same width and tokens. Every comparison is between two seeds, so "
        "that neither the tokens that the latents start from nor the order of the data are the same. Dead latents are "
        "left out.",
    )
