"""Every backend gives the dense products, on any support; on a GPU where there is one, else on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sparsedict as sd
from sparsedict import kernels
from sparsedict.kernels import Backend, _backend, _embedding_bag

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def embedding_bag() -> Backend:
    return _embedding_bag


def triton() -> Backend:
    pytest.importorskip("triton")
    return kernels.triton_backend()


@pytest.fixture(autouse=True)
def _interpreter(request: pytest.FixtureRequest) -> None:
    if "backend" in request.fixturenames and request.getfixturevalue("backend") is triton:
        request.getfixturevalue("interpreter")


each_backend = pytest.mark.parametrize("backend", [embedding_bag, triton])


def problem(n_tokens: int, n_latents: int, d: int, share: float, n_padding: int, dtype: torch.dtype, seed: int):
    """A support, shuffled within tokens and padded, values on it, and the same as a dense matrix; rows and vectors."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n_tokens, n_latents, generator=generator) < share
    ordered = sd.Support.from_mask(mask)
    keys = ordered.tokens + torch.rand(ordered.n_entries, generator=generator)
    latents = torch.cat((ordered.latents[keys.argsort()], torch.zeros(n_padding, dtype=torch.int64)))
    has_padding = n_padding > 0 and n_tokens > 0
    if not has_padding:
        latents = latents[: ordered.n_entries]
    support = sd.Support(latents.to(DEVICE), ordered.offsets.to(DEVICE), n_latents, has_padding)
    values, rows, vectors = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)
        for shape in ((len(latents),), (n_latents, d), (n_tokens, d))
    )
    dense = torch.zeros(n_tokens, n_latents, dtype=dtype, device=DEVICE)
    n = ordered.n_entries
    dense = dense.index_put((support.tokens[:n], support.latents[:n]), values[:n])
    return support, values, dense, rows, vectors


def check_products(support: sd.Support, values: Tensor, dense: Tensor, rows: Tensor, vectors: Tensor, **tolerance):
    n = int(support.offsets[-1])
    exact = dense.double(), rows.double(), vectors.double()

    def close(actual: Tensor, wanted: Tensor) -> None:
        assert actual.dtype == values.dtype
        torch.testing.assert_close(actual.double(), wanted, **tolerance)

    close(kernels.weighted_rows(values, support, rows), exact[0] @ exact[1])
    close(kernels.weighted_tokens(values, support, vectors), exact[0].T @ exact[2])
    close(kernels.sum_by_latent(values, support), exact[0].sum(0))
    sampled = kernels.sampled_product(vectors, rows, support)
    close(sampled[:n], (exact[2] @ exact[1].T)[support.tokens[:n], support.latents[:n]])
    assert not sampled[n:].any()


@each_backend
@settings(max_examples=25)
@given(
    st.builds(
        problem,
        st.integers(0, 5),
        st.integers(1, 9),
        st.sampled_from([1, 2, 7, 16, 33]),
        st.sampled_from([0.0, 0.3, 1.0]),
        st.integers(0, 5),
        st.sampled_from([torch.float64, torch.float32]),
        st.integers(0, 2**20),
    )
)
def test_products_equal_the_dense_ones(backend: Callable[[], Backend], problem) -> None:
    with kernels.using(backend()):
        check_products(*problem, rtol=1e-4, atol=1e-5)


@each_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_in_half_precision(backend: Callable[[], Backend], dtype: torch.dtype) -> None:
    with kernels.using(backend()):
        check_products(*problem(6, 9, 7, 0.5, 3, dtype, 0), rtol=0.05, atol=0.05)


@each_backend
def test_one_latent_may_have_all_tokens(backend: Callable[[], Backend]) -> None:
    """Beside others that have one, so that long sums are cut and short ones aren't."""
    n_tokens = 300
    seconds = torch.arange(n_tokens) % 20 + 1
    support = sd.Support.from_indices(torch.stack((torch.zeros_like(seconds), seconds), 1).to(DEVICE), 22)
    values, vectors = torch.randn(support.n_entries, device=DEVICE), torch.randn(n_tokens, 3, device=DEVICE)
    dense = sd.SparseLatents(values, support, torch.Size((n_tokens,))).to_dense()
    with kernels.using(backend()):
        check_products(support, values, dense, torch.randn(22, 3, device=DEVICE), vectors, rtol=1e-4, atol=1e-4)


@each_backend
def test_widths_beyond_one_block(backend: Callable[[], Backend]) -> None:
    with kernels.using(backend()):
        check_products(*problem(3, 4, 1030, 0.5, 2, torch.float64, 0), rtol=1e-10, atol=1e-10)


@each_backend
def test_long_sums_survive_half_precision(backend: Callable[[], Backend]) -> None:
    n_tokens = 3000
    support = sd.Support.from_indices(torch.zeros(n_tokens, 1, dtype=torch.int64, device=DEVICE), 2)
    ones = torch.ones(n_tokens, dtype=torch.bfloat16, device=DEVICE)
    with kernels.using(backend()):
        assert kernels.sum_by_latent(ones, support).tolist() == [pytest.approx(n_tokens, rel=0.01), 0]
        counted = kernels.weighted_tokens(ones, support, ones[:, None])
    assert counted.flatten().tolist() == [pytest.approx(n_tokens, rel=0.01), 0]


@each_backend
@pytest.mark.parametrize(("share", "n_padding"), [(0.5, 3), (1.0, 0)])
def test_gradients(backend: Callable[[], Backend], share: float, n_padding: int) -> None:
    support = problem(3, 4, 5, share, n_padding, torch.float64, 1)[0]
    owned = support.is_stored

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, device=DEVICE, requires_grad=True)

    def product(values: Tensor, rows: Tensor) -> Tensor:
        latents = sd.SparseLatents(torch.where(owned, values, 0.0), support, torch.Size((3,)))
        return kernels.matmul(latents, rows)

    def affine(inputs: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
        return torch.where(owned, kernels.affine_at(inputs, rows, bias, support), 0.0)

    with kernels.using(backend()):
        assert torch.autograd.gradcheck(product, (leaf(support.n_entries), leaf(4, 5)))
        assert torch.autograd.gradcheck(affine, (leaf(3, 5), leaf(4, 5), leaf(4)))


@each_backend
def test_mixed_precision_is_promoted(backend: Callable[[], Backend]) -> None:
    support, values, dense, rows, _ = problem(6, 9, 7, 0.5, 0, torch.float32, 0)
    with kernels.using(backend()):
        mixed = kernels.weighted_rows(values.bfloat16(), support, rows)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, dense.bfloat16().float() @ rows)


def test_the_cpu_uses_the_embedding_bag() -> None:
    assert _backend.backend_for(torch.device("cpu")) is _embedding_bag
    assert not kernels.compacts(torch.device("cpu"))


def test_triton_is_not_imported_with_the_library() -> None:
    code = "import sys, sparsedict; assert not {'triton', 'sparsedict.kernels._triton'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_kernels_compile_for_a_gpu() -> None:
    """Translating needs no GPU; the interpreter accepts much that the compiler doesn't."""
    pytest.importorskip("triton")
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split().count("compiled") == 12
