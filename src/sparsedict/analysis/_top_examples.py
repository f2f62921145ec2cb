"""`top_examples`, the texts on which latents are most active."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.analysis._blocks import evaluation_mode
from sparsedict.analysis._entry_blocks import EntryBlocks
from sparsedict.analysis._example_reservoir import ExampleReservoir, peaks
from sparsedict.analysis._examples import Example
from sparsedict.analysis._site_dictionary import SiteDictionary
from sparsedict.display import Displayed
from sparsedict.sites import Site
from sparsedict.types import Role


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
    checks.instance("site", site, Site, "a site, such as `sd.Site(model, path)`")
    n_examples = checks.at_least("n_examples", n_examples, 1)
    before, after = checks.pair("context", context, 0)
    blocks = EntryBlocks(site, [SiteDictionary("dictionary", Adapter(dictionary, reads))], tokens, batch_size)
    reservoir: ExampleReservoir | None = None
    chosen, columns, n_tokens = torch.zeros(0, dtype=torch.int64, device="cpu"), np.zeros(0, dtype=np.int32), 0
    with evaluation_mode(site.model, dictionary):
        for found in blocks:
            block = found["dictionary"]
            if reservoir is None:
                chosen = _chosen_latents(latents, blocks.n_latents["dictionary"])
                columns = np.full(blocks.n_latents["dictionary"], -1, dtype=np.int32)
                columns[chosen.numpy()] = np.arange(len(chosen))
                reservoir = ExampleReservoir(len(chosen), n_examples, (before, after))
            own = block if latents is None else block.renumbered(columns)
            reservoir.update_(own, peaks(own, reservoir.best.lowest))
            n_tokens += block.text.n_tokens
    assert reservoir is not None
    table = reservoir.table()
    return {latent: TopExamples(latent, table.group(row), n_tokens) for row, latent in enumerate(chosen.tolist())}


def _chosen_latents(latents: Sequence[int] | Tensor | None, n_latents: int) -> Tensor:
    if latents is None:
        return torch.arange(n_latents, device="cpu")
    chosen = checks.indices("latents", latents, "indices or a mask of at least one latent")
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
