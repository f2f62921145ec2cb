"""How closely latents follow neurons, on real data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.analysis._blocks import blocks, evaluation_mode
from sparsedict.analysis._neuron_match import NeuronMatch
from sparsedict.batches import Activations
from sparsedict.display import Displayed
from sparsedict.metrics import RunningCorrelation
from sparsedict.types import Role


@dataclass(frozen=True, eq=False, repr=False)
class SimulatorCorrelation(Displayed):
    """Pearson's correlation of latents with their neurons.

    Attributes:
        latents: The chosen latents, ``[n_chosen]``.
        neurons: The neuron of each, ``[n_chosen]``.
        correlation: Over tokens, NaN where either never varies, ``[n_chosen]``.
        n_tokens: Tokens seen.
    """

    latents: Int[Tensor, " n_chosen"]
    neurons: Int[Tensor, " n_chosen"]
    correlation: Float[Tensor, " n_chosen"]
    n_tokens: int


def simulator_correlation(
    dictionary: Any,
    match: NeuronMatch,
    data: Any,
    *,
    latents: Bool[Tensor, " n_latents"] | None = None,
    neurons: Any = None,
    n_tokens: int | None = None,
    reads: Role | None = None,
) -> SimulatorCorrelation:
    """Correlates the activations of latents with those of the neurons whose decoder rows are nearest.

    Args:
        dictionary: A `Dictionary`, or any object with ``encode``.
        match: What `match_neurons` found for it.
        data: An `ActivationStream` or another form that ``fit`` takes, with the neurons' activations unless ``neurons``
            are given.
        latents: Which latents, a mask, such as ``latent_types(match).simulators``; by default all.
        neurons: The MLP's own neurons, to be computed from its inputs where the data doesn't hold their activations.
        n_tokens: Tokens to use; by default, and at most, one pass over the data.
        reads: Which activations another library's object takes.

    Raises:
        ValueError: If the data holds no neuron activations and no neurons are given, or no latent is chosen.

    Source: figure 8 of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """
    adapter = Adapter(dictionary, reads)
    if latents is None:
        chosen = match.decoder_neuron.new_ones(match.n_latents).nonzero().squeeze(1)
    else:
        chosen = checks.latent_vector("latents", latents, match.n_latents).nonzero().squeeze(1)
    if len(chosen) == 0:
        raise ValueError("`latents` must choose at least one latent, got a mask without any.")
    partners = match.decoder_neuron[chosen.to(match.decoder_neuron.device)]
    running = RunningCorrelation()
    with evaluation_mode(dictionary):
        for inputs, batch in blocks(adapter, data, n_tokens):
            theirs = _neuron_activations(batch, neurons)
            ours = adapter.encode(inputs)
            theirs = theirs[:, partners.to(theirs.device)].to(ours.device)
            running.update_(ours[:, chosen.to(ours.device)], theirs)
    return SimulatorCorrelation(chosen, partners, running.value, running.n_tokens)


def _neuron_activations(batch: Activations, neurons: Any) -> Tensor:
    if "neurons" in batch:
        return batch["neurons"]
    if neurons is None:
        raise ValueError(
            "`data` must hold the neurons' activations, got none: capture them (`neurons=True`), or give "
            "`neurons=site.neurons` to compute them from the inputs."
        )
    own = Adapter(neurons, "inputs")
    return own.encode(own.fit(batch.inputs))
