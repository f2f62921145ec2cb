"""Specifications, measurements and table rows that several studies use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsedict.activations import Activation, TopK
from sparsedict.analysis import FiringFrequencies, LatentTypes, NeuronMatch, latent_types, match_neurons
from sparsedict.figures import Curve
from sparsedict.norms import UnitNorm
from sparsedict.penalties import L1, AuxK, Sqrt

from ..dictionary_spec import DictionarySpec
from ..estimates import Measured, Quantity, told
from ..experiment import Experiment
from ..sites import mlp
from ..study import Compared

Part = dict[str, float | None]
"""Numbers of one seed, by name."""

THRESHOLD = 0.8
"""Decoder cosine above which a latent is a simulator, as in the report."""
AUXK = AuxK(dead_after=30_000)
ROUNDED = 0.014
"""Scale below which the square-root penalty is smoothed, relative to the output's standard deviation."""


def student(
    experiment: Experiment, layer: int, coefficient: float | None = None, *, warm: DictionarySpec | None = None
) -> DictionarySpec:
    """Returns the specification of the report's student: ReLU, L1, decoder rows of norm at most 1."""
    setting = experiment.setting
    c = experiment.coefficient(setting.coefficient if coefficient is None else coefficient, layer)
    return DictionarySpec(mlp(layer), experiment.width(layer), setting.report, (L1(c),), warm=warm)


def autoencoder(experiment: Experiment, layer: int) -> DictionarySpec:
    """Returns the specification of the report's autoencoder: ReLU, square-root penalty, initialised from tokens."""
    variance = experiment.variance(mlp(layer))
    # The penalty scales with the square root of the outputs, the squared error with their square.
    c = experiment.setting.autoencoder_coefficient * (variance / experiment.variance(mlp(experiment.layer))) ** 0.75
    penalty = Sqrt(float(f"{c:.4g}"), eps=float(f"{ROUNDED * variance**0.5:.2g}"))
    training = replace(experiment.setting.report, start="data")
    return DictionarySpec(mlp(layer), experiment.width(layer), training, (penalty,), "autoencoder")


def modern(
    experiment: Experiment, site: str, n_latents: int, activation: Activation | None = None, **options: Any
) -> DictionarySpec:
    """Returns the specification of a modern dictionary: by default TopK, unit decoder rows, initialised from tokens."""
    options = {"penalties": (AUXK,), "decoder_norm": UnitNorm(), **options}
    return DictionarySpec(
        site, n_latents, experiment.setting.modern, activation=activation or TopK(experiment.setting.count), **options
    )


def typed(experiment: Experiment, spec: DictionarySpec) -> tuple[NeuronMatch, LatentTypes, FiringFrequencies]:
    """Returns the match of a dictionary with the MLP's neurons, the types of its latents, and firing frequencies."""
    firing = experiment.firing(spec)
    match = match_neurons(
        experiment.dictionary(spec), experiment.sites[spec.site].neurons, seed=spec.seed(experiment.seed)
    )
    return match, latent_types(match, THRESHOLD, dead=firing.dead), firing


def described(experiment: Experiment, spec: DictionarySpec) -> Part:
    """Returns the numbers of a dictionary of an MLP, by name."""
    match, types, firing = typed(experiment, spec)
    simulators, sparse = types.simulators, types.sparse
    n, n_others = types.n_latents, types.n_latents - types.n_simulators
    encoder, decoder = match.encoder_cosine_of_decoder_match, match.decoder_cosine
    means = dict.fromkeys(("encoder", "decoder"), (None, None))
    if encoder is not None:
        means = {side: mean_sd(c[simulators]) for side, c in (("encoder", encoder), ("decoder", decoder))}
    error = experiment.error(spec)
    return {
        "simulators": types.share,
        "simulators per neuron": types.n_simulators / match.n_neurons,
        "neurons with a simulator": int((match.latents_per_neuron(simulators) > 0).sum()) / match.n_neurons,
        "live sparse latents": types.n_sparse,
        "dead": firing.dead.n_dead / n,
        "dead among the others": 1 - types.n_sparse / n_others if n_others else None,
        "frequency of simulators": median(firing.frequency[simulators]),
        "frequency of sparse latents": median(firing.frequency[sparse]),
        "encoder cosine": means["encoder"][0],
        "encoder cosine, deviation": means["encoder"][1],
        "decoder cosine": means["decoder"][0],
        "L0": experiment.l0(spec),
        "FVU": error.fvu,
        "squared error": error.squared_error,
    }


