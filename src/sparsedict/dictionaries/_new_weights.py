"""The weights of a new dictionary: random rows, their place, and sums by which a change is noticed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LARGEST_SEED = 2**63 - 1


def drawn_seed(generator: torch.Generator | None) -> int:
    """Returns a seed drawn from a copy of a generator, or of PyTorch's own of the CPU, which stays where it is."""
    source = torch.default_generator if generator is None else generator
    copy = torch.Generator(source.device)
    copy.set_state(source.get_state())
    return int(torch.randint(LARGEST_SEED, (), generator=copy, device=source.device, dtype=torch.int64))


def placed(device: torch.device | str | None, dtype: torch.dtype | None) -> dict[str, Any]:
    """Returns where weights are made and their type: PyTorch's defaults where nothing is asked for."""
    return {
        "device": torch.get_default_device() if device is None else torch.device(device),
        "dtype": torch.get_default_dtype() if dtype is None else dtype,
    }


def unit_rows(n_rows: int, width: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Returns rows of norm 1 in random directions, drawn on the generator's device or the CPU."""
    if device.type == "meta":
        # The first number drawn without memory would import a good part of PyTorch.
        return torch.empty(n_rows, width, device=device, dtype=torch.float32)
    where = "cpu" if generator is None else generator.device
    rows = torch.randn(n_rows, width, generator=generator, device=where, dtype=torch.float32)
    return functional.normalize(rows, dim=-1)


@torch.no_grad()
def sums(weights: Sequence[Tensor]) -> Tensor:
    """Returns sum and norm of each weight on the CPU, by which a change is noticed; NaN for weights without memory."""
    if weights[0].is_meta:
        return torch.full((2 * len(weights),), torch.nan, device="cpu", dtype=torch.float64)
    totals = [weight.sum(dtype=torch.float64) for weight in weights]
    norms = [torch.linalg.vector_norm(weight, dtype=torch.float64) for weight in weights]
    return torch.stack(totals + norms).cpu()
