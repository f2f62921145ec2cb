"""Steps that don't synchronise for the number of active entries, with Triton's interpreter."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sparsedict as sd
from sparsedict import kernels
from sparsedict.dictionaries import _encode
from sparsedict.kernels import _capacity

D, N_LATENTS, BATCH, N_STEPS = 5, 16, 12, 5


class Watch(sd.training.StepHook):
    """Records which steps selected within a capacity."""

    def __init__(self) -> None:
        self.was_padded: list[bool] = []

    def __call__(self, out: sd.ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        self.was_padded.append(out.support is not None and out.support.has_padding)


class Counting(sd.Penalty):
    """Keeps something from step to step."""

    def __init__(self) -> None:
        self.n_calls = 0

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        self.n_calls += 1
        return out.values.abs().sum() * 0.001 * self.n_calls / out.n_tokens

    def state_dict(self) -> dict[str, int]:
        return {"n_calls": self.n_calls}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.n_calls = state_dict["n_calls"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, interpreter: None) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(_capacity, "MIN_CAPACITY", 8)
    monkeypatch.setattr(_encode, "DENSE_SHARE", 0.6)


def coder(activation: sd.Activation) -> sd.SparseAutoencoder:
    generator = torch.Generator().manual_seed(0)
    made = sd.SparseAutoencoder(
        D, N_LATENTS, activation=activation, decoder_norm=sd.UnitNorm(), generator=generator, dtype=torch.float64
    )
    with torch.no_grad():
        made.encoder_bias.sub_(0.8)
    return made


def data(scales: tuple[float, ...] = (1.0,) * N_STEPS) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(len(scales), BATCH, D, generator=generator, dtype=torch.float64)
    return (rows * torch.tensor(scales, dtype=torch.float64)[:, None, None]).flatten(0, 1)


def trained(
    activation: sd.Activation, rows: Tensor | list[Tensor], **kwargs
) -> tuple[sd.SparseAutoencoder, sd.History]:
    made = coder(activation)
    if isinstance(rows, Tensor):
        kwargs["batch_size"] = BATCH
    kwargs = {"lr": 0.01, "n_tokens": N_STEPS * BATCH, "progress": False, "log_every": 2} | kwargs
    return made, sd.fit(made, rows, **kwargs)


def check_same(one: tuple[sd.SparseAutoencoder, sd.History], other: tuple[sd.SparseAutoencoder, sd.History]) -> None:
    for name, weight in one[0].state_dict().items():
        torch.testing.assert_close(other[0].state_dict()[name], weight, rtol=1e-9, atol=1e-10)
    assert [r.l0 for r in one[1].records] == [r.l0 for r in other[1].records]
    torch.testing.assert_close([r.objective for r in one[1].records], [r.objective for r in other[1].records])


@pytest.mark.parametrize(
    ("activation", "penalties", "padded"),
    [
        (sd.ReLU(), [sd.L1(0.01)], range(1, N_STEPS)),
        (sd.JumpReLU(0.1, 0.1), [sd.L0(0.01)], range(1, N_STEPS)),
        (sd.Gated(), [sd.NormWeighted(sd.Sqrt(0.01))], range(1, N_STEPS)),
        (sd.BatchTopK(1.5), [], (1, 3, 4)),
        (sd.TopK(3), [], ()),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, sd.Activation) else "",
)
def test_training_within_a_capacity_is_training(
    activation: sd.Activation, penalties: list[sd.Penalty], padded: Collection[int]
) -> None:
    """The first step is dense: no earlier step has a density. BatchTopK has too many candidates in the third."""
    usual, watch = trained(activation, data(), penalties=penalties), Watch()
    with kernels.using(kernels.triton_backend()):
        found = trained(activation, data(), penalties=penalties, step_hooks=[watch])
    check_same(usual, found)
    assert watch.was_padded == [step in padded for step in range(N_STEPS)]


@pytest.mark.parametrize("penalty", [sd.L1(0.01), Counting()], ids=lambda penalty: type(penalty).__name__)
def test_a_step_that_exceeded_its_capacity_is_computed_again(penalty: sd.Penalty) -> None:
    """The third batch is far larger than those before, so three times as many latents fire."""
    rows, watch = list(data((0.5, 0.5, 5.0, 0.5, 0.5)).split(BATCH)), Watch()
    usual = trained(sd.ReLU(), rows, penalties=[type(penalty)() if isinstance(penalty, Counting) else penalty])
    with kernels.using(kernels.triton_backend()):
        found = trained(sd.ReLU(), rows, penalties=[penalty], step_hooks=[watch])
    check_same(usual, found)
    assert watch.was_padded == [False, True, False, True, True]
    if isinstance(penalty, Counting):
        assert penalty.n_calls == N_STEPS


def test_a_resumed_run_takes_the_same_paths(tmp_path: Path) -> None:
    with kernels.using(kernels.triton_backend()):
        watches = Watch(), Watch()
        folder = tmp_path / "whole"
        whole, _ = trained(sd.ReLU(), data(), checkpoint=folder, checkpoint_every=2, step_hooks=watches[:1])
        part = tmp_path / "part"
        part.mkdir()
        first = min(folder.glob("step-*"))
        first.rename(part / first.name)
        again, _ = trained(sd.ReLU(), data(), checkpoint=part, checkpoint_every=2, resume=True, step_hooks=watches[1:])
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in whole.state_dict().items())
    assert watches[1].was_padded == [True]
