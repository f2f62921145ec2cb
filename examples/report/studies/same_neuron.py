"""Figures 7 and 8: agreement of the encoder, decoder and activation of simulators with those of a neuron."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from sparsedict import figures
from sparsedict.analysis import NeuronMatch, simulator_correlation
from sparsedict.batches import Activations
from sparsedict.dictionaries import Dictionary
from sparsedict.sites import Neurons

from ..claims import Above, Below, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Quantity, measured, told
from ..experiment import Experiment
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import Part, by_seed, mean_sd, row, student, typed

N_SHOWN = 100
N_POINTS = 2_000


class SameNeuron(Study):
    """A test of whether the encoder and the decoder of a simulator correspond to the same neuron."""

    name: ClassVar[str] = "same-neuron"
    title: ClassVar[str] = "Encoder and decoder of a simulator"
    shows: ClassVar[str] = "Figures 7 and 8"
    claim: ClassVar[str] = (
        "The cosine of a simulator's encoder row with the encoder row of its neuron is modest. Even so, the neuron "
        "nearest to the encoder is also the neuron nearest to the decoder. The activation of a simulator is close to "
        "that of its neuron: the correlation of the first simulator is 0.98865."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        main, lowest = experiment.setting.coefficient, min(experiment.setting.coefficients)
        coefficients = {"main": main} if main == lowest else {"main": main, "lowest": lowest}
        specs = {name: student(experiment, experiment.layer, c) for name, c in coefficients.items()}
        seeds = by_seed(experiment, specs, _measure)
        return {
            "layer": experiment.layer,
            "coefficients": coefficients,
            "measured": measured(seeds),
            **_drawn(experiment, specs["main"]),
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        agree, cosine, follow = (Quantity(f"main: {key}") for key in (AGREE, ENCODER, MEDIAN))
        return [
            Clause("the encoder's cosine with its neuron's is modest", cosine, Below(MODEST), "0.1 to 0.2"),
            Clause("encoder and decoder are nearest to the same neuron", agree, Above(0.9), "yes", ".1%"),
            Clause("the median simulator's correlation with its neuron", follow, Above(HIGH), "0.989", ".3f"),
        ]

    def found(self, numbers: Numbers) -> Finding:
        drawings = _heat_maps(numbers)
        if "first" in numbers:
            drawings["figure-08-scatter"] = _scatter(numbers["first"])
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), drawings, NOTES)


HIGH = 0.97
"""Correlation that counts as similar to that of the report."""
MODEST = 0.5
"""Encoder cosine below which the similarity counts as modest."""
AGREE, ENCODER, WEIGHTED = "same neuron", "encoder cosine", "encoder cosine, weighted by the inputs"
FIRST, QUARTER, MEDIAN, THREE = (
    "correlation, first simulator",
    "correlation, quarter",
    "correlation, median",
    "correlation, three quarters",
)


def _measure(experiment: Experiment, spec: DictionarySpec) -> Part:
    """Returns the numbers of the live simulators of one student, each None if there are none."""
    match, types, _ = typed(experiment, spec)
    neurons, held = experiment.sites[spec.site].neurons, experiment.held_out(spec.site)
    alive = types.simulators
    if not bool(alive.any()):
        return dict.fromkeys((AGREE, ENCODER, WEIGHTED, FIRST, QUARTER, MEDIAN, THREE))
    dictionary, cosine = experiment.dictionary(spec), match.encoder_cosine_of_decoder_match
    assert match.agrees is not None
    assert cosine is not None
    correlation = simulator_correlation(dictionary, match, held, latents=alive, neurons=neurons).correlation
    quarters = correlation.quantile(correlation.new_tensor([0.25, 0.5, 0.75])).tolist()
    return {
        AGREE: float(match.agrees[alive].double().mean()),
        ENCODER: float(cosine[alive].mean()),
        WEIGHTED: cosine_by_inputs(dictionary, neurons, match, alive, held.inputs),
        FIRST: float(correlation[0]),
        **dict(zip((QUARTER, MEDIAN, THREE), quarters, strict=True)),
    }


def _drawn(experiment: Experiment, spec: DictionarySpec) -> Numbers:
    """Returns the numbers for the figures of the first seed's student."""
    match, types, _ = typed(experiment, spec)
    neurons, dictionary = experiment.sites[spec.site].neurons, experiment.dictionary(spec)
    found: Numbers = dict(_maps(dictionary, neurons, match))
    alive = types.simulators
    if bool(alive.any()):
        found["first"] = _activations(dictionary, neurons, match, alive, experiment.held_out(spec.site))
    return found


