from __future__ import annotations

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsedict import SparseLatents, metrics


@pytest.fixture
def unchecked():
    """Lets wrong shapes through to the library's own checks."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def running_error(reconstruction: Tensor, target: Tensor, sizes: list[int]) -> metrics.RunningError:
    running = metrics.RunningError()
    for y, t in zip(reconstruction.split(sizes), target.split(sizes), strict=True):
        running.update_(y, t)
    return running


def test_l0_counts_values_that_are_not_zero() -> None:
    latents = torch.tensor([[0.0, 2.0, 1.0, -3.0], [-0.0, 3.0, -1.0, 0.0]])
    assert metrics.l0(latents) == 2.5
    sparse = SparseLatents.from_dense(latents)
    assert metrics.l0(sparse) == 2.5
    stored_zero = SparseLatents(torch.cat((sparse.values[:-1], torch.zeros(1))), sparse.support, sparse.batch_shape)
    assert metrics.l0(stored_zero) == 2.0
    assert metrics.l0(latents.relu()) == 1.5


@pytest.mark.parametrize("shape", [(12, 5), (3, 4, 5)])
def test_l0_disregards_leading_dimensions(shape: tuple[int, ...]) -> None:
    latents = noise(*shape).relu()
    assert metrics.l0(latents) == metrics.l0(SparseLatents.from_dense(latents)) == metrics.l0(latents.reshape(-1, 5))


def test_l0_of_nothing_raises() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        metrics.l0(torch.zeros(0, 4))


def test_perfect_reconstruction_has_no_unexplained_variance() -> None:
    target = noise(20, 4)
    assert metrics.fvu(target, target) == 0
    assert metrics.squared_error(target, target) == 0
    assert metrics.cosine(target, target) == pytest.approx(1)


@given(offset=st.floats(-1e4, 1e4), scale=st.floats(1e-3, 1e3))
def test_mean_predictor_has_fvu_one(offset: float, scale: float) -> None:
    target = scale * noise(50, 3).double() + offset
    assert metrics.fvu(target.mean(0).expand_as(target), target) == pytest.approx(1, rel=1e-6)


@given(scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_fvu_is_invariant_to_shift_and_scale_of_both(scale: float, shift: float) -> None:
    y, t = noise(30, 4, seed=1).double(), noise(30, 4, seed=2).double()
    assert metrics.fvu(scale * y + shift, scale * t + shift) == pytest.approx(metrics.fvu(y, t), rel=1e-9)


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(0, 17), min_size=1, max_size=6), offset=st.sampled_from([0.0, 1.0, 1000.0]))
def test_batches_agree_with_the_whole_set(sizes: list[int], offset: float) -> None:
    n = sum(sizes) + 2
    y, t = noise(n, 3, seed=1) + offset, noise(n, 3, seed=2) + offset
    running = running_error(y, t, [*sizes, 2])
    assert running.n_tokens == n
    assert running.fvu == pytest.approx(metrics.fvu(y, t), rel=1e-9)
    assert running.squared_error == pytest.approx(metrics.squared_error(y, t), rel=1e-9)
    assert running.cosine == pytest.approx(metrics.cosine(y, t), rel=1e-9)
    assert torch.allclose(running.fvu_by_dimension, metrics.fvu_by_dimension(y, t))


def test_fvu_is_no_mean_of_ratios_over_batches() -> None:
    t = torch.cat([noise(10, 2, seed=1), 100 * noise(10, 2, seed=2)])
    y = torch.cat([torch.zeros(10, 2), t[10:]])
    ratios = [metrics.fvu(y[:10], t[:10]), metrics.fvu(y[10:], t[10:])]
    assert running_error(y, t, [10, 10]).fvu < 1e-3 < sum(ratios) / 2


def test_fvu_keeps_its_digits_far_from_the_origin() -> None:
    small = noise(1000, 2).double()
    far = small + 1e7
    expected = metrics.fvu(small * 0.5, small)
    assert running_error(small * 0.5 + 1e7, far, [100] * 10).fvu == pytest.approx(expected, rel=1e-6)


def test_fvu_by_dimension_is_nan_where_the_target_is_constant() -> None:
    target = torch.stack([noise(8), torch.full((8,), 0.1)], dim=1)
    values = metrics.fvu_by_dimension(torch.zeros_like(target), target)
    assert values.isnan().tolist() == [False, True]


@pytest.mark.parametrize("value", [0.0, 0.1, 12345.678])
def test_fvu_of_a_constant_target_raises(value: float) -> None:
    with pytest.raises(ValueError, match="must not be constant"):
        metrics.fvu(torch.zeros(7, 3), torch.full((7, 3), value))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("function", [metrics.fvu, metrics.squared_error, metrics.cosine, metrics.fvu_by_dimension])
def test_shapes_that_would_broadcast_raise(function) -> None:
    with pytest.raises(ValueError, match=r"same shape, got \(4, 3\) and \(4, 1\)"):
        function(torch.zeros(4, 3), torch.zeros(4, 1))


@pytest.mark.usefixtures("unchecked")
def test_tokens_raise() -> None:
    with pytest.raises(TypeError, match=r"`target` must be a floating-point tensor .* got torch.int64"):
        metrics.fvu(torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64))


@pytest.mark.parametrize("broken", ["reconstruction", "target"])
def test_values_that_are_not_finite_are_named(broken: str) -> None:
    y, t = noise(4, 3), noise(4, 3, seed=1)
    (y if broken == "reconstruction" else t)[1, 2] = torch.nan
    with pytest.raises(ValueError, match=f"`{broken}` must be finite"):
        metrics.fvu(y, t)


def test_correlation_is_pearsons() -> None:
    a, b = noise(40, 3), noise(40, 3, seed=1)
    expected = [torch.corrcoef(torch.stack([a[:, i], b[:, i]]))[0, 1].item() for i in range(3)]
    assert metrics.correlation(a, b).tolist() == pytest.approx(expected, abs=1e-6)


@given(slope=st.floats(0.01, 100), offset=st.floats(-100, 100), sign=st.sampled_from([-1, 1]))
def test_correlation_of_a_linear_function_is_its_sign(slope: float, offset: float, sign: int) -> None:
    a = noise(20, 1).double()
    assert metrics.correlation(a, sign * slope * a + offset).item() == pytest.approx(sign, abs=1e-6)


def test_running_correlation_agrees_with_the_whole_set() -> None:
    a, b = noise(30, 2) + 5, noise(30, 2, seed=1) - 3
    running = metrics.RunningCorrelation()
    for rows in (slice(0, 1), slice(1, 20), slice(20, 30)):
        running.update_(a[rows], b[rows])
    assert torch.allclose(running.value, metrics.correlation(a, b))


def test_correlation_with_a_constant_is_nan() -> None:
    assert metrics.correlation(noise(5, 1), torch.full((5, 1), 0.1)).isnan().all()
