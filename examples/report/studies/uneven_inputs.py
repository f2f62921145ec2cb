"""A cause of the small encoder cosines of simulators: MLP inputs that vary in few directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from sparsedict import figures
from sparsedict.analysis import firing_frequencies as count_firing
from sparsedict.analysis import latent_types, match_neurons, simulator_correlation
from sparsedict.batches import ActivationBatch, Activations
from sparsedict.dictionaries import Dictionary
from sparsedict.display import shown
from sparsedict.penalties import L1
from sparsedict.sites import Neurons
from sparsedict.training import fit_many

from ..claims import Above, Below, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Difference, Quantity, measured, told
from ..experiment import Experiment
from ..sites import mlp
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import (
    THRESHOLD,
    Part,
    match_from,
    match_numbers,
    mean_sd,
    median,
    row,
    student,
)
from .same_neuron import MODEST, cosine_by_inputs
from .simulators import n_directions

KEPT = 0.25
"""Share of the input directions whose variance isn't changed."""
FLAT = 0.03
"""Factor of the deviations along the other directions."""
MAX_PASSES = 10


class UnevenInputs(Study):
    """The encoders of students of an MLP whose inputs hardly vary along most directions."""

    name: ClassVar[str] = "uneven-inputs"
    title: ClassVar[str] = "Encoder cosines with uneven inputs"
    shows: ClassVar[str] = "Figure 3 and appendix A"
    claim: ClassVar[str] = (
        "The decoders of simulators match their neurons almost perfectly, while their encoders have a modest cosine "
        "(mean 0.1538, standard deviation 0.0475). The report suggests that the encoder is harder to learn, because "
        "the neuron is active on widely spread data but always writes in one direction. This study tests another "
        "cause: if the inputs of the same MLP vary in fewer directions, the encoder cosine falls and the decoder "
        "cosine does not."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        spec = student(experiment, experiment.layer, min(experiment.setting.coefficients))
        site = mlp(experiment.layer)
        neurons, held, sample = experiment.sites[site].neurons, experiment.held_out(site), experiment.sample(site)
        experiment.train(experiment.repeated(spec))
        mean, axes = sample.inputs.mean(0), _principal_axes(sample.inputs)
        n_kept = max(1, round(KEPT * axes.shape[1]))
        data, flat = (_flattened(batch, mean, axes[:, n_kept:], neurons) for batch in (sample, held))
        scale = _variance(flat) / experiment.variance(site)
        trained = [_train(experiment, repeated, data, scale) for repeated in experiment.repeated(spec)]
        pairs = [
            (experiment.dictionary(o), on_flat) for o, on_flat in zip(experiment.repeated(spec), trained, strict=True)
        ]
        seeds = [
            _named("as they are", _state(experiment, plain, neurons, held))
            | _named("flat", _state(experiment, on, neurons, flat))
            for plain, on in pairs
        ]
        first = trained[0]
        latents = match_numbers(match_neurons(first, neurons, seed=experiment.seed), count_firing(first, flat))
        return {
            "layer": experiment.layer,
            "d_in": axes.shape[1],
            "n_kept": n_kept,
            "n_directions": {name: n_directions(on.inputs) for name, on in (("as they are", held), ("flat", flat))},
            "measured": measured(seeds),
            "latents": latents,
        }

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        def of(inputs: str, key: str) -> Quantity:
            return Quantity(f"{inputs}: {key}")

        falls = Difference(f"as they are: {ENCODER}", f"flat: {ENCODER}")
        return [
            Clause("original inputs: simulators' decoder cosine", of("as they are", DECODER), Above(0.9), "above 0.9"),
            Clause("original inputs: simulators' encoder cosine", of("as they are", ENCODER), Below(MODEST), "0.154"),
            Clause("flat inputs: simulators' decoder cosine", of("flat", DECODER), Above(0.9), "above 0.9"),
            Clause("flat inputs: simulators' encoder cosine", of("flat", ENCODER), Below(MODEST), "0.154"),
            Clause("the encoder cosine falls where inputs vary in fewer directions: difference", falls, Above(0.2)),
        ]

    def found(self, numbers: Numbers) -> Finding:
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(numbers), NOTES)


DECODER, ENCODER, DEVIATION = "decoder cosine", "encoder cosine", "encoder cosine, standard deviation"
WEIGHTED, FOLLOWS, AGREES = "encoder cosine, weighted by the inputs", "correlation with the neuron", "same neuron"
LIVE = "live simulators"
LABELS = {"as they are": "original inputs", "flat": "flat inputs"}
NOTES = (
    "Flat inputs are the MLP's inputs on the same tokens, with smaller variance along weak directions. Along all "
    f"principal axes except the strongest {KEPT:.0%}, deviations from the mean are multiplied by {FLAT:g}. The "
    "targets of the student are the outputs of the MLP for the flat inputs. The coefficient is the lowest of the "
    "sweep, scaled with the standard deviation of the outputs.",
    "The weighted cosine of two encoder rows weights each direction by the variance of the inputs. It equals the "
    "correlation of the two pre-activations.",
    "The report's suggestion that widely spread data make encoders harder to learn is not tested: no clause depends "
    "on it.",
)


def _named(inputs: str, part: Part) -> Part:
    return {f"{inputs}: {key}": value for key, value in part.items()}


