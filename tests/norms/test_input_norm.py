"""Normalisation of the input: what each does, and that an autoencoder's output comes back in the input's scale."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsedict as sd

NORMS = (sd.InputScale(2.5), sd.InputRMSNorm(), sd.InputLayerNorm())
every_norm = pytest.mark.parametrize("norm", NORMS, ids=str)


@every_norm
@given(seed=st.integers(0, 10_000), shape=st.sampled_from([(3,), (2, 5), (2, 0, 7), (1, 4, 9)]))
def test_restoring_normalised_input_gives_the_input(norm: sd.InputNorm, seed: int, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10 + 3
    again = norm.restore(norm.normalise(x), x)
    # A layer norm divides by the deviation and 1e-5 more, and multiplies by the deviation alone.
    torch.testing.assert_close(again, x, rtol=1e-4, atol=1e-3)


def test_rms_norm_gives_every_input_one_norm() -> None:
    x = torch.randn(6, 16) * torch.tensor([1e-6, 1e-3, 1, 10, 1e3, 1e6])[:, None]
    torch.testing.assert_close(sd.InputRMSNorm().normalise(x).norm(dim=-1), torch.full((6,), 4.0))


def test_layer_norm_gives_mean_zero_and_deviation_one() -> None:
    normed = sd.InputLayerNorm(eps=0).normalise(torch.randn(6, 16) * 7 + 100)
    torch.testing.assert_close(normed.mean(-1), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.std(-1), torch.ones(6))


@every_norm
def test_a_vector_of_zeros_stays_finite(norm: sd.InputNorm) -> None:
    zeros = torch.zeros(2, 4)
    assert norm.normalise(zeros).isfinite().all()
    assert norm.restore(torch.ones(2, 4), zeros).isfinite().all()


@every_norm
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(norm: sd.InputNorm, dtype: torch.dtype) -> None:
    x = (torch.randn(4, 300) * 100).to(dtype)
    normed = norm.normalise(x)
    assert normed.dtype == norm.restore(normed, x).dtype == dtype
    torch.testing.assert_close(normed.float(), norm.normalise(x.float()), rtol=2e-2, atol=2e-2)


@pytest.mark.as_installed
def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="`scale` must lie in"):
        sd.InputScale(0.0)
    with pytest.raises(ValueError, match="`eps` must lie in"):
        sd.InputLayerNorm(eps=-1.0)
    parts = {"activation": sd.ReLU(), "decoder_norm": sd.Free()}
    with pytest.raises(ValueError, match="`d_in` must be at least 2 for InputLayerNorm"):
        sd.SparseAutoencoder(1, 3, input_norm=sd.InputLayerNorm(), **parts)
    with pytest.raises(TypeError, match=r"`input_norm` must be None or an InputNorm.*pass an instance"):
        sd.SparseAutoencoder(4, 3, input_norm=sd.InputLayerNorm, **parts)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="`input_norm` must be None or an InputNorm"):
        sd.SparseDistiller(4, 4, 3, input_norm=sd.Free(), **parts)  # pyright: ignore[reportArgumentType]
