from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks


class LazyAdam(torch.optim.Optimizer):
    """Adam in which a row that has no gradient in a step isn't touched: neither its moments nor its weights.

    A latent that seldom fires has few gradients. Adam's second moment is then small when one comes and its first
    moment goes on moving the row for some ten steps, so that one firing turns the row by about
    ``lr / sqrt(1 - beta_2)`` (30 ``lr``), and the latent may never fire again. Here each row counts its own steps, in
    which it moves by about ``lr``, however seldom they come. A row is all that belongs to one latent, for weights are
    latent-major.

    Args:
        params: Parameters, or groups of them.
        lr: Rate.
        betas: Decay of the first and the second moment, per step in which the row has a gradient.
        eps: Added to the root of the second moment.

    Source: Adam is of Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015; the lazy form is that of
    TensorFlow's ``LazyAdam`` and of PyTorch's ``SparseAdam``, which takes sparse gradients only.

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
            raise ValueError(f"`betas` must be two numbers of [0, 1), got {betas}.")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Makes one step; ``closure``, if given, computes loss and gradients first."""
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
            # Under this name PyTorch leaves a loaded count as it is; others it converts to the weights' type.
            state["step"] = torch.zeros_like(_by_row(weight)[:, :1], dtype=torch.float32)
            state["first"], state["second"] = torch.zeros_like(weight), torch.zeros_like(weight)
        return state


def _update(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    rows, gradient = _by_row(weight), _by_row(gradient)
    first, second, n_steps = _by_row(state["first"]), _by_row(state["second"]), state["step"]
    keep_first, keep_second = group["betas"]
    active = (gradient != 0).any(dim=1, keepdim=True).to(weight.dtype)
    n_steps.add_(active)
    first.lerp_(gradient, (1 - keep_first) * active)
    second.lerp_(gradient.square(), (1 - keep_second) * active)
    counted = n_steps.clamp_min(1)
    size = (second / _seen(keep_second, counted).to(second)).sqrt_().add_(group["eps"])
    rows.addcdiv_(first * (active / _seen(keep_first, counted)).to(first), size, value=-group["lr"])


def _seen(keep: float, n_steps: Tensor) -> Tensor:
    """Returns ``1 - keep ** n_steps``, without the cancellation that costs half of a float32's digits."""
    return torch.ones_like(n_steps) if keep == 0 else -torch.expm1(n_steps * math.log(keep))


def _by_row(tensor: Tensor) -> Tensor:
    """Returns a view of a vector as a column, of anything else as a matrix with a row for each latent."""
    return tensor.view(len(tensor) if tensor.ndim else 1, -1)