def _summary(numbers: Numbers) -> str:
    known, directions = numbers["measured"], numbers["n_directions"]

    def tell(inputs: str, key: str, form: str = ".2f") -> str:
        return told(known, f"{inputs}: {key}", form)

    return (
        f"The original inputs vary in about {shown(directions['as they are'], '.0f')} of {numbers['d_in']} "
        f"directions, and the simulators' encoder cosine is {tell('as they are', ENCODER)}. With flat inputs, which "
        f"hardly vary outside of {numbers['n_kept']} directions, {tell('flat', LIVE, '.1%')} of the latents are live "
        f"simulators. Their decoder cosine is {tell('flat', DECODER)}, and their encoder cosine is "
        f"{tell('flat', ENCODER)} (standard deviation {tell('flat', DEVIATION)}). The median correlation of their "
        f"activations with those of the neurons is {tell('flat', FOLLOWS)}. Their encoder cosine is "
        f"{tell('flat', WEIGHTED)} if directions are weighted by the variance of the inputs. The inputs of the "
        "report's model are unknown."
    )


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known = numbers["measured"]
    report = {DECODER: "above 0.9", ENCODER: "0.1538", DEVIATION: "0.0475", FOLLOWS: "0.98865 (one)", AGREES: "yes"}
    forms = {LIVE: ".1%", AGREES: ".1%"}
    rows = [
        row(known, f"{key}, {LABELS[inputs]}", f"{inputs}: {key}", report.get(key, "-"), forms.get(key, ".3f"))
        for key in (LIVE, DECODER, ENCODER, DEVIATION, WEIGHTED, FOLLOWS, AGREES)
        for inputs in numbers["n_directions"]
    ]
    told_directions = " / ".join(shown(n, ".0f") for n in numbers["n_directions"].values())
    return (*rows, Compared("directions in which the inputs vary, original / flat", "-", told_directions))


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    match, types, _ = match_from(numbers["latents"])
    return {
        "uneven-decoder-similarity": Drawing(
            lambda: figures.decoder_similarity(match, types),
            "Decoder cosines of the first seed's student on flat inputs. Bars are stacked by type.",
        ),
        "uneven-encoder-similarity": Drawing(
            lambda: figures.encoder_similarity(match, types),
            "Encoder cosines of the same student. Types are determined by the decoder.",
        ),
    }


def _principal_axes(inputs: Tensor) -> Tensor:
    """Returns the principal axes as columns, in descending order of variance."""
    return torch.linalg.eigh(torch.cov(inputs.double().T))[1].flip(1).float()


@torch.no_grad()
def _flattened(batch: Activations, mean: Tensor, weak: Tensor, neurons: Neurons) -> Activations:
    """Shrinks inputs along the weak axes ``[d_in, n_weak]``, and computes the MLP outputs."""
    centred = batch.inputs - mean
    inputs = mean + centred - (1 - FLAT) * (centred @ weak) @ weak.T
    # In parts, since the neurons' activations need much more memory than the inputs.
    outputs = torch.cat([neurons.decode(neurons.encode(part)) for part in inputs.split(8_192)])
    return ActivationBatch(inputs, outputs)


def _variance(batch: Activations) -> float:
    return float((batch.outputs - batch.outputs.mean(0)).double().square().sum(1).mean())


def _train(experiment: Experiment, spec: DictionarySpec, data: Activations, scale: float) -> Dictionary:
    """Trains the student of a specification on other data, whose variance is larger by ``scale``."""
    (penalty,) = spec.penalties
    assert isinstance(penalty, L1)
    assert isinstance(penalty.coefficient, float)
    spec = replace(spec, penalties=(L1(float(f"{penalty.coefficient * scale**0.5:.4g}")),))
    seed = spec.seed(experiment.seed)
    trainee = replace(spec.recipe(experiment.sites, seed).trainee(), site=None)
    training = spec.training
    n_tokens = min(training.n_tokens, MAX_PASSES * data.n_tokens)
    with torch.enable_grad(), experiment.phases("training", f"training 1 dictionary on {n_tokens:,} flat inputs"):
        fit_many({"": trainee}, data, n_tokens=n_tokens, batch_size=training.batch_size, seed=seed, progress=False)
    return trainee.dictionary


@torch.no_grad()
def _state(experiment: Experiment, dictionary: Dictionary, neurons: Neurons, held: Activations) -> Part:
    """Returns the numbers of live simulators, each None if there are too few."""
    match, firing = match_neurons(dictionary, neurons, seed=experiment.seed), count_firing(dictionary, held)
    alive = latent_types(match, THRESHOLD, dead=firing.dead).simulators
    cosine = match.encoder_cosine_of_decoder_match
    assert cosine is not None
    some = bool(alive.any())
    result = simulator_correlation(dictionary, match, held, latents=alive, neurons=neurons) if some else None
    encoder, deviation = mean_sd(cosine[alive])
    return {
        LIVE: float(alive.double().mean()),
        DECODER: mean_sd(match.decoder_cosine[alive])[0],
        ENCODER: encoder,
        DEVIATION: deviation,
        WEIGHTED: cosine_by_inputs(dictionary, neurons, match, alive, held.inputs) if some else None,
        FOLLOWS: None if result is None else median(result.correlation),
        AGREES: float(match.agrees[alive].double().mean()) if some and match.agrees is not None else None,
    }
