from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sparsedict as sd
from sparsedict import kernels
from sparsedict.kernels import _embedding_bag


def problem(n_tokens: int, n_latents: int, d: int, share: float, dtype: torch.dtype, seed: int):
    """A support in shuffled order within tokens, values on it, and the same as a dense matrix."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n_tokens, n_latents, generator=generator) < share
    ordered = sd.Support.from_mask(mask)
    keys = ordered.tokens + torch.rand(ordered.n_entries, generator=generator)
    support = sd.Support(ordered.latents[keys.argsort()], ordered.offsets, n_latents)
    values = torch.randn(support.n_entries, generator=generator, dtype=torch.float64).to(dtype)
    dense = torch.zeros(n_tokens, n_latents, dtype=dtype).index_put((support.tokens, support.latents), values)
    rows = torch.randn(n_latents, d, generator=generator, dtype=torch.float64).to(dtype)
    vectors = torch.randn(n_tokens, d, generator=generator, dtype=torch.float64).to(dtype)
    return support, values, dense, rows, vectors


problems = st.builds(
    problem,
    st.integers(0, 6),
    st.integers(1, 9),
    st.integers(1, 7),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([torch.float64, torch.float32]),
    st.integers(0, 2**20),
)


@given(problems)
def test_products_equal_the_dense_ones(problem) -> None:
    support, values, dense, rows, vectors = problem
    close = torch.testing.assert_close
    close(kernels.weighted_rows(values, support, rows), dense @ rows)
    close(kernels.weighted_tokens(values, support, vectors), dense.T @ vectors)
    close(kernels.sampled_product(vectors, rows, support), (vectors @ rows.T)[support.tokens, support.latents])
    close(kernels.sum_by_latent(values, support), dense.sum(0))


@given(problems)
def test_the_order_of_entries_does_not_change_a_sampled_product(problem) -> None:
    support, _, _, rows, vectors = problem
    found = kernels.sampled_product(vectors, rows, support)
    assert support.by_latent.order.shape == found.shape  # sorts the entries
    assert torch.equal(kernels.sampled_product(vectors, rows, support), found)


def test_vectors_larger_than_a_cache_are_multiplied_in_parts() -> None:
    support, _, _, rows, vectors = problem(2100, 40, 1500, 0.05, torch.float32, 0)
    assert vectors.nbytes > _embedding_bag.SAMPLED_BYTES
    found = kernels.sampled_product(vectors, rows, support)
    torch.testing.assert_close(found, (vectors @ rows.T)[support.tokens, support.latents], rtol=1e-4, atol=1e-4)
    assert support.by_latent.order.shape == found.shape
    assert torch.equal(kernels.sampled_product(vectors, rows, support), found)


def test_a_sampled_product_ignores_old_memory() -> None:
    support, _, _, rows, vectors = problem(20, 30, 5, 0.5, torch.float32, 0)
    for _ in range(20):
        torch.full((support.n_entries,), torch.nan)  # freed memory is likely to be used again
        assert kernels.sampled_product(vectors, rows, support).isfinite().all()


def test_columns_of_a_larger_array_are_multiplied() -> None:
    support, values, dense, rows, vectors = problem(20, 30, 8, 0.3, torch.float32, 0)
    narrow, short = vectors[:, 2:5], rows[:, 1:4]
    wanted = (narrow @ short.T)[support.tokens, support.latents]
    torch.testing.assert_close(kernels.sampled_product(narrow, short, support), wanted)
    torch.testing.assert_close(kernels.weighted_tokens(values, support, narrow), dense.T @ narrow)
    torch.testing.assert_close(kernels.sampled_product(narrow, short, support), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_in_half_precision(dtype: torch.dtype) -> None:
    support, values, dense, rows, vectors = problem(6, 9, 7, 0.5, dtype, 0)

    def close(actual: Tensor, wanted: Tensor) -> None:
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), wanted, rtol=0.05, atol=0.05)

    close(kernels.weighted_rows(values, support, rows), dense.double() @ rows.double())
    close(kernels.weighted_tokens(values, support, vectors), dense.double().T @ vectors.double())
    wanted = (vectors.double() @ rows.double().T)[support.tokens, support.latents]
    close(kernels.sampled_product(vectors, rows, support), wanted)


def test_long_sums_survive_half_precision() -> None:
    n_tokens = 5000
    support = sd.Support.from_indices(torch.zeros(n_tokens, 1, dtype=torch.int64), 2)
    ones = torch.ones(n_tokens, dtype=torch.bfloat16)
    assert kernels.sum_by_latent(ones, support).tolist() == [pytest.approx(n_tokens, rel=0.01), 0]
    counted = kernels.weighted_tokens(ones, support, ones[:, None])
    assert counted.flatten().tolist() == [pytest.approx(n_tokens, rel=0.01), 0]


def test_mixed_precision_is_promoted() -> None:
    support, values, dense, rows, vectors = problem(6, 9, 7, 0.5, torch.float32, 0)
    mixed = kernels.weighted_rows(values.bfloat16(), support, rows)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, dense.bfloat16().float() @ rows)
    assert kernels.sampled_product(vectors.bfloat16(), rows, support).dtype == torch.float32
