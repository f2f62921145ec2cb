"""Targets of attribution: logits, differences of logits, and latents."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.circuits._prompt import Prompt

Texts = Callable[[int], str]
"""Returns the text of a token id."""


@dataclass(frozen=True, eq=False)
class ResolvedTarget:
    """A target on a prompt.

    Attributes:
        label: Text of the target.
        position: Its position.
        weight: Its share in the influence of nodes, before normalisation.
        function: The linear function of the logits at the position, ``[n_vocabulary]``; None for a latent.
        latent: Index of the dictionary and of the active latent; None for logits.
        token: The token id; None if there isn't one.
        probability: The model's probability of the token; None if there isn't one.
    """

    label: str
    position: int
    weight: float
    function: Callable[[Tensor], Tensor] | None = None
    latent: tuple[int, int] | None = None
    token: int | None = None
    probability: float | None = None


class Target(ABC):
    """Base class of targets."""

    @abstractmethod
    def resolve(self, prompt: Prompt, text: Texts) -> Iterator[ResolvedTarget]:
        """Yields the targets on a prompt."""


@dataclass(frozen=True)
class TopLogits(Target):
    """The most probable tokens, as few as reach a total probability. Each is a `Logit`, weighted by its probability.

    Args:
        probability: The total probability.
        at_most: Largest number of tokens.
        position: Position whose prediction is attributed; negative from the end.
    """

    probability: float = 0.95
    at_most: int = 10
    position: int = -1

    def __post_init__(self) -> None:
        checks.set_in_range(self, "probability", 0.0, 1.0, open_low=True)
        checks.set_at_least(self, "at_most", 1)

    def resolve(self, prompt: Prompt, text: Texts) -> Iterator[ResolvedTarget]:
        probabilities = _probabilities(prompt, self.position)
        shares, tokens = probabilities.topk(min(self.at_most, len(probabilities)))
        n = int((shares.cumsum(0) - shares < self.probability).sum())
        for token in tokens[:n].tolist():
            for target in Logit(token, self.position).resolve(prompt, text):
                yield replace(target, weight=float(probabilities[token]))


@dataclass(frozen=True)
class Logit(Target):
    """The logit of a token, minus the mean logit of the vocabulary unless ``centred`` is false.

    A change of all logits by the same amount changes no probability.

    Args:
        token: The token id.
        position: Position whose prediction is attributed; negative from the end.
        centred: Whether to subtract the mean.
    """

    token: int
    position: int = -1
    centred: bool = True

    def __post_init__(self) -> None:
        checks.set_boolean(self, "centred")

    def resolve(self, prompt: Prompt, text: Texts) -> Iterator[ResolvedTarget]:
        position = _position(prompt, self.position)
        token = _token(prompt, "token", self.token)
        probability = float(_probabilities(prompt, position)[token])

        def function(logits: Tensor) -> Tensor:
            return logits[token] - logits.mean() if self.centred else logits[token]

        yield ResolvedTarget(text(token), position, 1.0, function, token=token, probability=probability)


@dataclass(frozen=True)
class LogitDifference(Target):
    """The logit of one token minus the logit of another.

    Args:
        token: The token id.
        other: The id of the token whose logit is subtracted.
        position: Position whose prediction is attributed; negative from the end.
    """

    token: int
    other: int
    position: int = -1

    def resolve(self, prompt: Prompt, text: Texts) -> Iterator[ResolvedTarget]:
        position = _position(prompt, self.position)
        token, other = _token(prompt, "token", self.token), _token(prompt, "other", self.other)
        if token == other:
            raise ValueError(f"`other` must differ from `token`, got {token} for both, whose difference is 0.")
        label = f"{text(token)} minus {text(other)}"
        yield ResolvedTarget(label, position, 1.0, lambda logits: logits[token] - logits[other])


@dataclass(frozen=True)
class Latent(Target):
    """An active latent.

    Args:
        layer: Name of the site that the latent reads.
        latent: Index of the latent among those of its dictionary that read the site, as `Node.latent`.
        position: Position; negative from the end.
        dictionary: Number of the dictionary among those that read the site, as `Node.dictionary`. It must be given if
            there are several.
    """

    layer: str
    latent: int
    position: int = -1
    dictionary: int | None = None

    def resolve(self, prompt: Prompt, text: Texts) -> Iterator[ResolvedTarget]:
        position = _position(prompt, self.position)
        latent = checks.at_least("latent", self.latent, 0)
        owners = prompt.reading(self.layer)
        if not owners:
            raise ValueError(
                f"`layer` must be a site with a dictionary, any of "
                f"{[name for own in prompt.units for name in own.reads]}, got {self.layer!r}."
            )
        index = owners[self._number(len(owners))]
        own, layer = prompt.units[index], prompt.names.index(self.layer)
        n_latents = own.adapter.n_latents
        if n_latents is not None and latent >= n_latents:
            raise ValueError(f"`latent` must be from 0 to {n_latents - 1} in {self.layer!r}, got {latent}.")
        for place in ((own.latents == latent) & (own.positions == position)).nonzero().flatten().tolist():
            if prompt.layer_of(own, place) == layer:
                label = prompt.label(index, latent, self.layer)
                yield ResolvedTarget(label, position, 1.0, latent=(index, place))
                return
        raise ValueError(
            f"`latent` must be active at position {position} of the prompt, but latent {latent} of {self.layer!r} is "
            "zero there."
        )

    def _number(self, n: int) -> int:
        if self.dictionary is None and n > 1:
            raise ValueError(
                f"`dictionary` must be from 0 to {n - 1}, since {n} dictionaries read {self.layer!r}, got None."
            )
        number = checks.at_least("dictionary", 0 if self.dictionary is None else self.dictionary, 0)
        if number >= n:
            raise ValueError(f"`dictionary` must be from 0 to {n - 1} in {self.layer!r}, got {number}.")
        return number


def resolve_targets(prompt: Prompt, targets: Any, text: Texts) -> list[ResolvedTarget]:
    """Returns the targets on a prompt. Targets that are given one by one have equal weights.

    Args:
        prompt: The prompt.
        targets: A target, a token id, or a sequence of these; None for `TopLogits`.
        text: The text of token ids.
    """
    if targets is None:
        targets = TopLogits()
    given: Sequence[Any] = targets if isinstance(targets, Sequence) and not isinstance(targets, str) else [targets]
    if isinstance(targets, Tensor | np.ndarray):
        given = targets.flatten().tolist()
    elif isinstance(targets, Iterable) and not isinstance(targets, str | Sequence):
        raise TypeError(f"`targets` must be a list of token ids or targets, got {type(targets).__name__}.")
    if not given:
        raise ValueError("`targets` must name at least one target, got none.")
    found: list[ResolvedTarget] = []
    for one in given:
        if not isinstance(one, Target):
            if isinstance(one, str):
                raise TypeError(f"`targets` must be token ids or targets such as `Logit(5)`, got the text {one!r}.")
            one = Logit(checks.at_least("targets", one, 0))
        found += one.resolve(prompt, text)
    if any(target.function is not None for target in found):
        prompt.require_logits()
    return found


def _position(prompt: Prompt, position: int) -> int:
    n = prompt.n_positions
    position = checks.at_least("position", position, -sys.maxsize)
    if not -n <= position < n:
        raise ValueError(f"`position` must be from {-n} to {n - 1} for this prompt of {n} tokens, got {position!r}.")
    return position % n


def _token(prompt: Prompt, name: str, token: int) -> int:
    n = prompt.first.logits.shape[-1]
    token = checks.at_least(name, token, 0)
    if token >= n:
        raise ValueError(f"`{name}` must be an id from 0 to {n - 1}, the vocabulary of the model, got {token}.")
    return token


def _probabilities(prompt: Prompt, position: int) -> Tensor:
    own = prompt.first.logits.reshape(prompt.n_positions, -1)[_position(prompt, position)]
    return own.to(torch.promote_types(own.dtype, torch.float32)).softmax(-1)
