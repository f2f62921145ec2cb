"""An open question of the report: the latents that only a distiller or only an autoencoder finds."""

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

from ..claims import Above, Below, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Difference, Ratio, measured, told
from ..experiment import Experiment
from ..sites import mlp
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import Part, median, modern, row, typed

SHARED = 0.7
"""Decoder cosine above which two latents count as equal."""
KINDS = ("distiller", "autoencoder")
FOUND = {
    "autoencoder": "distiller's latents found again in an autoencoder",
    "distiller": "distiller's latents found again in a second distiller",
    "start": "distiller's latents found again in an autoencoder, untrained starts",
    "random": "distiller's latents found again in random directions",
}
PARTNERS = {"distiller": "in a second distiller", "autoencoder": "in an autoencoder"}
BACK = "autoencoder's latents found again in a distiller"


class TwoDictionaries(Study):
    """The latents that a distiller and an autoencoder of one MLP have in common, and their other latents."""

    name: ClassVar[str] = "two-dictionaries"
    title: ClassVar[str] = "Latents of a distiller and of an autoencoder"
    shows: ClassVar[str] = "An open question of the report"
    claim: ClassVar[str] = (
        "The report asks which kinds of features a distiller learns, and which an autoencoder learns. This study "
        "tests three statements. Training leads a distiller and an autoencoder to common latents, more than their "
        "initial latents have in common. They have fewer latents in common than two distillers with different seeds. "
        "Simulators are specific to the distiller."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        k = experiment.setting.count
        specs = {kind: _order(experiment, kind, k) for kind in KINDS}
        experiment.train(repeated for spec in specs.values() for repeated in experiment.repeated(spec))
        matches = {kind: _match(experiment, specs["distiller"], spec) for kind, spec in specs.items()}
        cosines = {PARTNERS[kind]: match.cosine_a for kind, match in matches.items()}
        return {
            "layer": experiment.layer,
            "k": k,
            "measured": measured([_measure(experiment, specs, repeat) for repeat in range(experiment.setting.n_seeds)]),
            "cosines": {**cosines, "random directions": matches["autoencoder"].null_a},
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        own = Difference("distiller: simulators among its own", "autoencoder: simulators among its own")
        return [
            Clause("latents found again in an autoencoder, over those found again in a second distiller",
                   Ratio(FOUND["autoencoder"], FOUND["distiller"]), Below(1)),
            Clause("latents shared with the autoencoder, minus those of the untrained starts",
                   Difference(FOUND["autoencoder"], FOUND["start"]), Above(0), form=".1%"),
            Clause("simulators among the distiller's own latents, minus those among the autoencoder's own",
                   own, Above(0), form=".1%"),
        ]  # fmt: skip

    def found(self, numbers: Numbers) -> Finding:
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(numbers), _notes(numbers))


def _order(experiment: Experiment, kind: str, k: int) -> DictionarySpec:
    return modern(experiment, mlp(experiment.layer), experiment.width(experiment.layer), TopK(k), kind=kind)


def _live(experiment: Experiment, spec: DictionarySpec) -> Tensor:
    return experiment.firing(spec).counts > 0


def _match(experiment: Experiment, spec: DictionarySpec, other: DictionarySpec) -> DictionaryMatch:
    """Returns the match of the live latents of a dictionary with those of another dictionary of the next seed."""
    other = experiment.other_seed(replace(other, repeat=spec.repeat))
    rows = [experiment.dictionary(o).decoder.detach()[_live(experiment, o)] for o in (spec, other)]
    return match_dictionaries(rows[0], rows[1], seed=spec.seed(experiment.seed))


def _match_starts(experiment: Experiment, spec: DictionarySpec, other: DictionarySpec) -> DictionaryMatch:
    other = experiment.other_seed(replace(other, repeat=spec.repeat))
    return match_dictionaries(experiment.start(spec), experiment.start(other), seed=spec.seed(experiment.seed))


def _measure(experiment: Experiment, specs: dict[str, DictionarySpec], repeat: int) -> Part:
    """Returns the numbers of one seed's pair. Each dictionary is compared with dictionaries of the next seed."""
    ours, theirs = (replace(specs[kind], repeat=repeat) for kind in KINDS)
    there, back = _match(experiment, ours, theirs), _match(experiment, theirs, ours)
    found: Part = {
        FOUND["autoencoder"]: _share(there.cosine_a),
        FOUND["distiller"]: _share(_match(experiment, ours, ours).cosine_a),
        FOUND["start"]: _share(_match_starts(experiment, ours, theirs).cosine_a),
        FOUND["random"]: _share(there.null_a),
        BACK: _share(back.cosine_a),
    }
    for kind, spec, match in zip(KINDS, (ours, theirs), (there, back), strict=True):
        found |= {f"{kind}: {key}": value for key, value in _divided(experiment, spec, match.cosine_a).items()}
    return found


def _share(cosine: Tensor) -> float:
    return float((cosine > SHARED).double().mean())


def _divided(experiment: Experiment, spec: DictionarySpec, cosine: Tensor) -> Part:
    """Returns statistics of the latents that both dictionaries have, and of the other latents."""
    match, types, firing = typed(experiment, spec)
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
        f"Of the live latents of a distiller, {tell(FOUND['autoencoder'])} have a partner in an autoencoder (decoder "
        f"cosine above {SHARED}), and {tell(FOUND['distiller'])} have a partner in a second distiller. Of the "
        f"autoencoder's latents, {tell(BACK)} have a partner in a distiller. The share is {tell(FOUND['start'])} for "
        f"untrained dictionaries and {tell(FOUND['random'])} for random directions. Of the latents without a partner, "
        f"{tell('distiller: simulators among its own')} are simulators in the distiller and "
        f"{tell('autoencoder: simulators among its own')} in the autoencoder."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known = numbers["measured"]
    shared = [row(known, key, key, form=".1%") for key in (*FOUND.values(), BACK)]
    divided = [
        row(known, f"{kind}: {key} {which}", f"{kind}: {key} {which}", form=form)
        for kind in KINDS
        for key, form in (
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
        PARTNERS["distiller"]: Palette.DISTILLER,
        PARTNERS["autoencoder"]: Palette.AUTOENCODER,
        "random directions": Palette.NULL,
    }
    return {
        "shared-latents": Drawing(
            lambda: figures.cosine_histograms(cosines, "decoder cosine with the nearest latent", colours=colours),
            "First seed: density of the cosine of each live latent of the distiller with the nearest latent of an "
            "autoencoder and of a second distiller, both of another seed. The density for random directions is shown "
            "for comparison; its peak is cut off.",
        )
    }


def _notes(numbers: Numbers) -> tuple[str, ...]:
    return (
        f"All dictionaries use TopK with {numbers['k']} active latents, and have the same width and number of "
        "training tokens. Each comparison is between two seeds, so that the two dictionaries have different initial "
        "latents and a different order of the data. Dead latents are excluded.",
    )
