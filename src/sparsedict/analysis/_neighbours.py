"""`neighbours`, the nearest latents of a dictionary, or of another one, for each latent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis._cosines import N_COSINES, decoder_of, units
from sparsedict.display import Displayed
from sparsedict.torch_state import in_own_state


@dataclass(frozen=True, eq=False, repr=False)
class Neighbours(Displayed):
    """The rows of largest signed decoder cosine for each latent, the nearest first.

    Attributes:
        latents: Indices of the nearest rows, ``[n_latents, k]``.
        cosine: Signed cosines, ``[n_latents, k]``.
    """

    latents: Int[Tensor, "n_latents k"]
    cosine: Float[Tensor, "n_latents k"]


@in_own_state
@torch.no_grad()
def neighbours(a: Any, b: Any = None, *, k: int = 5) -> Neighbours:
    """Finds the ``k`` nearest latents for each latent, by signed cosine of the decoder rows.

    Args:
        a: A `Dictionary`, `Neurons`, a matrix of decoder rows ``[n_a, d]``, or another library's object.
        b: Another dictionary that writes the same activations. By default, the other latents of ``a``.
        k: Number of neighbours, or all others if there are fewer.

    Raises:
        ValueError: If the widths differ.

    Example:
        >>> import torch
        >>> neighbours(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]), k=1).latents.flatten()
        tensor([2, 2, 0])
    """
    rows = decoder_of("a", a)
    rows, others = units(rows, rows if b is None else decoder_of("b", b))
    if rows.shape[1] != others.shape[1]:
        raise ValueError(
            f"`a` and `b` must write activations of the same width, got {rows.shape[1]} and {others.shape[1]}."
        )
    k = min(checks.at_least("k", k, 1), len(others) - (b is None))
    size = max(1, N_COSINES // len(others))
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(rows), size):
        cosines = rows[start : start + size] @ others.T
        if b is None:
            own = torch.arange(len(cosines), device=cosines.device)
            cosines[own, own + start] = -torch.inf
        found.append(cosines.topk(k, dim=1))
    cosine, latents = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Neighbours(latents.cpu(), cosine.clamp(-1, 1).cpu())
