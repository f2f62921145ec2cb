"""Figures 7 and 8: a simulator's encoder and decoder belong to one neuron, whose activation it follows."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from sparsedict import figures
from sparsedict.analysis import NeuronMatch, simulator_correlation
from sparsedict.dictionaries import Dictionary
from sparsedict.sites import Neurons
from sparsedict.studies._bench import Bench
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import mean_sd, median, number, share, student, typed
from sparsedict.types import ActivationBatch

N_SHOWN = 100
N_POINTS = 2_000


class SameNeuron(Study):
    """Whether a simulator reads and writes for the same neuron."""

    name: ClassVar[str] = "same-neuron"
    title: ClassVar[str] = "One neuron, read and written"
    shows: ClassVar[str] = "Figures 7 and 8"
    claim: ClassVar[str] = (
        "Although a simulator's encoder row has a modest cosine with its neuron's, the neuron nearest to the encoder "
        "is the neuron nearest to the decoder, and the simulator's activation follows the neuron's closely: "
        "correlation 0.98865 for the first one."
    )

    def measure(self, bench: Bench) -> Numbers:
        coefficient = min(bench.setting.coefficients)
        order = student(bench, bench.layer, coefficient)
        match, types, firing = typed(bench, order)
        neurons = bench.sites[order.site].neurons
        found: Numbers = {
            "layer": bench.layer,
            "coefficient": coefficient,
            "n_simulators": types.n_simulators,
            "n_latents": types.n_latents,
            **_maps(bench.dictionary(order), neurons, match),
        }
        alive = types.simulators & ~firing.dead.mask
        if bool(alive.any()):
            found["n_agreeing"] = 0 if match.agrees is None else int(match.agrees[types.simulators].sum())
            dictionary, held = bench.dictionary(order), bench.held_out(order.site)
            cosine = match.encoder_cosine_of_decoder_match
            found["encoder_mean"] = None if cosine is None else mean_sd(cosine[alive])[0]
            found["encoder_mean_by_inputs"] = cosine_by_inputs(dictionary, neurons, match, alive, held.inputs)
            found |= _correlations(dictionary, neurons, match, alive, held)
        return found

    def found(self, numbers: Numbers) -> Finding:
        if "first" not in numbers:
            return Finding("not seen", "The student has no simulator that fires.", (), _heat_maps(numbers))
        agrees = numbers["n_agreeing"] > 0.9 * numbers["n_simulators"]
        high = numbers["correlation_median"] > HIGH
        modest = (numbers["encoder_mean"] or 0.0) < MODEST
        seen = sum((agrees, high, modest))
        verdict = "seen" if seen == 3 else "partly seen" if seen else "not seen"
        drawings = {**_heat_maps(numbers), "figure-08-scatter": _scatter(numbers["first"])}
        return Finding(verdict, _summary(numbers), _rows(numbers), drawings, NOTES)


HIGH = 0.97
"""A correlation that counts as near the report's."""
MODEST = 0.5
"""An encoder's cosine that counts as modest."""


def _summary(numbers: Numbers) -> str:
    return (
        f"At the lowest coefficient of the sweep ({numbers['coefficient']:g}), for "
        f"{share(numbers['n_agreeing'], numbers['n_simulators'])} of {numbers['n_simulators']:,} simulators "
        "encoder and decoder are nearest to the same neuron. The first one's correlation with its neuron is "
        f"{numbers['first']['correlation']:.4f}, the middle one's {numbers['correlation_median']:.4f}, and a quarter "
        f"of them have more than {_quantile(numbers, 0.75):.4f}. The encoder's cosine is "
        f"{number(numbers['encoder_mean'])} on average, and {number(numbers['encoder_mean_by_inputs'])} if each "
        "direction counts by how much the inputs vary along it"
        + (
            "."
            if (numbers["encoder_mean"] or 0.0) < MODEST
            else ": that it is modest is not seen in this model, for which see below."
        )
    )


