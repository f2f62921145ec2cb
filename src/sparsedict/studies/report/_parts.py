"""What several of the report's studies are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsedict.activations import Activation, TopK
from sparsedict.analysis import FiringFrequencies, LatentTypes, NeuronMatch, latent_types, match_neurons
from sparsedict.norms import UnitNorm
from sparsedict.penalties import L1, AuxK, Sqrt
from sparsedict.studies._bench import Bench
from sparsedict.studies._order import Order
from sparsedict.studies._places import mlp

THRESHOLD = 0.8
"""The report's: a latent whose decoder cosine exceeds it is a simulator."""
AUXK = AuxK(idle_tokens=30_000)
ROUNDED = 0.014
"""Of the output's standard deviation: below it the square-root penalty is no steeper, for the slope at zero kills."""


def student(bench: Bench, layer: int, coefficient: float | None = None, *, warm: Order | None = None) -> Order:
    """Orders the report's student of one layer: ReLU, L1, decoder rows of norm 1 at most."""
    setting = bench.setting
    c = bench.coefficient(setting.coefficient if coefficient is None else coefficient, layer)
    return Order(mlp(layer), bench.width(layer), setting.report, (L1(c),), warm=warm)


def autoencoder(bench: Bench, layer: int) -> Order:
    """Orders the report's autoencoder of one layer: ReLU under the square-root penalty, started from tokens."""
    variance = bench.variance(mlp(layer))
    # The square root grows with half the power of its argument, the squared error with twice it.
    c = bench.setting.autoencoder_coefficient * (variance / bench.variance(mlp(bench.layer))) ** 0.75
    penalty = Sqrt(float(f"{c:.4g}"), eps=float(f"{ROUNDED * variance**0.5:.2g}"))
    training = replace(bench.setting.report, start="data")
    return Order(mlp(layer), bench.width(layer), training, (penalty,), "autoencoder")


def modern(bench: Bench, site: str, n_latents: int, activation: Activation | None = None, **options: Any) -> Order:
    """Orders a dictionary of today: TopK or another activation, unit decoder rows, started from tokens."""
    options = {"penalties": (AUXK,), "decoder_norm": UnitNorm(), **options}
    return Order(site, n_latents, bench.setting.modern, activation=activation or TopK(bench.setting.count), **options)


def typed(bench: Bench, order: Order) -> tuple[NeuronMatch, LatentTypes, FiringFrequencies]:
    """Matches a dictionary of an MLP with its neurons, divides its latents, and counts their firing."""
    firing = bench.firing(order)
    match = match_neurons(bench.dictionary(order), bench.sites[order.site].neurons, seed=bench.seed)
    return match, latent_types(match, THRESHOLD, dead=firing.dead), firing


def counts(match: NeuronMatch, types: LatentTypes, firing: FiringFrequencies) -> dict[str, Any]:
    """Returns what one says of types in numbers."""
    live = ~firing.dead.mask
    simulators, sparse = types.simulators & live, types.sparse & live
    found: dict[str, Any] = {
        "n_latents": types.n_latents,
        "n_neurons": match.n_neurons,
        "n_simulators": types.n_simulators,
        "n_sparse_live": int(sparse.sum()),
        "n_dead": firing.dead.n_dead,
        "simulators_per_neuron": types.n_simulators / match.n_neurons,
        "n_neurons_simulated": int((match.latents_per_neuron(types.simulators) > 0).sum()),
        "frequency_simulators": median(firing.frequency[simulators]),
        "frequency_sparse": median(firing.frequency[sparse]),
    }
    cosine = match.encoder_cosine_of_decoder_match
    if cosine is not None:
        found["encoder_mean"], found["encoder_sd"] = mean_sd(cosine[types.simulators])
        found["decoder_mean"], found["decoder_sd"] = mean_sd(match.decoder_cosine[types.simulators])
    return found


def match_numbers(match: NeuronMatch, firing: FiringFrequencies) -> dict[str, Any]:
    """Returns what figures need of a match and of firing, latent by latent."""
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
    """Makes of these numbers what the figures take."""
    names = ("decoder_cosine", "decoder_neuron", "null_decoder", "encoder_cosine", "null_encoder")
    tensors = {name: torch.tensor(numbers[name]) for name in names if numbers[name] is not None}
    match = NeuronMatch(n_neurons=numbers["n_neurons"], **tensors)
    firing = FiringFrequencies(torch.tensor(numbers["firing_counts"]), numbers["n_firing_tokens"])
    return match, latent_types(match, THRESHOLD, dead=firing.dead), firing


def median(values: Tensor) -> float | None:
    """Returns the median, or None of nothing."""
    return float(values.double().median()) if len(values) else None


def mean_sd(values: Tensor) -> tuple[float | None, float | None]:
    """Returns mean and standard deviation, or None where there are too few values."""
    if not len(values):
        return None, None
    return float(values.mean()), float(values.std()) if len(values) > 1 else None


def number(value: float | None, form: str = "#.3g") -> str:
    """Formats a number that may be missing."""
    return "-" if value is None else format(value, form).removesuffix(".")


def share(part: float | None, whole: float) -> str:
    """Formats a part of a whole in per cent."""
    return "-" if part is None or not whole else f"{part / whole:.1%}"
