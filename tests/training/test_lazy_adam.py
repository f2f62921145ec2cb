"""`LazyAdam`, which leaves rows without a gradient unchanged."""

import math

import pytest
import torch
from torch import Tensor

import sparsedict as sd
from sparsedict.training import LazyAdam


def trained(factory: type[torch.optim.Optimizer], gradients: Tensor, start: Tensor) -> Tensor:
    weight = torch.nn.Parameter(start.clone())
    optimizer = factory([weight], lr=0.1)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.data


@pytest.mark.parametrize("shape", [(), (5,), (5, 3)])
def test_it_is_adam_where_every_row_has_a_gradient(shape):
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(20, *shape, generator=generator)
    start = torch.randn(shape, generator=generator)
    assert torch.allclose(trained(LazyAdam, gradients, start), trained(torch.optim.Adam, gradients, start), atol=1e-5)


def test_each_row_is_adams_over_the_steps_in_which_it_has_a_gradient():
    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(40, 6, 3, generator=generator)
    seen = torch.rand(40, 6, generator=generator) < torch.linspace(0.05, 1, 6)
    start = torch.randn(6, 3, generator=generator)
    lazy = trained(LazyAdam, gradients * seen[..., None], start)
    for row in range(6):
        own = trained(torch.optim.Adam, gradients[seen[:, row], row], start[row])
        assert torch.allclose(lazy[row], own, atol=1e-5)


def test_a_seldom_gradient_moves_its_row_by_about_the_rate():
    gradients = torch.zeros(2000, 1, 1)
    gradients[500::500] = 1.0
    start = torch.zeros(1, 1)
    assert trained(LazyAdam, gradients, start).item() == pytest.approx(-0.3, abs=0.01)
    assert trained(torch.optim.Adam, gradients, start).item() < -3


def of_all_rows(gradients: Tensor, start: Tensor, lr: float, betas: tuple[float, float], eps: float) -> list[Tensor]:
    """Returns the weights, both moments and the step counts, by the definition over whole matrices."""
    weight, first, second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    n_steps = torch.zeros(len(start), 1)
    for gradient in gradients:
        active = (gradient != 0).any(dim=1, keepdim=True).to(start.dtype)
        n_steps += active
        first.lerp_(gradient, (1 - betas[0]) * active)
        second.lerp_(gradient.square(), (1 - betas[1]) * active)
        counted = n_steps.clamp_min(1)
        corrections = [-torch.expm1(counted * math.log(beta)) for beta in betas]
        size = (second / corrections[1].to(start)).sqrt() + eps
        weight -= lr * active * (first / corrections[0].to(start)) / size
    return [weight, first, second, n_steps]


@pytest.mark.parametrize("share", [0.05, 0.6, 1.0])
def test_parts_and_gathered_rows_give_the_update_of_all_rows(share):
    generator = torch.Generator().manual_seed(2)
    n_steps, n_rows, d = 6, 700, 96  # more than one part
    gradients = torch.randn(n_steps, n_rows, d, generator=generator, dtype=torch.float64)
    gradients *= 10 ** (30 * torch.rand(n_steps, n_rows, 1, generator=generator) - 25)
    gradients *= torch.rand(n_steps, n_rows, 1, generator=generator) < share
    start = torch.randn(n_rows, d, generator=generator, dtype=torch.float64)
    options = {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-8}
    weight = torch.nn.Parameter(start.clone())
    optimizer = LazyAdam([weight], **options)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    state = optimizer.state[weight]
    found = [weight.data, state["first"], state["second"], state["step"]]
    for own, expected in zip(found, of_all_rows(gradients, start, **options), strict=True):
        assert torch.allclose(own, expected, rtol=1e-12, atol=1e-12)
    untouched = (gradients == 0).all(dim=2).all(dim=0)
    assert torch.equal(weight.data[untouched], start[untouched])


def test_rows_without_a_gradient_keep_their_values_with_eps_0():
    weight = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = LazyAdam([weight], lr=0.1, eps=0.0)
    weight.grad = torch.tensor([[0.0, 0.0], [-1.0, -2.0], [-0.0, 0.0], [torch.nan, 1.0]])
    optimizer.step()
    assert torch.equal(weight.data[:3], torch.tensor([[1.0, 1.0], [1.1, 1.1], [1.0, 1.0]]))
    assert weight.data[3, 0].isnan()


def test_steps_are_counted_beyond_the_range_of_half_precision():
    gradients = torch.ones(600, 2, 2, dtype=torch.bfloat16)
    weight = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16))
    optimizer = LazyAdam([weight], lr=1e-3)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    assert (optimizer.state[weight]["step"] == 600).all()


def test_a_stopped_run_resumes_bit_for_bit(tmp_path):
    truth = sd.data.SyntheticFeatures(d=8, n_features=24, l0=2, seed=0)
    batch, _ = truth.sample(2048, seed=1)

    def run(n_tokens: int, **options) -> sd.Dictionary:
        generator = torch.Generator().manual_seed(0)
        parts = {"activation": sd.TopK(2), "decoder_norm": sd.UnitNorm(), "generator": generator}
        coder = sd.SparseAutoencoder(8, 32, **parts)
        settings = {"n_tokens": n_tokens, "batch_size": 64, "optimizer": LazyAdam, "progress": False, **options}
        sd.fit(coder, batch.outputs, schedule=sd.training.Constant(), **settings)
        return coder

    class StopError(Exception):
        pass

    def stop(name, record, dictionary) -> None:
        if record.n_tokens >= 1024:
            raise StopError

    whole = run(4096)
    with pytest.raises(StopError):
        run(4096, log_every=1, checkpoint=tmp_path, checkpoint_every=4, callbacks=[stop])
    again = run(4096, log_every=1, checkpoint=tmp_path, checkpoint_every=4, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"eps": -1.0}, {"betas": (0.9, 1.0)}])
def test_wrong_numbers_raise(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must"):
        LazyAdam([torch.nn.Parameter(torch.zeros(2))], **wrong)