def _quantile(numbers: Numbers, q: float) -> float:
    return float(torch.tensor(numbers["correlation"]).quantile(q))


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    first, correlations = numbers["first"], numbers["correlation"]
    near = sum(value > HIGH for value in correlations)
    return (
        Compared(
            "encoder's nearest neuron is the decoder's", "yes", share(numbers["n_agreeing"], numbers["n_simulators"])
        ),
        Compared("correlation of the first simulator", "0.98865", f"{first['correlation']:.5f}"),
        Compared(
            "correlation of all simulators: quarter, middle, three quarters",
            "-",
            ", ".join(f"{_quantile(numbers, q):.4f}" for q in (0.25, 0.5, 0.75)),
        ),
        Compared(f"simulators with a correlation above {HIGH}", "-", share(near, len(correlations))),
        Compared("encoder cosine of all simulators, mean", "0.1538", number(numbers["encoder_mean"])),
        Compared(
            "the same, directions weighed by how much the inputs vary along them",
            "-",
            number(numbers["encoder_mean_by_inputs"]),
        ),
        Compared("encoder cosine of the first simulator", "0.1 to 0.2", number(first["encoder_cosine"])),
    )


def _heat_maps(numbers: Numbers) -> dict[str, Drawing]:
    captions = {
        "encoder": "Figure 7: cosines of the first 100 latents' encoder rows with those of the neurons nearest to "
        "their decoder rows.",
        "decoder": "Figure 7: cosines of their decoder rows with those of the same neurons. A simulator is strong on "
        "both diagonals.",
    }
    maps = {side: torch.tensor(numbers[f"{side}_map"]) for side in captions}
    return {
        f"figure-07-{side}": Drawing(partial(figures.cosine_map, cosines), captions[side])
        for side, cosines in maps.items()
    }


def _scatter(first: Numbers) -> Drawing:
    activations = [torch.tensor(first[f"{of}_activation"]) for of in ("neuron", "latent")]
    return Drawing(
        lambda: figures.activation_scatter(*activations, correlation=first["correlation"]),
        f"Figure 8: the first simulator, latent {first['latent']}, against neuron {first['neuron']}.",
    )


NOTES = (
    "The penalty makes weak activations zero, so that simulators follow their neurons the worse the larger the "
    "coefficient; and a ReLU can't follow a GELU below zero.",
    "An encoder row acts on the inputs alone, so a part of it along which the inputs hardly vary changes nothing and "
    "is hardly learned. Weighed by the inputs' covariance, the cosine is the correlation of the two pre-activations: "
    "where it is near 1 and the plain cosine isn't, that part is what they differ in.",
)


@torch.no_grad()
def _maps(dictionary: Dictionary, neurons: Neurons, match: NeuronMatch) -> dict[str, Tensor]:
    """Returns the cosines of the first latents with the neurons nearest to their decoder rows, for both sides."""
    nearest = match.decoder_neuron[:N_SHOWN]
    sides = {"decoder": (dictionary.decoder, neurons.decoder), "encoder": (dictionary.encoder, neurons.encoder)}
    return {
        f"{side}_map": normalize(ours[:N_SHOWN], dim=-1) @ normalize(theirs[nearest], dim=-1).T
        for side, (ours, theirs) in sides.items()
    }


@torch.no_grad()
def cosine_by_inputs(
    dictionary: Dictionary, neurons: Neurons, match: NeuronMatch, alive: Tensor, inputs: Tensor
) -> float | None:
    """Returns the simulators' mean encoder cosine with directions weighed by the inputs' spread."""
    variances, axes = torch.linalg.eigh(torch.cov(inputs.float().T))
    root = axes * variances.clamp_min(0).sqrt()
    ours, theirs = dictionary.encoder[alive], neurons.encoder[match.decoder_neuron[alive]]
    return mean_sd(cosine_similarity(ours @ root, theirs @ root, dim=-1))[0]


@torch.no_grad()
def _correlations(
    dictionary: Dictionary, neurons: Neurons, match: NeuronMatch, alive: Tensor, data: ActivationBatch
) -> Numbers:
    """Returns the correlations of simulators with their neurons, and the first one's activations."""
    result = simulator_correlation(dictionary, match, data, latents=alive, neurons=neurons)
    latent, neuron = int(result.latents[0]), int(result.neurons[0])
    inputs = data.inputs[:N_POINTS]
    rows = dictionary.encoder[latent], neurons.encoder[neuron]
    return {
        "correlation": result.correlation,
        "correlation_mean": mean_sd(result.correlation)[0],
        "correlation_median": median(result.correlation),
        "first": {
            "latent": latent,
            "neuron": neuron,
            "correlation": float(result.correlation[0]),
            "latent_activation": dictionary.encode(inputs)[:, latent],
            "neuron_activation": neurons.encode(inputs)[:, neuron],
            "encoder_cosine": float(cosine_similarity(*rows, dim=0)),
        },
    }
