"""`simulator_correlation`, the correlation of latents with the neurons that they simulate."""

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
    """Pearson correlations of latents with their matched neurons.

    Attributes:
        latents: The chosen latents, ``[n_chosen]``.
        neurons: The matched neuron of each latent, ``[n_chosen]``.
        correlation: Correlation over tokens, ``[n_chosen]``. NaN if the latent or the neuron is constant.
        n_tokens: Number of tokens.
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
    """Correlates the activations of latents with those of the neurons that have the nearest decoder rows.

    Args:
        dictionary: A `Dictionary`, or any object with ``encode``.
        match: The result of `match_neurons` for the dictionary.
        data: An `ActivationStream` or other data that ``fit`` accepts. It must contain the activations of the neurons,
            unless ``neurons`` is passed.
        latents: Mask of the latents to use, such as ``latent_types(match).simulators``. All latents by default.
        neurons: The neurons of the MLP. Their activations are computed from the inputs if the data doesn't contain
            them.
        n_tokens: Number of tokens to use, at most one pass over the data. One pass by default.
        reads: The activations that an object of another library reads.

    Raises:
        ValueError: If no latent is chosen, or if the data contains no neuron activations and ``neurons`` is left out.

    Source: figure 8 of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.
    """
    checks.instance("match", match, NeuronMatch, "the result of `match_neurons`")
    adapter = Adapter(dictionary, reads)
    if latents is None:
        chosen = match.decoder_neuron.new_ones(match.n_latents).nonzero().squeeze(1)
    else:
        chosen = checks.latent_vector("latents", latents, match.n_latents).nonzero().squeeze(1)
    if len(chosen) == 0:
        raise ValueError("`latents` must be a mask of at least one latent, got a mask without any.")
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
            "`data` must contain the activations of the neurons, got none. Capture them with `neurons=True`, or pass "
            "`neurons=site.neurons` to compute them from the inputs."
        )
    own = Adapter(neurons, "inputs", argument="neurons")
    return own.encode(own.fit(batch.inputs))
