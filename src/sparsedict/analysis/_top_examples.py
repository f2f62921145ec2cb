"""The texts on which latents are most active."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.analysis._blocks import evaluation_mode
from sparsedict.analysis._board import Board, Entries
from sparsedict.analysis._token_batches import token_batches
from sparsedict.display import Displayed
from sparsedict.latents import SparseLatents, fires
from sparsedict.sites import Site
from sparsedict.types import Role


@dataclass(frozen=True, eq=False, repr=False)
class Example(Displayed):
    """One peak of a latent, with the tokens around it.

    Attributes:
        tokens: Token ids of the window, ``[n_window]``.
        activations: The latent on each of them, 0 where the site leaves a position out, ``[n_window]``.
        peak: Where in the window the peak is.
        sequence: Number of the sequence, counted over all batches.
        position: Column of the peak in the sequence's row of tokens; in a decoder, of the decoder's tokens.
    """

    tokens: Int[Tensor, " n_window"]
    activations: Float[Tensor, " n_window"]
    peak: int
    sequence: int
    position: int

    @property
    def max(self) -> float:
        """The latent at the peak, which is its value of largest magnitude in the sequence, with its sign."""
        return float(self.activations[self.peak])


@dataclass(frozen=True, eq=False, repr=False)
class TopExamples(Displayed):
    """The strongest examples of one latent.

    Attributes:
        latent: Index of the latent.
        examples: Strongest first, each from a sequence of its own; fewer than asked for if it fired in fewer.
        n_tokens: Tokens searched.
    """

    latent: int
    examples: tuple[Example, ...]
    n_tokens: int

    def __len__(self) -> int:
        return len(self.examples)


def top_examples(
    site: Site,
    dictionary: Any,
    tokens: Any,
    *,
    latents: Sequence[int] | Tensor | None = None,
    n_examples: int = 10,
    context: int | tuple[int, int] = 16,
    batch_size: int = 16,
    reads: Role | None = None,
) -> dict[int, TopExamples]:
    """Finds for each latent the sequences in which it is most active, all latents in one pass.

    A sequence gives at most one example, at the latent's largest magnitude there, the first of equal ones; of equal
    sequences the earlier comes first. Only tokens on which the latent fires count.

    Args:
        site: Where the dictionary belongs.
        dictionary: A `Dictionary`, or any object with ``encode``.
        tokens: Ids ``[n_sequences, n_positions]``, a mapping of the model's keyword arguments, or any other form that
            an `ActivationStream` takes.
        latents: Which latents: indices or a mask ``[n_latents]``; by default all.
        n_examples: Examples of each.
        context: Tokens shown before and after the peak, where the sequence has them: one number, or two.
        batch_size: Sequences in one forward pass.
        reads: Which activations another library's object takes.

    Returns:
        Examples by latent, in the order asked for.

    Raises:
        ValueError: If a latent doesn't exist, or the tokens are no integers.
    """
    adapter = Adapter(dictionary, reads)
    n_examples = checks.at_least("n_examples", n_examples, 1)
    sides = context if isinstance(context, tuple | list) else (context, context)
    before, after = (checks.at_least("context", side, 0) for side in sides)
    window = torch.arange(-before, after + 1, device="cpu")
    board: Board | None = None
    with evaluation_mode(site.model, dictionary):
        for batch in token_batches(tokens, batch_size, site.model):
            captured = site.capture(batch, neurons=adapter.uses("neurons"))
            ids = captured.tokens
            if ids is None or ids.shape != captured.shape:
                raise ValueError(
                    "`tokens` must be token ids [n_sequences, n_positions], for examples show tokens, got activations "
                    f"of leading shape {tuple(captured.shape)}."
                )
            rows = adapter.fit(adapter.inputs(captured.batch()))
            entries, n_latents = _entries(adapter, rows, captured.kept.cpu().nonzero())
            if board is None:
                board = Board(_chosen(latents, n_latents), n_latents, n_examples, window)
            board.update_(entries, _shown(ids, captured.attention_mask))
    assert board is not None
    return {latent: _top(board, latent, column) for column, latent in enumerate(board.latents.tolist())}


def _entries(adapter: Adapter, x: Tensor, places: Tensor) -> tuple[Entries, int]:
    """Encodes rows whose sequences and positions are ``places``, and brings the entries that fire to the CPU."""
    n_latents, size = 0, adapter.n_rows
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, max(len(x), 1), size):
        latents = adapter.encode_sparse(x[start : start + size])
        sparse = latents if isinstance(latents, SparseLatents) else SparseLatents.from_dense(latents)
        n_latents = sparse.n_latents
        active = fires(sparse.values)
        entry = (sparse.values[active].float(), sparse.latents[active], sparse.support.tokens[active] + start)
        found.append((entry[0].cpu(), entry[1].cpu(), entry[2].cpu()))
    values, indices, rows = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Entries(values, indices, places[rows, 0], places[rows, 1], len(x)), n_latents


def _chosen(latents: Sequence[int] | Tensor | None, n_latents: int) -> Tensor:
    if latents is None:
        return torch.arange(n_latents, device="cpu")
    chosen = torch.as_tensor(latents, device="cpu")
    if chosen.dtype == torch.bool:
        return checks.latent_vector("latents", chosen, n_latents).nonzero().squeeze(1)
    if chosen.ndim != 1 or chosen.is_floating_point() or not len(chosen):
        raise ValueError(f"`latents` must be indices or a mask of at least one latent, got {latents!r}.")
    wrong = chosen[(chosen < 0) | (chosen >= n_latents)]
    if len(wrong):
        raise ValueError(f"`latents` must lie in [0, {n_latents}), got {int(wrong[0])}.")
    if len(chosen.unique()) < len(chosen):
        raise ValueError(f"`latents` must name each latent once, got {latents!r}.")
    return chosen


def _shown(ids: Tensor, real: Tensor | None) -> Tensor:
    """The token ids, -1 at padding."""
    return ids.cpu() if real is None else ids.cpu().masked_fill(~real.cpu(), -1)


def _top(board: Board, latent: int, column: int) -> TopExamples:
    rows = slice(*board.offsets[column : column + 2])
    examples = []
    for tokens, activations, sequence, position in zip(
        board.tokens[rows],
        board.activations[rows],
        board.sequences[rows].tolist(),
        board.positions[rows].tolist(),
        strict=True,
    ):
        there = tokens >= 0
        peak = int(there[: board.n_before].sum())
        examples.append(Example(tokens[there], activations[there], peak, sequence, position))
    return TopExamples(latent, tuple(examples), board.n_tokens)
