"""Rules by which activations select their support from pre-activations. The kernels implement them efficiently."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict.display import Displayed
from sparsedict.latents import Support
from sparsedict.splits import join


class Selection(ABC):
    """A rule that selects entries of pre-activations ``[n_tokens, n_latents]``.

    :meth:`support` defines the rule, given all pre-activations. The kernels have faster implementations of the rules
    below, which don't store all pre-activations. For other subclasses they call :meth:`support`.
    """

    per_token: ClassVar[bool] = True
    """Whether the entries of a token depend only on that token, so that a batch can be processed in blocks."""

    @abstractmethod
    def support(self, pre: Float[Tensor, "n_tokens n_latents"]) -> Support:
        """Returns the selected entries."""


@dataclass(frozen=True)
class Largest(Selection):
    """Selects the ``k`` largest entries of each token.

    Attributes:
        k: Number of entries per token.
        lowest_ties: Whether ties are resolved in favour of the lowest index on every device. Otherwise the choice among
            equal entries is unspecified on accelerators, where a test for ties would synchronise. On the CPU, the
            lowest index is always chosen.
    """

    k: int
    lowest_ties: bool = False

    def support(self, pre: Float[Tensor, "n_tokens n_latents"]) -> Support:
        n_latents = pre.shape[-1]
        if not (self.lowest_ties or pre.device.type == "cpu") or self.k == n_latents:
            return Support.from_indices(pre.topk(self.k, dim=-1, sorted=False).indices, n_latents)
        values, indices = pre.topk(self.k + 1, dim=-1)
        return Support.from_indices(settle_ties(pre, values, indices), n_latents)


@dataclass(frozen=True, eq=False, repr=False)
class LargestOfBatch(Displayed, Selection):
    """Selects the ``k * n_tokens`` largest positive entries of the whole batch, ordered by token and then by latent.

    On the CPU, ties are resolved in favour of the first token, and then of the lowest latent.

    Attributes:
        k: Average number of entries per token, which may be fractional.
        guess: Estimate of the smallest selected entry, a scalar, or ``None``. A good estimate shortens the search. It
            doesn't change the result.
    """

    k: float
    guess: Tensor | None = None

    per_token = False

    def n_entries(self, n_tokens: int, n_latents: int) -> int:
        """Returns the number of selected entries of a batch: ``k * n_tokens``, rounded, and at least 1."""
        return min(max(int(self.k * n_tokens + 0.5), 1), n_tokens * n_latents)

    def support(self, pre: Float[Tensor, "n_tokens n_latents"]) -> Support:
        n_tokens, n_latents = pre.shape
        entries, n_wanted = pre.reshape(-1), self.n_entries(n_tokens, n_latents)
        if entries.device.type == "cpu":
            flat = first_largest(entries, entries.topk(n_wanted, sorted=False).indices)
        else:
            flat = entries.topk(n_wanted, sorted=False).indices.sort().values
        # NaN isn't at most zero, so it is selected.
        return Support.from_flat(flat[~(entries[flat] <= 0)], n_tokens, n_latents)


@dataclass(frozen=True, eq=False, repr=False)
class Above(Displayed, Selection):
    """Selects every entry above its latent's threshold. NaN is selected too, so that it isn't hidden as a zero.

    Attributes:
        threshold: A scalar or one value per latent.
    """

    threshold: Tensor

    def support(self, pre: Float[Tensor, "n_tokens n_latents"]) -> Support:
        return Support.from_mask(~(pre <= self.threshold))


@dataclass(frozen=True, eq=False, repr=False)
class Blockwise(Displayed, Selection):
    """A rule for each block of consecutive latents, which picks entries of that block alone.

    Attributes:
        rules: One for each block.
        sizes: Number of latents of each block.
    """

    rules: tuple[Selection, ...]
    sizes: tuple[int, ...]

    def support(self, pre: Float[Tensor, "n_tokens n_latents"]) -> Support:
        blocks = zip(self.rules, pre.split(self.sizes, dim=-1), strict=True)
        return join([_support(rule, own) for rule, own in blocks])


def _support(rule: Selection, pre: Tensor) -> Support:
    return rule.support(pre) if pre.shape[-1] else Support.empty(len(pre), pre.device)


def settle_ties(
    pre: Float[Tensor, "n_tokens n_candidates"],
    values: Float[Tensor, "n_tokens k_and_one"],
    indices: Int[Tensor, "n_tokens k_and_one"],
) -> Int[Tensor, "n_tokens k"]:
    """Returns the indices of the ``k`` largest entries of each row. Ties are resolved in favour of the lowest index.

    Args:
        pre: All entries.
        values: The ``k + 1`` largest of each row, in descending order.
        indices: Indices of ``values``.
    """
    k = values.shape[1] - 1
    # A tie matters only if it crosses the boundary and its latents are non-zero.
    tied = (values[:, k - 1] == values[:, k]) & (values[:, k] > 0)
    chosen = indices[:, :k]
    if bool(tied.any()):
        chosen = chosen.clone()
        chosen[tied] = pre[tied].sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return chosen


def first_largest(values: Float[Tensor, " n"], chosen: Int[Tensor, " k"]) -> Int[Tensor, " k"]:
    """Returns the indices of the ``k`` largest values in ascending order. Of ties, the first are chosen.

    Args:
        values: All values, on the CPU.
        chosen: Indices of the ``k`` largest values, with any choice among ties.
    """
    smallest = values[chosen].amin()
    tied = values == smallest
    n_tied = int((values[chosen] == smallest).sum())
    if int(tied.sum()) > n_tied:
        above = chosen[values[chosen] != smallest]
        chosen = torch.cat([above, tied.nonzero().flatten()[:n_tied]])
    return chosen.sort().values
