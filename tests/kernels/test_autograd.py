from __future__ import annotations

import pytest
import torch

import sparsedict as sd
from sparsedict import kernels


def support(kind: str) -> sd.Support:
    mask = {
        "mixed": torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]),
        "empty": torch.zeros(3, 4),
        "full": torch.ones(3, 4),
    }[kind]
    return sd.Support.from_mask(mask.bool())


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("kind", ["mixed", "full"])
def test_gradient_of_matmul(kind: str) -> None:
    stored = support(kind)

    def product(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return kernels.matmul(sd.SparseLatents(values, stored, torch.Size((3, 1))), rows)

    assert torch.autograd.gradcheck(product, (leaf(stored.n_entries), leaf(4, 5)))
    assert product(leaf(stored.n_entries), leaf(4, 5)).shape == (3, 1, 5)


@pytest.mark.parametrize("kind", ["mixed", "full"])
@pytest.mark.parametrize("is_known", [False, True])
def test_gradient_of_affine_at(kind: str, is_known: bool) -> None:
    stored = support(kind)

    def affine(inputs: torch.Tensor, rows: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        whole = (inputs @ rows.T + bias).detach()
        known = whole[stored.tokens, stored.latents] if is_known else None
        entries = kernels.affine_at(inputs, rows, bias, stored, known)
        torch.testing.assert_close(entries, whole[stored.tokens, stored.latents])
        return entries

    assert torch.autograd.gradcheck(affine, (leaf(3, 5), leaf(4, 5), leaf(4)))


def test_gradients_of_an_empty_support_are_zero() -> None:
    stored = support("empty")
    inputs, rows, bias = leaf(3, 5), leaf(4, 5), leaf(4)
    values = kernels.affine_at(inputs, rows, bias, stored)
    output = kernels.matmul(sd.SparseLatents(values, stored, torch.Size((3,))), rows)
    assert not output.any()
    output.sum().backward()
    assert all(tensor.grad is not None and not tensor.grad.any() for tensor in (inputs, rows, bias))


def test_only_the_required_gradients_are_computed() -> None:
    stored = support("mixed")
    rows = leaf(4, 5)
    values = kernels.affine_at(torch.randn(3, 5).double(), rows.detach(), torch.zeros(4).double(), stored)
    assert not values.requires_grad
    kernels.matmul(sd.SparseLatents(values, stored, torch.Size((3,))), rows).sum().backward()
    assert rows.grad is not None


def test_dense_latents_are_multiplied_as_they_are() -> None:
    latents, rows = torch.randn(2, 3, 4), torch.randn(4, 5)
    assert torch.equal(kernels.matmul(latents, rows), latents @ rows)


@pytest.mark.as_installed
def test_latents_of_another_width_raise() -> None:
    rows = torch.randn(5, 2)
    message = r"last dimension of `latents` must be 5, one entry for each row, got shape \(3, 4\)"
    with pytest.raises(ValueError, match=message):
        kernels.matmul(torch.randn(3, 4), rows)
    with pytest.raises(ValueError, match=message):
        kernels.matmul(sd.SparseLatents.from_dense(torch.randn(3, 4)), rows)


def test_each_gradient_has_its_parameters_own_type() -> None:
    stored = support("mixed")
    inputs, rows, bias = leaf(3, 5), leaf(4, 5), leaf(4).detach().float().requires_grad_()
    kernels.affine_at(inputs, rows, bias, stored, offset=inputs.new_zeros(5)).sum().backward()
    assert bias.grad is not None
    assert bias.grad.dtype == torch.float32
    assert torch.equal(bias.grad, torch.tensor([2.0, 1.0, 2.0, 1.0]))
