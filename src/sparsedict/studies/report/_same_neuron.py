"""Figures 7 and 8: a simulator's encoder and decoder belong to one neuron, whose activation it follows."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sparsedict import figures
from sparsedict.analysis import simulator_correlation
from sparsedict.studies._bench import Bench
from sparsedict.studies._study import Compared, Drawing, Finding, Numbers, Study
from sparsedict.studies.report._parts import mean_sd, median, number, share, student, typed

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
        order = student(bench, bench.layer)
        match, types, firing = typed(bench, order)
        dictionary, neurons = bench.dictionary(order), bench.sites[order.site].neurons
        found: Numbers = {"layer": bench.layer, "n_simulators": types.n_simulators, "n_latents": types.n_latents}
        nearest = match.decoder_neuron[:N_SHOWN]
        for side in ("decoder", "encoder"):
            rows = normalize(getattr(dictionary, side).detach()[:N_SHOWN], dim=-1)
            found[f"{side}_map"] = rows @ normalize(getattr(neurons, side)[nearest], dim=-1).T
        alive = types.simulators & ~firing.dead.mask
        if not bool(alive.any()):
            return found
        found["encoder_mean"], _ = mean_sd(
            _cosines(dictionary.encoder[alive], neurons.encoder[match.decoder_neuron[alive]])
        )
        root = _root(bench.held_out(order.site).inputs)
        ours, theirs = dictionary.encoder[alive] @ root, neurons.encoder[match.decoder_neuron[alive]] @ root
        found["encoder_mean_by_inputs"], _ = mean_sd(_cosines(ours, theirs))
        agrees = match.agrees
        found["n_agreeing"] = 0 if agrees is None else int(agrees[types.simulators].sum())
        data = bench.held_out(order.site)
        result = simulator_correlation(dictionary, match, data, latents=alive, neurons=neurons)
        found["correlation"] = result.correlation
        found["correlation_mean"], found["correlation_sd"] = mean_sd(result.correlation)
        found["correlation_median"] = median(result.correlation)
        first, partner = int(result.latents[0]), int(result.neurons[0])
        with torch.no_grad():
            inputs = data.inputs[:N_POINTS]
            found["first"] = {
                "latent": first,
                "neuron": partner,
                "correlation": float(result.correlation[0]),
                "latent_activation": dictionary.encode(inputs)[:, first],
                "neuron_activation": neurons.encode(inputs)[:, partner],
                "encoder_cosine": float(
                    normalize(dictionary.encoder[first], dim=0) @ normalize(neurons.encoder[partner], dim=0)
                ),
            }
        return found

    def found(self, numbers: Numbers) -> Finding:
        maps = {side: torch.tensor(numbers[f"{side}_map"]) for side in ("encoder", "decoder")}
        captions = {
            "encoder": "Figure 7: cosines of the first 100 latents' encoder rows with the neurons nearest to their "
            "decoder rows. Simulators stand out on the diagonal.",
            "decoder": "Figure 7: the same for decoder rows.",
        }
        drawings = {
            f"figure-07-{side}": Drawing(lambda cosines=cosines: figures.cosine_map(cosines), captions[side])
            for side, cosines in maps.items()
        }
        if "first" not in numbers:
            return Finding("not seen", "The student has no simulator that fires.", (), drawings)
        first = numbers["first"]
        drawings["figure-08-scatter"] = Drawing(
            lambda: figures.activation_scatter(
                torch.tensor(first["neuron_activation"]),
                torch.tensor(first["latent_activation"]),
                correlation=first["correlation"],
            ),
            f"Figure 8: the first simulator, latent {first['latent']}, against neuron {first['neuron']}.",
        )
        agreement = numbers["n_agreeing"] / numbers["n_simulators"]
        high = numbers["correlation_median"] > 0.95
        verdict = "seen" if agreement > 0.9 and high else "partly seen" if agreement > 0.9 or high else "not seen"
        summary = (
            f"For {agreement:.1%} of {numbers['n_simulators']:,} simulators, encoder and decoder are nearest to the "
            f"same neuron. Their correlation with it is {numbers['correlation_mean']:.3f} on average, "
            f"{numbers['correlation_median']:.3f} in the middle."
        )
        rows = (
            Compared(
                "encoder's nearest neuron is the decoder's",
                "yes",
                share(numbers["n_agreeing"], numbers["n_simulators"]),
            ),
            Compared("correlation of the first simulator", "0.98865", f"{first['correlation']:.5f}"),
            Compared("correlation of all simulators, median", "-", number(numbers["correlation_median"], ".4f")),
            Compared("encoder cosine of all simulators, mean", "0.1538", number(numbers["encoder_mean"])),
            Compared(
                "the same, directions weighed by how much the inputs vary along them",
                "-",
                number(numbers["encoder_mean_by_inputs"]),
            ),
            Compared("encoder cosine of the first simulator", "0.1 to 0.2", number(first["encoder_cosine"])),
        )
        return Finding(verdict, summary, rows, drawings, NOTES)


NOTES = (
    "An encoder row acts on the inputs alone, so a part of it along which the inputs hardly vary changes nothing and "
    "is hardly learned. Weighed by the inputs' covariance, the cosine is the correlation of the two pre-activations: "
    "where it is near 1 and the plain cosine isn't, that part is what they differ in.",
)


@torch.no_grad()
def _cosines(a: Tensor, b: Tensor) -> Tensor:
    return (normalize(a.detach(), dim=-1) * normalize(b, dim=-1)).sum(-1)


def _root(inputs: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(torch.cov(inputs.float().T))
    return vectors * values.clamp_min(0).sqrt()
