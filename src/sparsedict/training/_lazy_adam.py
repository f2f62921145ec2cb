"""`LazyAdam`, which updates only the rows that have a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks

PART_ENTRIES = 2**16
"""Number of entries that a thread updates at a time, so that they stay in its cache."""

GATHERED_SHARE = 0.3
"""Share of rows with a gradient up to which these rows are copied, updated and written back."""


class LazyAdam(torch.optim.Optimizer):
    """Adam that leaves a row unchanged in steps in which its gradient is zero: neither moments nor weights change.

    A latent that seldom fires has few non-zero gradients. Under Adam its second moment is small when a gradient
    arrives, and the first moment moves the row for about ten more steps. One firing then moves the row by about
    ``lr / sqrt(1 - beta_2)`` (30 ``lr``), and the latent may never fire again. `LazyAdam` counts the steps of each row
    separately. A row moves by about ``lr`` in each of its steps, no matter how rare they are. Weights are latent-major,
    so a row holds the weights of one latent.

    Args:
        params: Parameters, or parameter groups.
        lr: Learning rate.
        betas: Decay of the first and the second moment, per step in which the row has a gradient.
        eps: Added to the square root of the second moment.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015. The lazy form follows TensorFlow's
    ``LazyAdam`` and PyTorch's ``SparseAdam``, which accepts sparse gradients only.

    Example:
        >>> import torch
        >>> rows = torch.nn.Parameter(torch.ones(2, 3))
        >>> optimizer = LazyAdam([rows], lr=0.5)
        >>> rows.grad = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
        >>> optimizer.step()
        >>> rows.data
        tensor([[0.5000, 0.5000, 0.5000],
                [1.0000, 1.0000, 1.0000]])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        lr, eps = checks.in_range("lr", lr, 0.0), checks.in_range("eps", eps, 0.0)
        betas = (checks.number("betas[0]", betas[0]), checks.number("betas[1]", betas[1]))
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"`betas` must be two numbers in [0, 1), got {betas}.")
        checks.instance("params", params, Iterable, "parameters, such as `dictionary.parameters()`")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step. A ``closure`` is called first, to compute the loss and the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    _update(weight, weight.grad, self._state_of(weight), group)
        return loss

    def _state_of(self, weight: Tensor) -> dict[str, Tensor]:
        state = self.state[weight]
        if not state:
            # On loading, PyTorch converts state to the weights' type, except state of this name.
            state["step"] = torch.zeros_like(_by_row(weight)[:, :1], dtype=torch.float32)
            state["first"], state["second"] = torch.zeros_like(weight), torch.zeros_like(weight)
        return state


def _update(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    if not weight.numel():
        return
    changed = [_by_row(part) for part in (state["first"], state["second"], weight)]
    gradient = _by_row(gradient.contiguous())
    # For the rows of a matrix, `any` and `aminmax` take several times as long. NaN counts as an extreme value.
    active = (gradient.amax(dim=1, keepdim=True) != 0) | (gradient.amin(dim=1, keepdim=True) != 0)
    given = [gradient, *_factors(active, state["step"].add_(active), group, weight.dtype)]
    on_cpu, size = weight.device.type == "cpu", len(active)
    if on_cpu:
        size = min(size, -(-PART_ENTRIES * torch.get_num_threads() // gradient.shape[1]))
    if on_cpu and (rows := active.flatten().nonzero().flatten()).numel() <= GATHERED_SHARE * len(active):
        for some in rows.split(size):
            own = [part.index_select(0, some) for part in changed]
            _update_rows_(*own, *(part.index_select(0, some) for part in given), lr=group["lr"])
            for part, values in zip(changed, own, strict=True):
                part.index_copy_(0, some, values)
        return
    for own in zip(*(part.split(size) for part in (*changed, *given)), strict=True):
        _update_rows_(*own, lr=group["lr"])


def _factors(active: Tensor, n_steps: Tensor, group: dict[str, Any], dtype: torch.dtype) -> list[Tensor]:
    """Returns the weights of the gradient in both moments, a scale and an offset, each ``[n_rows, 1]``.

    The update ``weight -= lr * first / (scale * sqrt(second) + offset)`` equals that of Adam with the bias corrections
    of each row. A row without a gradient has the weights 0 and an infinite offset.
    """
    keep_first, keep_second = group["betas"]
    counted, share = n_steps.clamp_min(1), active.to(dtype)
    correction = _bias_correction(keep_first, counted).to(dtype)
    scale = correction / _bias_correction(keep_second, counted).to(dtype).sqrt_()
    offset = torch.where(active, group["eps"] * correction, torch.inf)
    return [(1 - keep_first) * share, (1 - keep_second) * share, scale, offset]


def _update_rows_(
    first: Tensor,
    second: Tensor,
    weight: Tensor,
    gradient: Tensor,
    first_share: Tensor,
    second_share: Tensor,
    scale: Tensor,
    offset: Tensor,
    *,
    lr: float,
) -> None:
    first.lerp_(gradient, first_share)
    temporary = gradient.square()
    second.lerp_(temporary, second_share)
    _square_root(second, temporary).mul_(scale).add_(offset)
    # A rate that isn't finite in the weights' type raises an error in PyTorch.
    weight.addcdiv_(first, temporary, value=-min(lr, torch.finfo(weight.dtype).max))


def _square_root(values: Tensor, out: Tensor) -> Tensor:
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return torch.sqrt(values, out=out)
    # On a CPU, `torch.sqrt` takes five times as long for zeros, and thirty times as long for denormal numbers.
    return torch.rsqrt(values, out=out).reciprocal_()


def _bias_correction(keep: float, n_steps: Tensor) -> Tensor:
    """Returns ``1 - keep ** n_steps``, without the cancellation that would lose half the digits of a float32."""
    return torch.ones_like(n_steps) if keep == 0 else -torch.expm1(n_steps * math.log(keep))


def _by_row(tensor: Tensor) -> Tensor:
    """Returns a view with one row for each latent. A vector becomes a column."""
    return tensor.view(len(tensor) if tensor.ndim else 1, -1)
