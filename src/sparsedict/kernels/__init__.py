"""Exact products of sparse latents with dense matrices."""

from sparsedict.kernels._autograd import affine_at, matmul
from sparsedict.kernels._products import sampled_product, sum_by_latent, weighted_rows, weighted_tokens
from sparsedict.kernels._select import can_select, select
from sparsedict.kernels._workspace import Workspace

__all__ = [
    "Workspace",
    "affine_at",
    "can_select",
    "matmul",
    "sampled_product",
    "select",
    "sum_by_latent",
    "weighted_rows",
    "weighted_tokens",
]
