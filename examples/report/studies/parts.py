"""Parts that several of the report's studies share."""

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

from ..bench import Bench
from ..estimates import Measured, Quantity, told
from ..order import Order
from ..places import mlp
from ..study import Compared

Part = dict[str, float | None]
"""Numbers of one seed, by name."""

THRESHOLD = 0.8
"""The report's: a latent whose decoder cosine exceeds it is a simulator."""
AUXK = AuxK(dead_after=30_000)
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
    match = match_neurons(bench.dictionary(order), bench.sites[order.site].neurons, seed=order.seed(bench.seed))
    return match, latent_types(match, THRESHOLD, dead=firing.dead), firing


def described(bench: Bench, order: Order) -> Part:
    """Returns the numbers of one dictionary of an MLP, by name."""
    match, types, firing = typed(bench, order)
    simulators, sparse = types.simulators, types.sparse
    n, n_others = types.n_latents, types.n_latents - types.n_simulators
    encoder, decoder = match.encoder_cosine_of_decoder_match, match.decoder_cosine
    means = dict.fromkeys(("encoder", "decoder"), (None, None))
    if encoder is not None:
        means = {side: mean_sd(c[simulators]) for side, c in (("encoder", encoder), ("decoder", decoder))}
    error = bench.error(order)
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
        "L0": bench.l0(order),
        "FVU": error.fvu,
        "squared error": error.squared_error,
    }


def by_seed(bench: Bench, orders: Mapping[str, Order], measure: Callable[[Bench, Order], Part]) -> list[Part]:
    """Trains each order once for each seed, and returns each seed's numbers, named ``"order: number"``."""
    bench.train(repeated for order in orders.values() for repeated in bench.repeated(order))
    return [
        {
            f"{name}: {key}": value
            for name, order in orders.items()
            for key, value in measure(bench, replace(order, repeat=repeat)).items()
        }
        for repeat in range(bench.setting.n_seeds)
    ]


def row(measured: Measured, what: str, quantity: Quantity | str, report: str = "-", form: str = ".3g") -> Compared:
    """Sets a measured quantity beside the report's."""
    return Compared(what, report, told(measured, quantity, form))


def along(measured: Measured, keys: Iterable[str], form: str = ".3g") -> str:
    """Formats several quantities one after the other."""
    return "; ".join(told(measured, key, form) for key in keys)


def curve(
    measured: Measured,
    quantities: Mapping[float, Quantity | str],
    colour: str | None = None,
    *,
    dashed: bool = False,
    scale: float = 1.0,
) -> Curve | None:
    """Makes a curve of quantities by place, with their intervals; None if none was measured."""
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
