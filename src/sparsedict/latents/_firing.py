"""`fires`, the definition of an active latent."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def fires(values: Float[Tensor, "*entries"]) -> Bool[Tensor, "*entries"]:
    """Returns a mask of the latents that fire, which are those that are not zero.

    L0, firing frequencies, dead latents, training's counters and examples all use this definition. A negative latent
    of AbsTopK fires. GELU and SiLU are almost never zero, so their L0 is close to ``n_latents``. NaN fires.

    Args:
        values: Dense latents, or the values of stored entries.

    Example:
        >>> import torch
        >>> fires(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([ True, False,  True])
    """
    return values != 0
