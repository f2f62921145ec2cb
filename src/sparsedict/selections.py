"""How an activation chooses its support from pre-activations, said apart from how the choice is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from sparsedict.display import Displayed
from sparsedict.latents import Support


class Selection(ABC):
    """A rule that picks entries of ``[n_tokens, n_latents]`` pre-activations.

    :meth:`support` says what the rule means, from all pre-activations at once. The kernels know quicker ways for the
    rules below, which never hold all of them; a rule of your own is followed through :meth:`support`.
    """

    per_token: ClassVar[bool] = True
    """Whether a token's entries depend on that token alone, so that a batch may be looked at block by block."""

    @abstractmethod
    def support(self, pre: Float[Tensor, "n_tokens n_latents"]) -> Support:
        """Returns the entries picked."""


@dataclass(frozen=True)
class Largest(Selection):
    """The ``k`` largest of each token.

    Attributes:
        k: Entries of each token.
        lowest_ties: Of equal entries that compete for the last places, take those of lowest index. Otherwise
            whichever comes first, so that nothing need be read from the device.
    """

    k: int
    lowest_ties: bool = False

    def support(self, pre: Float[Tensor, "n_tokens n_latents"]) -> Support:
        n_latents = pre.shape[-1]
        if not self.lowest_ties or self.k == n_latents:
            return Support.from_indices(pre.topk(self.k, dim=-1, sorted=False).indices, n_latents)
        values, indices = pre.topk(self.k + 1, dim=-1)
        return Support.from_indices(settle_ties(pre, values, indices), n_latents)


@dataclass(frozen=True, eq=False, repr=False)
class LargestOfBatch(Displayed, Selection):
    """The ``k * n_tokens`` largest positive entries of the whole batch, in the order of tokens and then of latents.

    Attributes:
        k: Entries per token, on average.
        guess: What the smallest entry may be, a scalar, or ``None``. A good guess only makes the search shorter.
    """

    k: int
    guess: Tensor | None = None

    per_token = False

    def support(self, pre: Float[Tensor, "n_tokens n_latents"]) -> Support:
        n_tokens, n_latents = pre.shape
        values, flat = pre.reshape(-1).topk(min(self.k * n_tokens, pre.numel()), sorted=False)
        return Support.from_flat(flat[~(values <= 0)].sort().values, n_tokens, n_latents)


@dataclass(frozen=True, eq=False, repr=False)
class Above(Displayed, Selection):
    """Every entry greater than its latent's threshold; NaN counts as greater, or it would turn into silence.

    Attributes:
        threshold: A scalar or one value per latent.
    """

    threshold: Tensor

    def support(self, pre: Float[Tensor, "n_tokens n_latents"]) -> Support:
        return Support.from_mask(~(pre <= self.threshold))


def settle_ties(
    pre: Float[Tensor, "n_tokens n_candidates"],
    values: Float[Tensor, "n_tokens k_and_one"],
    indices: Int[Tensor, "n_tokens k_and_one"],
) -> Int[Tensor, "n_tokens k"]:
    """Returns the largest but one of each row, those of lowest index where equal ones compete for the last places.

    Args:
        pre: What the values were chosen from.
        values: The largest of each row, in descending order.
        indices: Where they lie.
    """
    k = values.shape[1] - 1
    # A tie matters where it straddles the boundary and its latents are not zero anyway.
    tied = (values[:, k - 1] == values[:, k]) & (values[:, k] > 0)
    chosen = indices[:, :k]
    if bool(tied.any()):
        chosen = chosen.clone()
        chosen[tied] = pre[tied].sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return chosen
