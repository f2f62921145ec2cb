"""An open question: what distillation finds that an autoencoder doesn't, and the other way."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsedict import figures
from sparsedict.activations import TopK
from sparsedict.analysis import DictionaryMatch, match_dictionaries
from sparsedict.studies._bench import Bench, mlp
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
        of = numbers["of"]
        tensors = {name: torch.tensor(values) for name, values in numbers["match"].items()}
        match = DictionaryMatch(**tensors)
        drawings = {
            "shared-latents": Drawing(
                lambda: figures.shared_latents(match, KINDS),
                "How near each live latent is to the nearest of the other dictionary.",
            )
        }
        parts = {kind: of[kind] for kind in KINDS}
        summary = (
            f"{share(parts['distiller']['n_shared'], parts['distiller']['n'])} of the distiller's live latents have "
            f"a partner in the autoencoder (decoder cosine above {SHARED}), "
            f"{share(parts['autoencoder']['n_shared'], parts['autoencoder']['n'])} "
            f"the other way. Of the latents that both have, "
            f"{share(parts['distiller']['shared']['n_simulators'], parts['distiller']['n_shared'])} are simulators; "
            "of those that "
            "only the distiller has, "
            f"{share(parts['distiller']['own']['n_simulators'], parts['distiller']['own']['n'])}; of the "
            "autoencoder's own, "
            f"{share(parts['autoencoder']['own']['n_simulators'], parts['autoencoder']['own']['n'])}."
        )
        rows = [
            Compared("pairs nearest to each other, cosine above 0.7", "-", f"{numbers['n_mutual']:,}"),
            Compared(
                "control: the distiller's latents found again by one of half the width",
                "-",
                share(numbers["n_control"], of["distiller"]["n"]),
            ),
        ]
        for kind in KINDS:
            for which, words in (("shared", "shared latents"), ("own", "own latents")):
                part = of[kind][which]
                rows += [
                    Compared(f"{kind}: {words}", "-", share(part["n"], of[kind]["n"])),
                    Compared(f"{kind}: simulators among its {words}", "-", share(part["n_simulators"], part["n"])),
                    Compared(f"{kind}: median frequency of its {words}", "-", number(part["frequency"], ".2%")),
                    Compared(
                        f"{kind}: cosine of its {words} with a neuron, median", "-", number(part["neuron_cosine"])
                    ),
                ]
        notes = (
            f"Both under TopK with {numbers['k']} active latents, same width, tokens and seed. Dead latents are left "
            "out.",
        )
        return Finding("answered", summary, tuple(rows), drawings, notes)


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
