"""Exact products of sparse latents with dense matrices."""

from sparsedict.kernels._autograd import affine_at, matmul
from sparsedict.kernels._backend import (
    Backend,
    compacts,
    sampled_product,
    sum_by_latent,
    triton_backend,
    using,
    weighted_rows,
    weighted_tokens,
)
from sparsedict.kernels._capacity import Capacity, can_select_within, record_density, select_within
from sparsedict.kernels._context import StepContext
from sparsedict.kernels._distinct import first_of_equal
from sparsedict.kernels._select import can_select, select
from sparsedict.kernels._select_parts import Affine, select_parts
from sparsedict.kernels._workspace import Workspace

__all__ = [
    "Affine",
    "Backend",
    "Capacity",
    "StepContext",
    "Workspace",
    "affine_at",
    "can_select",
    "can_select_within",
    "compacts",
    "first_of_equal",
    "matmul",
    "record_density",
    "sampled_product",
    "select",
    "select_parts",
    "select_within",
    "sum_by_latent",
    "triton_backend",
    "using",
    "weighted_rows",
    "weighted_tokens",
]
