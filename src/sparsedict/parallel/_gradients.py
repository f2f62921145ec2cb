"""The average of gradients over ranks, in one all-reduce for each type."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from sparsedict.parallel._channels import Channels, collective


class FlatGradients:
    """Averages gradients in one flat buffer for each type, which is kept between steps.

    Args:
        channels: The process groups.
    """

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._buffers: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def mean_(self, parameters: Sequence[Tensor], share: float) -> None:
        """Replaces the gradients by their mean, weighted by the share of each rank. See `Parallel.mean_gradients_`."""
        own = [parameter.grad is not None for parameter in parameters]
        rows = self._channels.exchange(tuple(map(int, own)))
        used = [parameter for parameter, *has in zip(parameters, *rows, strict=True) if any(has)]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for parameter in used:
            assert parameter.grad is not None  # set above
            wide = torch.promote_types(parameter.grad.dtype, torch.float32)
            groups.setdefault((wide, parameter.device), []).append(parameter.grad)
        for key, gradients in groups.items():
            self._mean_of(key, gradients, share)

    def _mean_of(self, key: tuple[torch.dtype, torch.device], gradients: list[Tensor], share: float) -> None:
        sizes = [gradient.numel() for gradient in gradients]
        buffer = self._buffer(key, sum(sizes))
        parts = buffer.split(sizes)
        for part, gradient in zip(parts, gradients, strict=True):
            torch.mul(gradient.reshape(-1), share, out=part) if gradient.dtype == part.dtype else part.copy_(
                gradient.reshape(-1) * share
            )
        sent, group = self._channels.sent(buffer)
        with collective():
            dist.all_reduce(sent, group=group)
        for part, gradient in zip(sent.split(sizes), gradients, strict=True):
            gradient.copy_(part.view_as(gradient))

    def _buffer(self, key: tuple[torch.dtype, torch.device], size: int) -> Tensor:
        held = self._buffers.get(key)
        if held is None or held.numel() < size:
            held = self._buffers[key] = torch.empty(size, dtype=key[0], device=key[1])
        return held[:size]
