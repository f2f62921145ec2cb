"""Representations of examples: states of the model, or a function of the text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis._blocks import evaluation_mode
from sparsedict.analysis.scores._token_latents import TokenLatents
from sparsedict.sites import Site
from sparsedict.torch_state import callers_state
from sparsedict.types import Role


@runtime_checkable
class Representation(Protocol):
    """Interface of representations of tokens in their context. Any function of this form is a representation."""

    def __call__(self, text: TokenLatents, positions: Int[Tensor, " n"], /) -> Float[Tensor, "n d"]:
        """Returns a vector for each of some positions in the flattened tokens of the text."""
        ...


def represented_by(represent: Representation, text: TokenLatents, positions: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Returns the vectors of a representation as float32 on the CPU.

    Raises:
        TypeError: If the representation isn't a function.
        ValueError: If it doesn't return a finite vector for each position.
    """
    if not callable(represent):
        raise TypeError(
            "The representation must be a function of the text and positions, such as scores.SiteStates(site), got "
            f"{type(represent).__name__}."
        )
    with callers_state():
        found = represent(text, positions)
    vectors = torch.as_tensor(found, device="cpu").detach().float()
    if vectors.ndim != 2 or len(vectors) != len(positions):
        raise ValueError(
            f"The representation must return one vector for each position, [{len(positions)}, d], got "
            f"{tuple(vectors.shape)}."
        )
    return checks.finite("vectors", vectors, "The representation returned them.")


@dataclass(frozen=True)
class SiteStates:
    """The activations of the model at a site: by default the output of the site.

    The residual stream after block 3 of a GPT-Neo is ``SiteStates(Site(model, reads="transformer.h.3:out",
    writes="transformer.h.3:out"))``. A state contains the token and everything that the model read before it. Don't use
    the activations that the dictionary itself reads: each latent is a direction in them.

    Attributes:
        site: The site.
        role: ``"inputs"`` or ``"outputs"``.
        batch_size: Number of sequences in a forward pass.
    """

    site: Site
    role: Role = "outputs"
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not isinstance(self.site, Site):
            raise TypeError(f"`site` must be a Site, got {type(self.site).__name__}.")
        checks.one_of("role", self.role, ("inputs", "outputs"))
        checks.set_at_least(self, "batch_size", 1)

    def __call__(self, text: TokenLatents, positions: Int[Tensor, " n"], /) -> Float[Tensor, "n d"]:
        """Returns the states. Only sequences with a position among ``positions`` are computed."""
        width = text.tokens.shape[1]
        sequence = torch.div(positions, width, rounding_mode="floor")
        order = torch.argsort(sequence, stable=True)
        needed, counts = sequence.unique(return_counts=True)
        parts = []
        with evaluation_mode(self.site.model):
            for rows, n in zip(needed.split(self.batch_size), counts.split(self.batch_size), strict=True):
                tokens = text.tokens[rows]
                states = self.site.capture(_model_inputs(tokens))[self.role].cpu()
                own = order[len(torch.cat(parts)) if parts else 0 :][: int(n.sum())]
                row = torch.searchsorted(rows, sequence[own])
                parts.append(states[row, positions[own] % width].float())
        found = torch.cat(parts)
        return torch.empty_like(found).index_copy_(0, order, found)


@dataclass(frozen=True)
class TextEmbedding:
    """A function of the text around a token, such as ``SentenceTransformer("all-MiniLM-L6-v2").encode``.

    Attributes:
        function: From a list of ``n`` texts to vectors ``[n, d]``, as a tensor, an array or lists.
        before: Number of tokens before the token.
        after: Number of tokens after the token.
        mark: Text before and after the token, which tells the function where the latent is active.
    """

    function: Callable[[list[str]], object]
    before: int = 16
    after: int = 4
    mark: tuple[str, str] = ("<<", ">>")

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"`function` must be a function from texts to vectors, got {type(self.function).__name__}.")
        checks.set_at_least(self, "before", 0)
        checks.set_at_least(self, "after", 0)

    def __call__(self, text: TokenLatents, positions: Int[Tensor, " n"], /) -> Float[Tensor, "n d"]:
        """Returns the vectors of the texts around each position.

        Raises:
            ValueError: If the text has no strings, or the function returns another number of vectors.
        """
        chosen = positions.tolist()
        texts = [
            marked(window, {position}, self.mark)
            for position, window in zip(chosen, windows(text, chosen, self.before, self.after), strict=True)
        ]
        vectors = torch.as_tensor(self.function(texts), dtype=torch.float32, device="cpu")
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise ValueError(
                f"`function` must return one vector for each text, [{len(texts)}, d], got {tuple(vectors.shape)}."
            )
        return vectors


def windows(text: TokenLatents, positions: Sequence[int], before: int, after: int) -> list[list[tuple[int, str]]]:
    """Returns the tokens around each position, each with its position and its string. Padding is left out.

    Raises:
        ValueError: If the text has no strings.
    """
    if text.strings is None:
        raise ValueError(
            "`text.strings` must be passed, because this score reads the text, got None. Pass "
            "`strings=sd.pages.token_strings(tokenizer)` to `record`."
        )
    width, flat = text.tokens.shape[1], text.tokens.flatten()
    found = []
    for position in positions:
        first = position - position % width
        places = torch.arange(max(first, position - before), min(first + width, position + after + 1), device="cpu")
        real = places[flat[places] >= 0]
        found.append(list(zip(real.tolist(), text.strings(flat[real].tolist()), strict=True)))
    return found


def marked(window: list[tuple[int, str]], positions: Collection[int], mark: tuple[str, str]) -> str:
    """Returns the text of a window with marks around the tokens at some positions."""
    return "".join(f"{mark[0]}{string}{mark[1]}" if place in positions else string for place, string in window)


def standardised(states: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Returns unit vectors of states whose coordinates have mean 0 and variance 1.

    Without it, few coordinates of large mean or variance dominate cosines in the residual stream.
    """
    centred = states - states.mean(0)
    scaled = centred / centred.std(0).clamp(min=1e-6)
    return torch.nn.functional.normalize(scaled, dim=1)


def _model_inputs(tokens: Tensor) -> Tensor | dict[str, Tensor]:
    padding = tokens < 0
    if not bool(padding.any()):
        return tokens
    return {"input_ids": tokens.clamp(min=0), "attention_mask": (~padding).long()}
