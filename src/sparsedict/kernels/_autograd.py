"""Differentiable sparse products. Their gradients are exact, and computed by sparse products."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsedict.kernels._backend import sampled_product, sum_by_latent, weighted_rows, weighted_tokens
from sparsedict.latents import SparseLatents, Support


def matmul(
    latents: Tensor | SparseLatents, rows: Float[Tensor, "n_latents d"], scales: Float[Tensor, " d"] | None = None
) -> Float[Tensor, "*batch d"]:
    """Returns ``latents @ rows`` for dense or sparse latents, differentiable in both.

    Args:
        latents: Dense or sparse latents, ``[*batch, n_latents]``.
        rows: One row per latent, such as a decoder.
        scales: A factor of each column of the result, without gradient.

    Raises:
        ValueError: If the number of latents differs from the number of rows.
    """
    if latents.shape[-1:] != rows.shape[:1]:
        raise ValueError(
            f"The last dimension of `latents` must be {len(rows)}, one entry for each row, "
            f"got shape {tuple(latents.shape)}."
        )
    if isinstance(latents, SparseLatents):
        flat = _Decode.apply(latents.values, rows, latents.support, scales)
        # A view would make in-place sums expensive for autograd.
        return flat if len(latents.batch_shape) == 1 else flat.view(*latents.batch_shape, rows.shape[-1])
    return latents @ rows if scales is None else (latents @ rows) * scales


def affine_at(
    inputs: Float[Tensor, "n_tokens d"],
    rows: Float[Tensor, "n_latents d"],
    bias: Float[Tensor, " n_latents"],
    support: Support,
    known: Float[Tensor, " n_entries"] | None = None,
    offset: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, " n_entries"]:
    """Returns ``inputs @ rows.T + bias`` at the stored entries, differentiable in inputs, rows and bias.

    Args:
        inputs: One vector per token.
        rows: One row per latent, such as an encoder.
        bias: One number per latent.
        support: The stored entries.
        known: The result, if it was already computed to select the support.
        offset: A vector that was added to every input. Its gradient takes one product of a matrix and a vector. The
            gradient of the inputs themselves would take as long as decoding.
    """
    return _AffineAt.apply(inputs, rows, bias, offset, support, known)


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, support: Support, scales: Tensor | None) -> Tensor:
        ctx.save_for_backward(values, rows)
        ctx.support, ctx.scales = support, scales
        product = weighted_rows(values, support, rows)
        return product if scales is None else product.mul_(scales)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        values, rows = ctx.saved_tensors
        grad_values = grad_rows = None
        # Both products need a contiguous gradient. The second product reuses the sorted entries of the first.
        grad = _contiguous(grad, ctx.support, ctx.scales)
        if ctx.needs_input_grad[1]:
            grad_rows = weighted_tokens(values, ctx.support, grad).to(rows.dtype)
        if ctx.needs_input_grad[0]:
            grad_values = sampled_product(grad, rows, ctx.support).to(values.dtype)
        return grad_values, grad_rows, None, None


def _contiguous(grad: Tensor, support: Support, scales: Tensor | None) -> Tensor:
    """Returns a contiguous gradient times the scales. A copy on a CPU is in memory of the support, to reuse it."""
    if support.memory is None or grad.device.type != "cpu":
        return grad.contiguous() if scales is None else (grad * scales).contiguous()
    if scales is not None:
        dtype = torch.promote_types(grad.dtype, scales.dtype)
        return torch.mul(grad, scales, out=support.memory.array(tuple(grad.shape), dtype))
    return grad if grad.is_contiguous() else support.memory.array(tuple(grad.shape), grad.dtype).copy_(grad)


class _AffineAt(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        rows: Tensor,
        bias: Tensor,
        offset: Tensor | None,
        support: Support,
        known: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(inputs, rows)
        ctx.support, ctx.bias_type = support, bias.dtype
        if known is None:
            return sampled_product(inputs, rows, support) + bias.index_select(0, support.latents)
        return known.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        inputs, rows = ctx.saved_tensors
        grad_inputs = grad_rows = grad_bias = grad_offset = None
        if ctx.needs_input_grad[0]:
            grad_inputs = weighted_rows(grad, ctx.support, rows).to(inputs.dtype)
        if ctx.needs_input_grad[1]:
            grad_rows = weighted_tokens(grad, ctx.support, inputs).to(rows.dtype)
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            summed = sum_by_latent(grad, ctx.support)
            grad_bias = summed.to(ctx.bias_type)
            if ctx.needs_input_grad[3]:
                grad_offset = summed.to(rows.dtype) @ rows
        return grad_inputs, grad_rows, grad_bias, grad_offset, None, None
