"""`LatentCard`, the facts about a latent that a page shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sparsedict.analysis import FiringFrequencies, LatentTypes, NeuronMatch, TopExamples

Kind = Literal["simulator", "sparse latent", "never fired"]


@dataclass(frozen=True, eq=False)
class LatentCard:
    """A latent with its strongest examples and other facts.

    Attributes:
        latent: Index of the latent.
        examples: Examples, the strongest first.
        frequency: Share of tokens on which the latent fires.
        n_tokens: Number of tokens on which the frequency was counted.
        kind: Type of the latent.
        neuron: Index of the neuron with the nearest decoder row.
        cosine: Signed cosine of both decoder rows.
    """

    latent: int
    examples: TopExamples
    frequency: float | None = None
    n_tokens: int | None = None
    kind: Kind | None = None
    neuron: int | None = None
    cosine: float | None = None

    @property
    def max(self) -> float:
        """The activation of largest magnitude among the examples, with its sign; 0 if there are no examples."""
        return max((example.max for example in self.examples.examples), key=abs, default=0.0)


def latent_cards(
    examples: Mapping[int, TopExamples],
    *,
    firing: FiringFrequencies | None = None,
    match: NeuronMatch | None = None,
    types: LatentTypes | None = None,
) -> list[LatentCard]:
    """Returns a card for each latent with examples.

    Args:
        examples: Examples by latent, as returned by `sparsedict.analysis.top_examples`.
        firing: Firing frequencies of the dictionary.
        match: Match of the dictionary with the neurons of the MLP.
        types: Types of the latents of the dictionary.
    """
    return [_card(latent, found, firing, match, types) for latent, found in examples.items()]


def _card(
    latent: int,
    examples: TopExamples,
    firing: FiringFrequencies | None,
    match: NeuronMatch | None,
    types: LatentTypes | None,
) -> LatentCard:
    return LatentCard(
        latent,
        examples,
        None if firing is None else float(firing.frequency[latent]),
        None if firing is None else firing.n_tokens,
        None if types is None else _kind(latent, types),
        None if match is None else int(match.decoder_neuron[latent]),
        None if match is None else float(match.decoder_cosine[latent]),
    )


def _kind(latent: int, types: LatentTypes) -> Kind:
    if types.dead is not None and bool(types.dead[latent]):
        return "never fired"
    return "simulator" if bool(types.simulators[latent]) else "sparse latent"
