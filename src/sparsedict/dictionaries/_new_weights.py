"""Random rows for new weights, their device and dtype, and checksums that detect edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsedict import checks

LARGEST_SEED = 2**63 - 1


def drawn_seed(generator: torch.Generator | None) -> int:
    """Returns a seed from a copy of a generator (PyTorch's CPU generator by default), without advancing it."""
    source = torch.default_generator if generator is None else generator
    copy = torch.Generator(source.device)
    copy.set_state(source.get_state())
    return int(torch.randint(LARGEST_SEED, (), generator=copy, device=source.device, dtype=torch.int64))


def tensor_options(device: torch.device | str | None, dtype: torch.dtype | None) -> dict[str, Any]:
    """Returns the device and dtype of new weights as keyword arguments, with PyTorch's defaults for ``None``."""
    checks.floating_dtype("dtype", dtype)
    return {
        "device": checks.device("device", device) or torch.get_default_device(),
        "dtype": torch.get_default_dtype() if dtype is None else dtype,
    }


def unit_rows(n_rows: int, width: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Returns rows of norm 1 in random directions, drawn on the generator's device or the CPU."""
    if device.type == "meta":
        # Drawing a random number on the meta device imports slow parts of PyTorch.
        return torch.empty(n_rows, width, device=device, dtype=torch.float32)
    where = "cpu" if generator is None else generator.device
    rows = torch.randn(n_rows, width, generator=generator, device=where, dtype=torch.float32)
    return functional.normalize(rows, dim=-1)


@torch.no_grad()
def sums(weights: Sequence[Tensor]) -> Tensor:
    """Returns the sum and norm of each weight on the CPU, to detect edits; NaN for weights on the meta device."""
    if weights[0].is_meta:
        return torch.full((2 * len(weights),), torch.nan, device="cpu", dtype=torch.float64)
    totals = [weight.sum(dtype=torch.float64) for weight in weights]
    norms = [torch.linalg.vector_norm(weight, dtype=torch.float64) for weight in weights]
    return torch.stack(totals + norms).cpu()
