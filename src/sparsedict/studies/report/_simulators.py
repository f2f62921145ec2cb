"""Figures 2, 3 and 4, and 12 to 14: two kinds of latents."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsedict import figures
from sparsedict.analysis import NeuronMatch
from sparsedict.studies._bench import Bench
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study, verdict_of
from sparsedict.studies.report._parts import counts, match_from, match_numbers, number, share, student, typed


class NeuronSimulators(Study):
    """Whether a student's latents fall into neuron simulators and sparse latents, in two layers."""

    name: ClassVar[str] = "neuron-simulators"
    title: ClassVar[str] = "Two kinds of latents"
    shows: ClassVar[str] = "Figures 2, 3, 4 and 12, 13, 14"
    claim: ClassVar[str] = (
        "The cosines of the student's decoder rows with the nearest neuron's have two humps: 29 % of the latents lie "
        "above 0.8, about one for each neuron at four latents per neuron. These neuron simulators fire far more often "
        "than the rest, and their encoder rows are much less like the neuron's (mean 0.154, standard deviation 0.048). "
        "The other layer looks the same."
    )

    def measure(self, bench: Bench) -> Numbers:
        layers = [bench.layer, bench.other_layer]
        orders = {layer: student(bench, layer) for layer in layers}
        bench.train(orders.values())
        found: Numbers = {"layers": layers, "of": {}}
        for layer, order in orders.items():
            match, types, firing = typed(bench, order)
            found["of"][layer] = {
                **counts(match, types, firing),
                **humps(match, firing.dead.mask),
                "coefficient": bench.coefficient(bench.setting.coefficient, layer),
                "l0": bench.l0(order),
                "fvu": bench.error(order).fvu,
                "n_directions": n_directions(bench.held_out(order.site).inputs),
                "d_in": bench.sites[order.site].d_in,
                "latents": match_numbers(match, firing),
            }
        return found

    def found(self, numbers: Numbers) -> Finding:
        layers = [str(layer) for layer in numbers["layers"]]
        of = numbers["of"]
        drawings: dict[str, Drawing] = {}
        for layer, first in zip(layers, (2, 12), strict=True):
            drawings |= _drawings(of[layer], layer, first)
        seen = [_two_humps(part) and _fires_more(part) for part in of.values()]
        verdict = verdict_of([*seen, any(seen) and _gap(of[layers[0]]) > LEAST_GAP])
        return Finding(verdict, _summary(of, layers), _rows(of, layers), drawings, NOTES)


LEAST_GAP = 0.2
NOTES = (
    "Two humps: of the latents that aren't dead, fewer have a cosine of 0.6 to 0.8 than of 0.4 to 0.6, and fewer than "
    "of 0.8 to 1.",
    "The encoder's cosine is that with the encoder row of the neuron whose decoder row is nearest.",
    "Directions of the input: (sum of the variances)^2 / (sum of their squares) along its principal axes, which is the "
    "width where the input varies alike in all directions.",
)


def _summary(of: dict[str, Any], layers: list[str]) -> str:
    main = of[layers[0]]
    humps = [layer for layer in layers if _two_humps(of[layer])]
    return (
        f"In layer {layers[0]}, {share(main['n_simulators'], main['n_latents'])} of the latents are simulators: "
        f"{main['simulators_per_neuron']:.2f} for each neuron; {main['n_neurons_simulated']:,} of the "
        f"{main['n_neurons']:,} neurons have one. The cosines have two humps in "
        + (
            f"layer{'s' * (len(humps) > 1)} {' and '.join(humps)}. "
            if humps
            else "neither layer: simulators come late in training. "
        )
        + f"Half of the simulators fire on more than {number(main['frequency_simulators'], '.1%')} of the tokens, half "
        f"of the live sparse latents on less than {number(main['frequency_sparse'], '.2%')}. " + _of_encoders(main)
    )


def _of_encoders(main: dict[str, Any]) -> str:
    if main["encoder_mean"] is None:
        return ""
    cosines = f"{main['encoder_mean']:.2f} on average, the decoder's {main['decoder_mean']:.2f}"
    if _gap(main) > LEAST_GAP:
        return f"The encoder's cosine is {cosines}."
    return (
        f"The report's low encoder similarity is not seen in this model: the encoder's cosine is {cosines}. Its MLP "
        f"reads {main['d_in']} numbers that vary in about {main['n_directions']:.0f} directions, so that most of an "
        "encoder's row matters to what the latent does. A section below looks at the same MLP where its inputs vary "
        "in few directions."
    )