def _summary(numbers: Numbers) -> str:
    known, coefficients = numbers["measured"], numbers["coefficients"]

    def tell(key: str, form: str = ".3f", at: str = "main") -> str:
        return told(known, f"{at}: {key}", form)

    lowest = (
        f" At the lowest coefficient of the sweep ({coefficients['lowest']:g}), the median is "
        f"{tell(MEDIAN, at='lowest')}."
        if "lowest" in coefficients
        else ""
    )
    return (
        f"At coefficient {coefficients['main']:g}, encoder and decoder are nearest to the same neuron for "
        f"{tell(AGREE, '.1%')} of the simulators. The correlation of a simulator with its neuron is {tell(FIRST)} for "
        f"the first simulator, and {tell(MEDIAN)} at the median.{lowest} The mean encoder cosine is {tell(ENCODER)}, "
        f"and {tell(WEIGHTED)} if directions are weighted by the variance of the inputs."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known = numbers["measured"]
    report = {AGREE: "yes", ENCODER: "0.1538", FIRST: "0.98865"}
    forms = {AGREE: ".1%"}
    return tuple(
        row(known, f"{key}, coefficient {c:g}", f"{name}: {key}", report.get(key, "-"), forms.get(key, ".4f"))
        for key in (AGREE, FIRST, QUARTER, MEDIAN, THREE, ENCODER, WEIGHTED)
        for name, c in numbers["coefficients"].items()
    )


def _heat_maps(numbers: Numbers) -> dict[str, Drawing]:
    captions = {
        "encoder": "Figure 7, first seed: cosines of the encoder rows of the first 100 latents with the encoder rows "
        "of the neurons nearest to their decoder rows.",
        "decoder": "Figure 7, first seed: cosines of the decoder rows of the same latents with the decoder rows of the "
        "same neurons. The diagonal entries of a simulator are large in both maps.",
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
        f"Figure 8, first seed: the first simulator, latent {first['latent']}, against neuron {first['neuron']}, on "
        f"{len(activations[0]):,} held-out tokens. The correlation is over all held-out tokens.",
    )


NOTES = (
    "The penalty sets weak activations to zero. A larger coefficient therefore lowers the correlation of simulators "
    "with their neurons. A ReLU latent cannot represent the negative activations of a GELU neuron.",
    "An encoder row affects the activation only by its product with the inputs. A component of the row along which "
    "the inputs hardly vary has almost no effect, and training hardly changes it. The cosine weighted by the "
    "covariance of the inputs is the correlation of the two pre-activations. Where the weighted cosine is near 1 and "
    "the plain cosine is not, the two rows differ in such a component.",
)


@torch.no_grad()
def _maps(dictionary: Dictionary, neurons: Neurons, match: NeuronMatch) -> dict[str, Tensor]:
    """Returns the encoder and decoder cosines of the first latents with the neurons nearest to their decoder rows."""
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
    """Returns the mean encoder cosine of simulators, with directions weighted by the covariance of the inputs."""
    variances, axes = torch.linalg.eigh(torch.cov(inputs.float().T))
    root = axes * variances.clamp_min(0).sqrt()
    ours, theirs = dictionary.encoder[alive], neurons.encoder[match.decoder_neuron[alive]]
    return mean_sd(cosine_similarity(ours @ root, theirs @ root, dim=-1))[0]


@torch.no_grad()
def _activations(
    dictionary: Dictionary, neurons: Neurons, match: NeuronMatch, alive: Tensor, data: Activations
) -> Numbers:
    """Returns the activations of the first simulator and of its neuron."""
    result = simulator_correlation(dictionary, match, data, latents=alive, neurons=neurons)
    latent, neuron = int(result.latents[0]), int(result.neurons[0])
    inputs = data.inputs[:N_POINTS]
    return {
        "latent": latent,
        "neuron": neuron,
        "correlation": float(result.correlation[0]),
        "latent_activation": dictionary.encode(inputs)[:, latent],
        "neuron_activation": neurons.encode(inputs)[:, neuron],
    }
