"""An open question of the report: the large decoder cosines of sparse latents with their nearest neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sparsedict import figures
from sparsedict.analysis import match_neurons
from sparsedict.figures import Palette

from ..claims import Above, Between, Clause
from ..dictionary_spec import DictionarySpec
from ..estimates import Difference, Quantity, measured, told
from ..experiment import Experiment
from ..study import Compared, Drawing, Finding, Numbers, Study
from .parts import median, row, student, typed

N_DRAWN = 4_096
N_COMBINED = 4
"""Largest number of neurons that together explain the row of a sparse latent."""


class SparseDecoders(Study):
    """The cosines of sparse latents with neurons, compared with several null distributions."""

    name: ClassVar[str] = "sparse-decoders"
    title: ClassVar[str] = "Why sparse latents lie near neurons"
    shows: ClassVar[str] = "Appendix A, at its end"
    claim: ClassVar[str] = (
        "The decoder rows of sparse latents have a moderately high cosine with their nearest neuron. The toy model of "
        "one neuron does not explain this."
    )

    def measure(self, experiment: Experiment) -> Numbers:
        spec = student(experiment, experiment.layer)
        experiment.train(experiment.repeated(spec))
        cosines, seeds = {}, []
        for repeated in experiment.repeated(spec):
            found, explained = _measure(experiment, repeated)
            cosines = cosines or found
            seeds.append({name: median(values) for name, values in {**found, **explained}.items()})
        return {"layer": experiment.layer, "measured": measured(seeds), "cosines": cosines}

    def clauses(self, numbers: Numbers) -> Sequence[Clause]:
        high = Difference(SPARSE, RANDOM)
        return [
            Clause("median cosine of sparse latents, minus that of random directions", high, Above(0.05), "above 0"),
            Clause("the median cosine is moderately high", Quantity(SPARSE), Between(0.3, 0.8), "moderately high"),
        ]

    def found(self, numbers: Numbers) -> Finding:
        return Finding(_summary(numbers), self.judge(numbers), _rows(numbers), _drawings(numbers), NOTES)


SPARSE, RANDOM, VARIED, WRITTEN = (
    "sparse latents",
    "random directions",
    "random, as outputs vary",
    "outputs of tokens",
)
CHANCES = (RANDOM, VARIED, WRITTEN)


def _measure(experiment: Experiment, spec: DictionarySpec) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns cosines with the nearest neuron, and shares of rows that neurons explain, for one seed."""
    match, types, _ = typed(experiment, spec)
    neurons, outputs = experiment.sites[spec.site].neurons, experiment.held_out(spec.site).outputs
    generator = torch.Generator().manual_seed(spec.seed(experiment.seed))
    chosen = torch.randperm(len(outputs), generator=generator)[:N_DRAWN]
    centred = outputs - outputs.mean(0)
    mixed = torch.randn(N_DRAWN, centred.shape[1], generator=generator).to(centred.device) @ _root(centred)
    sparse = types.sparse
    cosines = {
        SPARSE: match.decoder_cosine[sparse],
        RANDOM: match.null_decoder,
        VARIED: match_neurons(mixed, neurons).decoder_cosine,
        WRITTEN: match_neurons(centred[chosen], neurons).decoder_cosine,
    }
    return cosines, _explained(experiment.dictionary(spec).decoder.detach()[sparse], neurons.decoder)


NOTES = (
    "The statement on the toy model isn't a clause. All latents of the toy model are trained on one neuron.",
    "The cosines are compared with three null distributions: random directions, random directions with the covariance "
    "of the MLP's outputs, and the MLP's outputs on single tokens, minus their mean.",
    "The neurons of a combination are selected greedily: each is the nearest neuron to the residual of the previous "
    "ones.",
)


def _summary(numbers: Numbers) -> str:
    known = numbers["measured"]
    chances = "; ".join(f"{name} {told(known, name, '.2f')}" for name in CHANCES)
    return (
        f"The median cosine of a live sparse latent with its nearest neuron is {told(known, SPARSE, '.2f')}. For "
        f"comparison: {chances}. The output of an MLP on a token is a sum over neurons, of which few are strongly "
        "active. Directions with the distribution of the outputs are therefore near some neuron. Four neurons "
        f"together explain {told(known, _by(4), '.1%')} of the row of the median sparse latent, and one neuron "
        f"explains {told(known, _by(1), '.1%')}."
    )


def _by(n: int) -> str:
    return f"share of a sparse latent's row explained, neurons: {n}"


def _rows(numbers: Numbers) -> tuple[Compared, ...]:
    known = numbers["measured"]
    cosines = [
        row(
            known, f"cosine with the nearest neuron, median: {name}", name, "moderately high" if name == SPARSE else "-"
        )
        for name in (SPARSE, *CHANCES)
    ]
    return (*cosines, *(row(known, f"{_by(n)}, median", _by(n), form=".1%") for n in range(1, N_COMBINED + 1)))


def _drawings(numbers: Numbers) -> dict[str, Drawing]:
    cosines = {name: torch.tensor(values) for name, values in numbers["cosines"].items() if len(values)}
    colours = {SPARSE: Palette.SPARSE, RANDOM: Palette.NULL}
    return {
        "sparse-decoders": Drawing(
            lambda: figures.cosine_histograms(cosines, "decoder cosine with the nearest neuron", colours=colours),
            "First seed: density of the cosines of sparse latents, compared with three null distributions. The peak "
            "of random directions is cut off.",
        )
    }


def _root(rows: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    return values.clamp_min(0).sqrt()[:, None] * vectors.T


def _explained(rows: Tensor, neurons: Tensor) -> dict[str, Tensor]:
    """Returns the share of each row's squared norm that its best one to four neurons explain, chosen greedily."""
    directions = torch.nn.functional.normalize(neurons, dim=-1)
    rows = torch.nn.functional.normalize(rows, dim=-1)
    left, chosen = rows.clone(), torch.zeros(len(rows), 0, dtype=torch.int64, device=rows.device)
    found: dict[str, Tensor] = {}
    for count in range(1, N_COMBINED + 1):
        nearest = (left @ directions.T).abs().argmax(1, keepdim=True)
        chosen = torch.cat([chosen, nearest], dim=1)
        basis = directions[chosen]
        gram = basis @ basis.mT + 1e-6 * torch.eye(count, device=rows.device)
        weights = torch.linalg.solve(gram, basis @ rows[..., None])
        left = rows - (basis.mT @ weights).squeeze(-1)
        found[_by(count)] = 1 - left.square().sum(1)
    return found
