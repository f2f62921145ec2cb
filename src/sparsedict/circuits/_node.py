"""`Node`, a node of an attribution graph: a token, a latent, an error term or a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["token", "latent", "error", "rest", "target"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Node:
    """A node of an attribution graph.

    Attributes:
        kind: ``"token"`` (the embedding of a token), ``"latent"`` (an active latent), ``"error"`` (the output of an MLP
            minus its reconstruction), ``"rest"`` (the sum of the latents and error terms of a layer that have no node
            of their own), or ``"target"``.
        layer: Index of the site in `AttributionGraph.layers` that a latent reads or an error term writes; None for
            tokens and logits.
        position: Position in the prompt; None for ``"rest"``.
        latent: Index of the latent in its layer's dictionary; None for other nodes.
        label: Text of the node.
        token: Id of the token of a token or logit; None for other nodes.
        probability: The model's probability of a logit's token; None for other nodes.
        is_neuron: Whether the latent is a neuron of the MLP. Neurons are latents of `sparsedict.sites.Neurons`.
        dictionary_latent: Index of the latent in the dictionary that `attribute` received, as in the records of
            `sparsedict.analysis.collect`. It differs from ``latent`` for dictionaries that read several layers; None
            if it is unknown.
        dictionary: Number of the latent's dictionary among those that read its layer, in the order in which `attribute`
            received them; 0 if there is only one.
    """

    kind: Kind
    layer: int | None
    position: int | None
    latent: int | None
    label: str
    token: int | None = None
    probability: float | None = None
    is_neuron: bool = False
    dictionary_latent: int | None = None
    dictionary: int = 0
