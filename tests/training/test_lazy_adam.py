"""`LazyAdam`, which leaves rows without a gradient unchanged."""

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
