"""`top_examples`, the texts on which latents are most active."""

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
from sparsedict.analysis._running_top import Entries, RunningTop
from sparsedict.analysis._token_batches import token_batches
from sparsedict.display import Displayed
from sparsedict.latents import SparseLatents, fires
from sparsedict.sites import Site
from sparsedict.types import Role


@dataclass(frozen=True, eq=False, repr=False)
class Example(Displayed):
    """A peak of a latent, with the tokens around it.

    Attributes:
        tokens: Token ids of the window, ``[n_window]``.
        activations: Values of the latent on these tokens, ``[n_window]``; 0 at positions that the site excludes.
        peak: Index of the peak in the window.
        sequence: Index of the sequence, counted over all batches.
        position: Position of the peak in the sequence. For a site in a decoder, in the tokens of the decoder.
    """

    tokens: Int[Tensor, " n_window"]
    activations: Float[Tensor, " n_window"]
    peak: int
    sequence: int
    position: int

    @property
    def max(self) -> float:
        """The value of the latent at the peak, with its sign. Its magnitude is the largest in the sequence."""
        return float(self.activations[self.peak])


@dataclass(frozen=True, eq=False, repr=False)
class TopExamples(Displayed):
    """The strongest examples of one latent.

    Attributes:
        latent: Index of the latent.
        examples: Examples from different sequences, the strongest first. There are fewer than requested if the latent
            fired in fewer sequences.
        n_tokens: Number of tokens searched.
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
    """Finds the sequences in which each latent is most active, in one pass for all latents.

    Each sequence gives at most one example, at the largest magnitude of the latent. Among equal values, the earlier
    position and the earlier sequence come first. Tokens on which the latent doesn't fire aren't examples.

    Args:
        site: The site of the dictionary.
        dictionary: A `Dictionary`, or any object with ``encode``.
        tokens: Ids ``[n_sequences, n_positions]``, a mapping of the model's keyword arguments, or any other form that
            an `ActivationStream` accepts.
        latents: Indices of latents, or a mask ``[n_latents]``. All latents by default.
        n_examples: Number of examples for each latent.
        context: Number of tokens before and after the peak: one number, or a tuple of two.
        batch_size: Number of sequences in a forward pass.
        reads: The activations that an object of another library reads.

    Returns:
        The examples by latent, in the order of ``latents``.

    Raises:
        ValueError: If a latent doesn't exist, or the tokens aren't integers.
    """
    adapter = Adapter(dictionary, reads)
    n_examples = checks.at_least("n_examples", n_examples, 1)
    sides = context if isinstance(context, tuple | list) else (context, context)
    before, after = (checks.at_least("context", side, 0) for side in sides)
    window = torch.arange(-before, after + 1, device="cpu")
    running: RunningTop | None = None
    with evaluation_mode(site.model, dictionary):
        for batch in token_batches(tokens, batch_size, site.model):
            captured = site.capture(batch, neurons=adapter.uses("neurons"))
            ids = captured.tokens
            if ids is None or ids.shape != captured.shape:
                raise ValueError(
                    "`tokens` must be token ids [n_sequences, n_positions], because examples contain tokens, got "
                    f"activations of leading shape {tuple(captured.shape)}."
                )
            rows = adapter.fit(adapter.inputs(captured.batch()))
            entries, n_latents = _entries(adapter, rows, captured.kept.cpu().nonzero())
            if running is None:
                running = RunningTop(_chosen_latents(latents, n_latents), n_latents, n_examples, window)
            running.update_(entries, _mark_padding(ids, captured.attention_mask))
    assert running is not None
    return {latent: _top(running, latent, column) for column, latent in enumerate(running.latents.tolist())}


def _entries(adapter: Adapter, x: Tensor, positions: Tensor) -> tuple[Entries, int]:
    """Encodes rows with the given sequences and positions ``[n_rows, 2]``. Returns the active entries on the CPU."""
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
    return Entries(values, indices, positions[rows, 0], positions[rows, 1], len(x)), n_latents


def _chosen_latents(latents: Sequence[int] | Tensor | None, n_latents: int) -> Tensor:
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


def _mark_padding(ids: Tensor, real: Tensor | None) -> Tensor:
    """Returns the token ids, with -1 at padding."""
    return ids.cpu() if real is None else ids.cpu().masked_fill(~real.cpu(), -1)


def _top(running: RunningTop, latent: int, column: int) -> TopExamples:
    rows = slice(*running.offsets[column : column + 2])
    examples = []
    for tokens, activations, sequence, position in zip(
        running.tokens[rows],
        running.activations[rows],
        running.sequences[rows].tolist(),
        running.positions[rows].tolist(),
        strict=True,
    ):
        is_inside = tokens >= 0
        peak = int(is_inside[: running.n_before].sum())
        examples.append(Example(tokens[is_inside], activations[is_inside], peak, sequence, position))
    return TopExamples(latent, tuple(examples), running.n_tokens)