def by_seed(
    experiment: Experiment, specs: Mapping[str, DictionarySpec], measure: Callable[[Experiment, DictionarySpec], Part]
) -> list[Part]:
    """Trains each specification once for each seed. Returns the numbers of each seed, named ``"spec: number"``."""
    experiment.train(repeated for spec in specs.values() for repeated in experiment.repeated(spec))
    return [
        {
            f"{name}: {key}": value
            for name, spec in specs.items()
            for key, value in measure(experiment, replace(spec, repeat=repeat)).items()
        }
        for repeat in range(experiment.setting.n_seeds)
    ]


def row(measured: Measured, what: str, quantity: Quantity | str, report: str = "-", form: str = ".3g") -> Compared:
    """Returns a table row with a measured quantity and its value in the report."""
    return Compared(what, report, told(measured, quantity, form))


def along(measured: Measured, keys: Iterable[str], form: str = ".3g") -> str:
    """Formats several quantities, separated by semicolons."""
    return "; ".join(told(measured, key, form) for key in keys)


def curve(
    measured: Measured,
    quantities: Mapping[float, Quantity | str],
    colour: str | None = None,
    *,
    dashed: bool = False,
    scale: float = 1.0,
) -> Curve | None:
    """Returns a curve of quantities by x coordinate, with their intervals, or None if none was measured."""
    known = {
        x: estimate
        for x, q in quantities.items()
        if (estimate := (Quantity(q) if isinstance(q, str) else q).estimate(measured)) is not None
    }
    if not known:
        return None
    means = [scale * e.value for e in known.values()]
    errors = [
        (scale * (e.value - e.low), scale * (e.high - e.value)) if math.isfinite(e.high) else 0.0
        for e in known.values()
    ]
    return Curve(list(known), means, colour, dashed, errors)


def match_numbers(match: NeuronMatch, firing: FiringFrequencies) -> dict[str, Any]:
    """Returns the numbers of a match and of firing frequencies that figures need."""
    return {
        "decoder_cosine": match.decoder_cosine,
        "decoder_neuron": match.decoder_neuron,
        "null_decoder": match.null_decoder,
        "encoder_cosine": match.encoder_cosine,
        "null_encoder": match.null_encoder,
        "n_neurons": match.n_neurons,
        "firing_counts": firing.counts,
        "n_firing_tokens": firing.n_tokens,
    }


def match_from(numbers: dict[str, Any]) -> tuple[NeuronMatch, LatentTypes, FiringFrequencies]:
    """Returns match, types and firing frequencies from the result of `match_numbers`."""
    names = ("decoder_cosine", "decoder_neuron", "null_decoder", "encoder_cosine", "null_encoder")
    tensors = {name: torch.tensor(numbers[name]) for name in names if numbers[name] is not None}
    match = NeuronMatch(n_neurons=numbers["n_neurons"], **tensors)
    firing = FiringFrequencies(torch.tensor(numbers["firing_counts"]), numbers["n_firing_tokens"])
    return match, latent_types(match, THRESHOLD, dead=firing.dead), firing


def median(values: Tensor) -> float | None:
    """Returns the median, or None if there are no values."""
    return float(values.double().median()) if len(values) else None


def mean_sd(values: Tensor) -> tuple[float | None, float | None]:
    """Returns mean and standard deviation, each None if there are too few values."""
    if not len(values):
        return None, None
    return float(values.mean()), float(values.std()) if len(values) > 1 else None
