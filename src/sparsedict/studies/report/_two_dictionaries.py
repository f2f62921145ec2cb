"""An open question: what distillation finds that an autoencoder doesn't, and the other way."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsedict import figures
from sparsedict.activations import TopK
from sparsedict.analysis import DictionaryMatch, match_dictionaries
from sparsedict.studies._bench import Bench
from sparsedict.studies._places import mlp
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import median, modern, number, share, typed

SHARED = 0.7
"""Decoder cosine from which two latents count as one and the same."""
KINDS = ("distiller", "autoencoder")
FIELDS = ("cosine_a", "latent_of_a", "null_a", "cosine_b", "latent_of_b", "null_b")


class TwoDictionaries(Study):
    """Which latents a distiller and an autoencoder of one MLP share, and what those are that they don't."""

    name: ClassVar[str] = "two-dictionaries"
    title: ClassVar[str] = "What each of the two finds"
    shows: ClassVar[str] = "An open question of the report"
    claim: ClassVar[str] = "What kinds of features are learned by distillation, and what by an autoencoder?"

    def measure(self, bench: Bench) -> Numbers:
        k = bench.setting.count
        width = bench.width(bench.layer)
        orders = {kind: modern(bench, mlp(bench.layer), width, TopK(k), kind=kind) for kind in KINDS}
        again = modern(bench, mlp(bench.layer), width // 2, TopK(k))
        bench.train([*orders.values(), again])
        live: dict[str, Tensor] = {}
        facts: dict[str, dict[str, Tensor]] = {}
        for kind, order in orders.items():
            match, types, firing = typed(bench, order)
            alive = ~firing.dead.mask
            live[kind] = bench.dictionary(order).decoder.detach()[alive]
            facts[kind] = {
                "simulator": types.simulators[alive],
                "frequency": firing.frequency[alive],
                "neuron_cosine": match.decoder_cosine[alive],
            }
        match = match_dictionaries(live["distiller"], live["autoencoder"], seed=bench.seed)
        other = bench.dictionary(again).decoder.detach()[bench.firing(again).counts > 0]
        control = match_dictionaries(live["distiller"], other, seed=bench.seed)
        cosines = {"distiller": match.cosine_a, "autoencoder": match.cosine_b}
        return {
            "layer": bench.layer,
            "k": k,
            "of": {kind: _divided(cosines[kind], facts[kind]) for kind in KINDS},
            "match": {name: getattr(match, name) for name in FIELDS},
            "n_mutual": int((match.mutual & (match.cosine_a > SHARED)).sum()),
            "n_control": int((control.cosine_a > SHARED).sum()),
        }

    def found(self, numbers: Numbers) -> Finding:
        return Finding("answered", _summary(numbers), _rows(numbers), _drawings(numbers), _notes(numbers))


def _summary(numbers: Numbers) -> str:
    ours, theirs = (numbers["of"][kind] for kind in KINDS)
    return (
        f"{share(ours['n_shared'], ours['n'])} of the distiller's live latents have a partner in the autoencoder "
        f"(decoder cosine above {SHARED}), {share(theirs['n_shared'], theirs['n'])} the other way. "
        f"{share(numbers['n_control'], ours['n'])} have one in a second distiller, of half the width: the two kinds "
        f"share {_alike(ours['n_shared'], numbers['n_control'])} two distillers do. {_told('the distiller', ours)} "
        f"{_told('the autoencoder', theirs)}"
    )


def _alike(n_shared: int, n_control: int) -> str:
    ratio = n_shared / n_control if n_control else 1.0
    return (
        "far less than"
        if ratio < 0.5
        else "less than"
        if ratio < 0.9
        else "about as much as"
        if ratio < 1.1
        else ("more than")
    )


def _told(name: str, part: Numbers) -> str:
    own, shared = part["own"], part["shared"]
    return (
        f"What {name} alone has, against what it shares: {share(own['n_simulators'], own['n'])} simulators against "
        f"{share(shared['n_simulators'], shared['n'])}, a median cosine of {number(own['neuron_cosine'], '.2f')} "
        f"against {number(shared['neuron_cosine'], '.2f')} with the nearest neuron, a median firing frequency of "
        f"{number(own['frequency'], '.2%')} against {number(shared['frequency'], '.2%')}."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    of = numbers["of"]
    control = share(numbers["n_control"], of["distiller"]["n"])
    rows = [
        Compared(f"pairs nearest to each other, cosine above {SHARED}", "-", f"{numbers['n_mutual']:,}"),
        Compared("control: the distiller's latents found again by one of half the width", "-", control),
    ]
    for kind in KINDS:
        shared, own, n = of[kind]["shared"], of[kind]["own"], of[kind]["n"]
        told = {
            "latents": [share(part["n"], n) for part in (shared, own)],
            "simulators": [share(part["n_simulators"], part["n"]) for part in (shared, own)],
            "median frequency": [number(part["frequency"], ".2%") for part in (shared, own)],
            "cosine with the nearest neuron, median": [number(part["neuron_cosine"]) for part in (shared, own)],
        }
        rows += [Compared(f"{kind}: {what}, shared / its own", "-", " / ".join(here)) for what, here in told.items()]
    return tuple(rows)


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    match = DictionaryMatch(**{name: torch.tensor(values) for name, values in numbers["match"].items()})
    return {
        "shared-latents": Drawing(
            lambda: figures.shared_latents(match, KINDS),
            "How near each live latent is to the nearest of the other dictionary.",
        )
    }


def _notes(numbers: Numbers) -> tuple[str, ...]:
    return (
        f"Both under TopK with {numbers['k']} active latents, same width, tokens and seed, so that their latents start "
        "at the same tokens, as do those of the second distiller. Dead latents are left out. "
        "A latent of the one dictionary may be nearest to several of the other.",
    )


def _divided(cosine: Tensor, facts: dict[str, Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {"n": len(cosine), "n_shared": int((cosine > SHARED).sum())}
    for which, mask in (("shared", cosine > SHARED), ("own", cosine <= SHARED)):
        found[which] = {
            "n": int(mask.sum()),
            "n_simulators": int(facts["simulator"][mask].sum()),
            "frequency": median(facts["frequency"][mask]),
            "neuron_cosine": median(facts["neuron_cosine"][mask]),
        }
    return found
