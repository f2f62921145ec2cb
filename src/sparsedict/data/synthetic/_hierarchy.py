"""`Hierarchy`, in which a feature is active only if its parent is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict import checks


@dataclass(frozen=True)
class Hierarchy:
    """Trees of features, in which a feature is active only if its parent is.

    The first ``n_roots`` features are the roots of the trees, the next ones the children of the first root, of the
    second root and so on, then the children of these. Features that belong to no tree are independent of all trees.

    Args:
        n_roots: Number of trees.
        n_children: Number of children of each feature that has children.
        depth: Number of levels below the roots.
        exclusive: Whether at most one child of a feature is active on a token. If several are drawn, one of them is
            chosen at random.
        scaled: Whether the strength of a child is multiplied by the strength of its parent, relative to the parent's
            mean.
        compensated: Whether the probability of a child is increased by the factor that makes its frequency
            approximately equal to that without the hierarchy: the inverse of the parent's probability and, if
            children are exclusive, one plus the expected number of active siblings.

    Source: Chanin and Garriga-Alonso, "SynthSAEBench: Evaluating Sparse Autoencoders on Scalable Realistic Synthetic
    Data", 2026, arXiv 2602.14687. The factor is that of SAELens, whose source code states it.

    Example:
        >>> Hierarchy(n_roots=2, n_children=2, depth=1).parents(8)
        tensor([-1, -1,  0,  0,  1,  1, -1, -1])
    """

    n_roots: int
    n_children: int
    depth: int = 1
    exclusive: bool = True
    scaled: bool = False
    compensated: bool = True

    def __post_init__(self) -> None:
        for name in ("n_roots", "n_children", "depth"):
            checks.set_at_least(self, name, 1)

    @property
    def starts(self) -> tuple[int, ...]:
        """Index of the first feature of each level, and the number of features in trees."""
        found = [0]
        for level in range(self.depth + 1):
            found.append(found[-1] + self.n_roots * self.n_children**level)
        return tuple(found)

    def check(self, n_features: int) -> None:
        """Raises ``ValueError`` if there are fewer features than the trees have."""
        if self.starts[-1] > n_features:
            raise ValueError(
                f"`hierarchy` must have at most `n_features` features in its trees, got {self.starts[-1]:,} of "
                f"{n_features:,}. Lower `n_roots`, `n_children` or `depth`."
            )

    def parents(self, n_features: int) -> Int[Tensor, " n_features"]:
        """Returns the parent of each feature; -1 without a parent."""
        found = torch.full((n_features,), -1, device="cpu")
        for above, (start, stop) in zip(self.starts, pairwise(self.starts[1:]), strict=False):
            found[start:stop] = above + torch.arange(stop - start, device="cpu") // self.n_children
        return found

    def compensate(self, probabilities: Float[Tensor, " n_features"]) -> Float[Tensor, " n_features"]:
        """Returns the probabilities with which features are drawn before the hierarchy removes some of them."""
        if not self.compensated:
            return probabilities
        found, parents = probabilities.clone(), self.parents(len(probabilities))
        own = (parents >= 0).nonzero().flatten()
        given = probabilities[own] / probabilities[parents[own]]
        factor = torch.ones_like(given)
        if self.exclusive:
            siblings = given.view(-1, self.n_children)
            factor = (1 + siblings.sum(1, keepdim=True) - siblings).flatten()
        found[own] = (given * factor).clamp_max(1)
        return found

    def apply_(
        self,
        codes: Float[Tensor, "n_tokens n_features"],
        means: Float[Tensor, " n_features"],
        generator: torch.Generator,
    ) -> None:
        """Removes the entries that the hierarchy excludes, in place, level by level.

        Args:
            codes: Strengths of the features.
            means: Mean strength of each feature where it is active.
            generator: Generator of the choices between siblings.
        """
        for above, (start, stop) in zip(self.starts, pairwise(self.starts[1:]), strict=False):
            children = codes[:, start:stop].unflatten(1, (-1, self.n_children))
            parents = codes[:, above:start]
            factor = parents / means[above:start] if self.scaled else (parents > 0).to(codes)
            children.mul_(factor[..., None])
            if self.exclusive:
                _keep_one_(children, generator)


def _keep_one_(siblings: Float[Tensor, "n_tokens n_groups n_children"], generator: torch.Generator) -> None:
    """Sets all active entries but a random one of each group to zero, in place."""
    tokens, groups = ((siblings > 0).sum(-1) > 1).nonzero(as_tuple=True)
    several = siblings[tokens, groups]
    scores = torch.rand(several.shape, generator=generator, device="cpu", dtype=torch.float32)
    winner = scores.masked_fill_(several <= 0, -1.0).argmax(-1, keepdim=True)
    siblings[tokens, groups] = torch.zeros_like(several).scatter_(-1, winner, several.gather(-1, winner))
