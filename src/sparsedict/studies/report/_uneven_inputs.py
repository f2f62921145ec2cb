"""Why a simulator's encoder may be unlike its neuron's: the same MLP on inputs that vary in few directions."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from sparsedict import figures
from sparsedict.analysis import NeuronMatch, latent_types, match_neurons, simulator_correlation
from sparsedict.analysis import firing_frequencies as count_firing
from sparsedict.dictionaries import Dictionary
from sparsedict.penalties import L1
from sparsedict.sites import Neurons
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._places import mlp
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import (
    THRESHOLD,
    match_from,
    match_numbers,
    mean_sd,
    median,
    number,
    share,
    student,
)
from sparsedict.studies.report._same_neuron import MODEST, cosine_by_inputs
from sparsedict.studies.report._simulators import n_directions
from sparsedict.training import fit_many
from sparsedict.types import ActivationBatch

KEPT = 0.25
"""Of the directions of the input: those that go on varying as they do."""
FLAT = 0.03
"""What is left of the inputs' deviations along the others."""
MOST_PASSES = 10


class UnevenInputs(Study):
    """What becomes of encoders when an MLP's inputs hardly vary along most directions."""

    name: ClassVar[str] = "uneven-inputs"
    title: ClassVar[str] = "Why an encoder may be unlike its neuron's"
    shows: ClassVar[str] = "Figure 3 and appendix A"
    claim: ClassVar[str] = (
        "Simulators' decoders match their neurons' almost perfectly, while their encoders have a modest cosine (mean "
        "0.1538, standard deviation 0.0475). The report supposes that the encoder is harder to learn, for the neuron "
        "is active on widely spread data, while it always writes in one direction."
    )

    def measure(self, bench: Bench) -> Numbers:
        order = student(bench, bench.layer, min(bench.setting.coefficients))
        site = mlp(bench.layer)
        neurons, held, sample = bench.sites[site].neurons, bench.held_out(site), bench.sample(site)
        bench.train([order])
        mean, axes = sample.inputs.mean(0), _principal_axes(sample.inputs)
        n_kept = max(1, round(KEPT * axes.shape[1]))
        data, flat = (_flattened(batch, mean, axes[:, n_kept:], neurons) for batch in (sample, held))
        students = {
            "as they are": (bench.dictionary(order), held),
            "flat": (_train(bench, order, data, _variance(flat) / bench.variance(site)), flat),
        }
        return {
            "layer": bench.layer,
            "d_in": axes.shape[1],
            "n_kept": n_kept,
            "of": {name: _state(bench, dictionary, neurons, on) for name, (dictionary, on) in students.items()},
        }

    def found(self, numbers: Numbers) -> Finding:
        plain, flat = (numbers["of"][name] for name in ("as they are", "flat"))
        if not flat["n_simulators"]:
            return Finding("not measured", "The student on flat inputs has no simulator that fires.")
        modest, lower = flat["encoder_mean"] < MODEST, flat["encoder_mean"] < flat["decoder_mean"]
        verdict = "seen" if modest and lower else "partly seen" if lower else "not seen"
        return Finding(verdict, _summary(numbers, plain, flat), _rows(plain, flat), _drawings(flat), NOTES)


NOTES = (
    f"Flat inputs: the MLP's inputs on the same tokens, with their deviations from the mean shrunk to {FLAT:g} of what "
    f"they are along all but the strongest {KEPT:.0%} of their principal axes. The student learns what the MLP itself "
    "computes of these. The coefficient is the lowest of the sweep, scaled with the outputs' standard deviation.",
    "Weighed by how much the inputs vary along each direction, the cosine of two encoder rows is the correlation of "
    "the two pre-activations.",
)


def _summary(numbers: Numbers, plain: Numbers, flat: Numbers) -> str:
    return (
        f"With inputs as they are, which vary in about {plain['n_directions']:.0f} of {numbers['d_in']} directions, "
        f"the cosine of the simulators' encoders with their neurons' is {number(plain['encoder_mean'], '.2f')}"
        + ("." if (plain["encoder_mean"] or 0.0) < MODEST else ": the report's low one is not seen.")
        + f" If the same MLP reads inputs that hardly vary outside of {numbers['n_kept']} directions, "
        f"{share(flat['n_simulators'], flat['n_latents'])} of the latents are live simulators, with a decoder cosine "
        f"of {number(flat['decoder_mean'], '.2f')} and an encoder cosine of {number(flat['encoder_mean'], '.2f')} "
        f"(standard deviation {number(flat['encoder_sd'], '.2f')}). Their activations' correlation with the neurons' "
        f"is {number(flat['correlation_median'], '.2f')} in the middle, and their encoder cosine "
        f"{number(flat['encoder_mean_by_inputs'], '.2f')} if each direction counts by how much the inputs vary "
        "along it." + (WHY if flat["encoder_mean"] < MODEST < (flat["encoder_mean_by_inputs"] or 0.0) else "")
    )


