"""Sparse products of ``[n_tokens, n_latents]`` with dense matrices, and the backend that computes them on a device."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.kernels import _embedding_bag
from sparsedict.latents import Support

MIN_CAPABILITY = (7, 0)
"""Minimum CUDA capability for Triton."""


@runtime_checkable
class Backend(Protocol):
    """Interface of backends: modules with these four products, which :mod:`sparsedict.kernels` describes.

    They are called with detached tensors on one device. Results for padding must be zero.
    """

    def weighted_rows(self, values: Tensor, support: Support, rows: Tensor) -> Tensor: ...

    def weighted_tokens(self, values: Tensor, support: Support, vectors: Tensor) -> Tensor: ...

    def sampled_product(self, vectors: Tensor, rows: Tensor, support: Support) -> Tensor: ...

    def sum_by_latent(self, values: Tensor, support: Support) -> Tensor: ...


_forced: list[Backend] = []


def backend_for(device: torch.device) -> Backend:
    """Returns the Triton kernels if they can run on the device, else the embedding bag."""
    if _forced:
        return _forced[-1]
    return triton_backend() if _runs_triton(device) else _embedding_bag


def triton_backend() -> Backend:
    """Returns the Triton kernels. If ``TRITON_INTERPRET=1`` is set before the first call, they also run on the CPU.

    Raises:
        ImportError: If Triton isn't installed.
    """
    from sparsedict.kernels import _triton

    return _triton


def compacts(device: torch.device) -> bool:
    """Returns whether entries can be gathered on a device without synchronising to read their number."""
    return backend_for(device) is not _embedding_bag


@contextmanager
def using(backend: Backend) -> Iterator[None]:
    """Context that uses one backend for all devices, for tests and benchmarks."""
    _forced.append(backend)
    try:
        yield
    finally:
        _forced.pop()


@cache
def _runs_triton(device: torch.device) -> bool:
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= MIN_CAPABILITY


@torch.no_grad()
def weighted_rows(
    values: Float[Tensor, " n_entries"], support: Support, rows: Float[Tensor, "n_latents d"]
) -> Float[Tensor, "n_tokens d"]:
    """Returns the sparse matrix times ``rows``: the weighted sum of the rows of each token's latents."""
    return backend_for(values.device).weighted_rows(values, support, rows)


@torch.no_grad()
def weighted_tokens(
    values: Float[Tensor, " n_entries"], support: Support, vectors: Float[Tensor, "n_tokens d"]
) -> Float[Tensor, "n_latents d"]:
    """Returns the transposed sparse matrix times ``vectors``: weighted sums of the vectors of each latent's tokens."""
    return backend_for(values.device).weighted_tokens(values, support, vectors)


@torch.no_grad()
def sampled_product(
    vectors: Float[Tensor, "n_tokens d"], rows: Float[Tensor, "n_latents d"], support: Support
) -> Float[Tensor, " n_entries"]:
    """Returns ``vectors @ rows.T`` at the stored entries, and zero at padding."""
    return backend_for(vectors.device).sampled_product(vectors, rows, support)


@torch.no_grad()
def sum_by_latent(values: Float[Tensor, " n_entries"], support: Support) -> Float[Tensor, " n_latents"]:
    """Returns the sum of each latent's entries."""
    return backend_for(values.device).sum_by_latent(values, support)
