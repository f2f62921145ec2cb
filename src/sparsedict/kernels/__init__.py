"""Exact products of sparse latents with dense matrices."""

from sparsedict.kernels._autograd import affine_at, matmul
from sparsedict.kernels._backend import Backend, compacts, triton_backend, using
from sparsedict.kernels._distinct import first_of_equal
from sparsedict.kernels._products import sampled_product, sum_by_latent, weighted_rows, weighted_tokens
from sparsedict.kernels._room import Room, note_density, select_in_room
from sparsedict.kernels._select import can_select, select
from sparsedict.kernels._workspace import Workspace

__all__ = [
    "Backend",
    "Room",
    "Workspace",
    "affine_at",
    "can_select",
    "compacts",
    "first_of_equal",
    "matmul",
    "note_density",
    "sampled_product",
    "select",
    "select_in_room",
    "sum_by_latent",
    "triton_backend",
    "using",
    "weighted_rows",
    "weighted_tokens",
]
