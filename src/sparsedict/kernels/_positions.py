from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def positions_where(mask: Bool[Tensor, ...]) -> Int[Tensor, " n_true"]:
    """Returns the flat positions of a mask's true entries, ascending."""
    if mask.device.type != "cpu":
        return mask.flatten().nonzero().flatten()
    # NumPy skips what is false several times faster than PyTorch.
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def positions_above(
    entries: Float[Tensor, "n_tokens n_latents"], threshold: Float[Tensor, "*n_tokens_and_one"]
) -> Int[Tensor, " n_above"]:
    """Returns the flat positions of entries greater than a threshold, ascending; NaN counts as greater."""
    if entries.device.type != "cpu" or entries.dtype not in (torch.float32, torch.float64):
        return positions_where(~(entries <= threshold))
    mask = np.less_equal(entries.numpy(), threshold.to(entries.dtype).numpy())
    return torch.from_numpy(np.flatnonzero(np.logical_not(mask, out=mask)))