WHY = (
    " Here an encoder row is learned along the directions in which the inputs vary and not along the others, while a "
    "decoder row has no such directions: inputs that vary unevenly are enough for a low encoder cosine, and a "
    "simulator that has one may read what its neuron reads. Whether the report's model has such inputs isn't known."
)


def _rows(plain: Numbers, flat: Numbers) -> tuple[Compared, ...]:
    def both(what: str, report: str, key: str, form: str = "#.3g") -> Compared:
        return Compared(what, report, f"{number(plain[key], form)} / {number(flat[key], form)}")

    return (
        both("live simulators (inputs as they are / flat)", "-", "n_simulators", ","),
        both("directions in which the inputs vary", "-", "n_directions", ".0f"),
        both("simulators' decoder cosine, mean", "above 0.9", "decoder_mean"),
        both("simulators' encoder cosine, mean", "0.1538", "encoder_mean"),
        both("simulators' encoder cosine, standard deviation", "0.0475", "encoder_sd"),
        both("encoder cosine, directions weighed by how much the inputs vary, mean", "-", "encoder_mean_by_inputs"),
        both("correlation with the neuron, median", "0.98865 (one)", "correlation_median", ".4f"),
        both("encoder's nearest neuron is the decoder's", "yes", "agreeing", ".1%"),
    )


def _drawings(flat: Numbers) -> dict[str, Drawing]:
    match, types, _ = match_from(flat["latents"])
    return {
        "uneven-decoder-similarity": Drawing(
            lambda: figures.decoder_similarity(match, types), "Decoder cosines of the student on flat inputs."
        ),
        "uneven-encoder-similarity": Drawing(
            lambda: figures.encoder_similarity(match, types), "Its encoder cosines; types by the decoder."
        ),
    }


def _principal_axes(inputs: Tensor) -> Tensor:
    """Returns the principal axes as columns, the strongest first."""
    return torch.linalg.eigh(torch.cov(inputs.double().T))[1].flip(1).float()


@torch.no_grad()
def _flattened(batch: ActivationBatch, mean: Tensor, weak: Tensor, neurons: Neurons) -> ActivationBatch:
    """Shrinks inputs along the weak axes ``[d_in, n_weak]``, and computes what the MLP makes of them."""
    centred = batch.inputs - mean
    inputs = mean + centred - (1 - FLAT) * (centred @ weak) @ weak.T
    # In parts, for the neurons' activations take much more room than the inputs.
    outputs = torch.cat([neurons.decode(neurons.encode(part)) for part in inputs.split(8_192)])
    return ActivationBatch(inputs, outputs)


def _variance(batch: ActivationBatch) -> float:
    return float((batch.outputs - batch.outputs.mean(0)).double().square().sum(1).mean())


def _train(bench: Bench, order: Order, data: ActivationBatch, scale: float) -> Dictionary:
    """Trains a student as ordered, but on other data, whose variance is larger by ``scale``."""
    (penalty,) = order.penalties
    assert isinstance(penalty, L1)
    assert isinstance(penalty.coefficient, float)
    order = replace(order, penalties=(L1(float(f"{penalty.coefficient * scale**0.5:.4g}")),))
    dictionary = order.make(bench.sites[order.site], bench.seed)
    training = order.training
    n_tokens = min(training.n_tokens, MOST_PASSES * len(data))
    trainees = {"": replace(order.trainee(dictionary), site=None)}
    with torch.enable_grad(), bench.phases("training", f"training 1 dictionary on {n_tokens:,} flat inputs"):
        fit_many(trainees, data, n_tokens=n_tokens, batch_size=training.batch_size, seed=bench.seed, progress=False)
    return dictionary


def _state(bench: Bench, dictionary: Dictionary, neurons: Neurons, held: ActivationBatch) -> Numbers:
    match, firing = match_neurons(dictionary, neurons, seed=bench.seed), count_firing(dictionary, held)
    alive = latent_types(match, THRESHOLD).simulators & ~firing.dead.mask
    found: Numbers = {
        "n_latents": len(alive),
        "n_simulators": int(alive.sum()),
        "n_directions": n_directions(held.inputs),
        "latents": match_numbers(match, firing),
    }
    return found | _of_simulators(dictionary, neurons, held, match, alive)


@torch.no_grad()
def _of_simulators(
    dictionary: Dictionary, neurons: Neurons, held: ActivationBatch, match: NeuronMatch, alive: Tensor
) -> Numbers:
    """Describes live simulators; with None where there are too few."""
    found: Numbers = {}
    for side, cosine in (("decoder", match.decoder_cosine), ("encoder", match.encoder_cosine_of_decoder_match)):
        found[f"{side}_mean"], found[f"{side}_sd"] = (None, None) if cosine is None else mean_sd(cosine[alive])
    some = bool(alive.any())
    result = simulator_correlation(dictionary, match, held, latents=alive, neurons=neurons) if some else None
    return {
        **found,
        "encoder_mean_by_inputs": cosine_by_inputs(dictionary, neurons, match, alive, held.inputs) if some else None,
        "correlation_median": None if result is None else median(result.correlation),
        "agreeing": float(match.agrees[alive].double().mean()) if some and match.agrees is not None else None,
    }
