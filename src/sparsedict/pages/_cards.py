"""What a page says of one latent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sparsedict.analysis import FiringFrequencies, LatentTypes, NeuronMatch, TopExamples

Kind = Literal["simulator", "sparse latent", "never fired"]


@dataclass(frozen=True, eq=False)
class LatentCard:
    """One latent with its strongest examples and what else is known of it.

    Attributes:
        latent: Its index.
        examples: Strongest first.
        frequency: Share of tokens on which it fires.
        n_tokens: Tokens on which the frequency was counted.
        kind: Its type.
        neuron: The neuron nearest to its decoder row.
        cosine: Their signed cosine.
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
        """The activation of largest magnitude among the examples, with its sign; 0 where there are none."""
        return max((example.max for example in self.examples.examples), key=abs, default=0.0)


def latent_cards(
    examples: Mapping[int, TopExamples],
    *,
    firing: FiringFrequencies | None = None,
    match: NeuronMatch | None = None,
    types: LatentTypes | None = None,
) -> list[LatentCard]:
    """Puts together what is known of each latent that has examples.

    Args:
        examples: By latent, as `sparsedict.analysis.top_examples` returns them.
        firing: Of the same dictionary.
        match: Of the same dictionary with its MLP's neurons.
        types: Of the same dictionary.
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
