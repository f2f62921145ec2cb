"""`clusters`, groups of near-parallel latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis._cosines import N_COSINES, decoder_of, encoder_of, unit
from sparsedict.display import Displayed
from sparsedict.torch_state import in_own_state


@dataclass(frozen=True, eq=False, repr=False)
class Clusters(Displayed):
    """The connected components of the graph that joins near-parallel latents.

    Attributes:
        labels: Index of the group of each latent, ``[n_latents]``. It is -1 for a single latent, or a latent that
            isn't among the chosen ones.
        members: Latents of each group of at least two, in ascending order. The largest group is first.
        threshold: Signed cosine above which two latents are near-parallel.
    """

    labels: Int[Tensor, " n_latents"]
    members: tuple[Int[Tensor, " _"], ...]
    threshold: float

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of latents in each group."""
        return tuple(map(len, self.members))

    def __len__(self) -> int:
        return len(self.members)


def clusters(
    dictionary: Any,
    threshold: float = 0.8,
    *,
    latents: Bool[Tensor, " n_latents"] | None = None,
    side: str = "decoder",
) -> Clusters:
    """Groups latents into connected components, where an edge joins two rows with a signed cosine above a threshold.

    Simulators often come in pairs and triplets.

    Args:
        dictionary: A `Dictionary`, a matrix of rows ``[n_latents, d]``, or another library's object (see
            `match_neurons`).
        threshold: Signed cosine above which two latents are near-parallel.
        latents: Mask of the latents to group, such as ``latent_types(match).simulators``. All latents by default.
        side: The rows to compare, ``"decoder"`` or ``"encoder"``.

    Raises:
        ValueError: If the dictionary has no such rows, or the mask has the wrong shape.

    Source: appendix B of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.

    Example:
        >>> import torch
        >>> found = clusters(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]))
        >>> found.labels, found.sizes
        (tensor([ 0, -1,  0]), (2,))
    """
    checks.one_of("side", side, ("decoder", "encoder"))
    threshold = checks.in_range("threshold", threshold, -1.0, 1.0)
    encoder_side = side == "encoder" and not isinstance(dictionary, Tensor)
    rows = encoder_of("dictionary", dictionary) if encoder_side else decoder_of("dictionary", dictionary)
    if rows is None:
        raise ValueError(
            f"`dictionary` must have an encoder if `side` is 'encoder', got a {type(dictionary).__name__} without one. "
            "Pass the encoder rows as a matrix."
        )
    n_latents = len(rows)
    if latents is not None:
        latents = checks.latent_vector("latents", latents, n_latents)
    mask = rows.new_ones(n_latents, dtype=torch.bool) if latents is None else latents.to(rows.device)
    chosen = mask.nonzero().squeeze(1)
    roots = _components(unit(rows[chosen]), threshold)
    return _grouped(chosen.cpu(), roots, n_latents, threshold)


@in_own_state
def _components(rows: Tensor, threshold: float) -> Tensor:
    """Returns the index of the first row of each row's component."""
    n = len(rows)
    labels = torch.arange(n, device="cpu")
    for start in range(0, n, max(1, N_COSINES // max(n, 1))):
        block = rows[start : start + max(1, N_COSINES // n)]
        # Each pair is compared once: a block with itself and with all later rows.
        near = (block @ rows[start:].T > threshold).triu(1)
        joined = near.any(1).nonzero().squeeze(1)
        for row, others in zip(joined.tolist(), near[joined].cpu(), strict=True):
            theirs = labels[start:][others]
            own = labels[start + row]
            if bool((theirs != own).any()):
                merged = torch.cat([theirs, own[None]]).unique()
                labels[torch.isin(labels, merged)] = merged[0]
    return labels


def _grouped(chosen: Tensor, roots: Tensor, n_latents: int, threshold: float) -> Clusters:
    order = torch.argsort(roots, stable=True)
    counts = torch.unique_consecutive(roots[order], return_counts=True)[1].tolist()
    groups = [chosen[part] for part in order.split(counts) if len(part) > 1]
    groups.sort(key=lambda group: (-len(group), int(group[0])))
    labels = torch.full((n_latents,), -1, dtype=torch.int64, device="cpu")
    for label, group in enumerate(groups):
        labels[group] = label
    return Clusters(labels, tuple(groups), threshold)