def n_directions(inputs: Tensor) -> float:
    """Returns in how many directions inputs vary: the participation ratio of their covariance."""
    variances = torch.linalg.eigvalsh(torch.cov(inputs.double().T))
    return float(variances.sum().square() / variances.square().sum())


def _gap(part: dict[str, Any]) -> float:
    return (part["decoder_mean"] or 0) - (part["encoder_mean"] or 0)


def humps(match: NeuronMatch, dead: Any) -> dict[str, int]:
    """Counts live latents by decoder cosine."""
    cosine = match.decoder_cosine[~dead]
    return {
        f"n_{low:.1f}_{low + 0.2:.1f}": int(((cosine > low) & (cosine <= low + 0.2)).sum()) for low in (0.4, 0.6, 0.8)
    }


def _two_humps(part: dict[str, Any]) -> bool:
    return part["n_0.8_1.0"] > part["n_0.6_0.8"] < part["n_0.4_0.6"]


def _fires_more(part: dict[str, Any]) -> bool:
    often, seldom = part["frequency_simulators"], part["frequency_sparse"]
    return often is not None and seldom is not None and often > 2 * seldom


def _drawings(part: dict[str, Any], layer: str, first: int) -> dict[str, Drawing]:
    match, types, firing = match_from(part["latents"])
    where = f"layer {layer}"
    return {
        f"figure-{first:02}-decoder-similarity": Drawing(
            lambda: figures.decoder_similarity(match, types),
            f"Figure {first}, {where}: cosine of each latent's decoder row with the nearest neuron's.",
        ),
        f"figure-{first + 1:02}-encoder-similarity": Drawing(
            lambda: figures.encoder_similarity(match, types),
            f"Figure {first + 1}, {where}: the same for encoder rows; types by the decoder.",
        ),
        f"figure-{first + 2:02}-firing-frequency": Drawing(
            lambda: figures.firing_frequency(firing, types),
            f"Figure {first + 2}, {where}: how often latents fire; the dead apart.",
        ),
    }


def _directions(part: dict[str, Any]) -> str:
    return f"{part['n_directions']:.0f} of {part['d_in']}"


def _rows(of: dict[str, Any], layers: list[str]) -> tuple[Compared, ...]:
    def both(make: Any) -> str:
        return " / ".join(make(of[layer]) for layer in layers)

    where = f" (layers {' / '.join(layers)})"
    return (
        Compared("simulators" + where, "29 %", both(lambda p: share(p["n_simulators"], p["n_latents"]))),
        Compared("simulators for each neuron", "about 1", both(lambda p: f"{p['simulators_per_neuron']:.2f}")),
        Compared("neurons that have one", "-", both(lambda p: share(p["n_neurons_simulated"], p["n_neurons"]))),
        Compared("two humps", "yes", both(lambda p: "yes" if _two_humps(p) else "no")),
        Compared(
            "simulators' encoder cosine, mean and sd",
            "0.1538, 0.0475",
            both(lambda p: f"{number(p['encoder_mean'])}, {number(p['encoder_sd'])}"),
        ),
        Compared("simulators' decoder cosine, mean", "above 0.9", both(lambda p: number(p["decoder_mean"]))),
        Compared(
            "median frequency of simulators", "far more", both(lambda p: number(p["frequency_simulators"], ".2%"))
        ),
        Compared(
            "median frequency of live sparse latents", "far less", both(lambda p: number(p["frequency_sparse"], ".2%"))
        ),
        Compared("dead", "-", both(lambda p: share(p["n_dead"], p["n_latents"]))),
        Compared("active latents per token (L0)", "-", both(lambda p: number(p["l0"], ".1f"))),
        Compared("variance unexplained (FVU)", "-", both(lambda p: number(p["fvu"]))),
        Compared("directions in which the input varies, of its width", "-", both(_directions)),
        Compared("L1 coefficient per token", "0.2048", both(lambda p: f"{p['coefficient']:g}")),
    )
