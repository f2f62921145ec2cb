from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import cases
import sparsedict as sd


@st.composite
def decoders(draw: st.DrawFn) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    decoder = torch.randn(shape, generator=generator, dtype=torch.float64)
    return decoder * torch.tensor(10.0).pow(torch.randint(-3, 4, (shape[0], 1), generator=generator))


def constrained(norm: sd.DecoderNorm, decoder: Tensor) -> Tensor:
    copy = decoder.clone()
    norm.constrain_(copy)
    return copy


def lengths(decoder: Tensor) -> Tensor:
    return decoder.square().sum(-1).sqrt()


@pytest.mark.parametrize("name", cases.NORMS)
@given(decoder=decoders())
def test_a_constraint_is_idempotent_and_keeps_directions(name: str, decoder: Tensor) -> None:
    once = constrained(cases.NORMS[name], decoder)
    torch.testing.assert_close(constrained(cases.NORMS[name], once), once)
    torch.testing.assert_close(once / lengths(once)[:, None], decoder / lengths(decoder)[:, None])


@given(decoders())
def test_unit_norm_makes_every_row_a_unit_vector(decoder: Tensor) -> None:
    torch.testing.assert_close(lengths(constrained(sd.UnitNorm(), decoder)), torch.ones(len(decoder)).double())


@given(decoders(), st.integers(0, 2**20))
def test_unit_norm_leaves_the_gradient_orthogonal_to_the_rows(decoder: Tensor, seed: int) -> None:
    decoder = constrained(sd.UnitNorm(), decoder)
    gradient = torch.randn(decoder.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    projected = gradient.clone()
    sd.UnitNorm().project_gradient_(decoder, projected)
    torch.testing.assert_close((projected * decoder).sum(-1), torch.zeros(len(decoder)).double())
    removed = gradient - projected
    torch.testing.assert_close(removed, (removed * decoder).sum(-1, keepdim=True) * decoder)
    again = projected.clone()
    sd.UnitNorm().project_gradient_(decoder, again)
    torch.testing.assert_close(again, projected)


@given(decoders(), st.floats(0.01, 100))
def test_max_norm_shortens_long_rows_and_leaves_short_ones(decoder: Tensor, maximum: float) -> None:
    after = constrained(sd.MaxNorm(maximum), decoder)
    assert (lengths(after) <= maximum * (1 + 1e-12)).all()
    assert (lengths(after) <= lengths(decoder)).all()
    short = lengths(decoder) <= maximum
    assert torch.equal(after[short], decoder[short])


@pytest.mark.parametrize("norm", [sd.Free(), sd.MaxNorm(1.0)])
def test_other_gradients_are_left_alone(norm: sd.DecoderNorm) -> None:
    gradient = torch.randn(3, 4)
    before = gradient.clone()
    norm.project_gradient_(torch.randn(3, 4), gradient)
    assert torch.equal(gradient, before)


def test_free_changes_nothing() -> None:
    decoder = torch.randn(3, 4)
    assert torch.equal(constrained(sd.Free(), decoder), decoder)
    assert not sd.Free().bounded
    assert sd.UnitNorm().bounded
    assert sd.MaxNorm().bounded


@pytest.mark.parametrize("norm", cases.NORMS.values())
def test_rows_of_zeros_stay_finite(norm: sd.DecoderNorm) -> None:
    assert constrained(norm, torch.zeros(2, 3)).tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("norm", cases.NORMS.values())
def test_parameters_are_changed_in_place_without_history(norm: sd.DecoderNorm) -> None:
    decoder = torch.nn.Parameter(torch.randn(3, 4) * 5)
    pointer = decoder.data_ptr()
    norm.constrain_(decoder)
    assert decoder.data_ptr() == pointer
    assert decoder.is_leaf


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"`maximum` must lie in \(0\.0, inf\), got 0"):
        sd.MaxNorm(0)
    with pytest.raises(TypeError, match="`maximum` must be a number, got '1'"):
        sd.MaxNorm("1")
