"""The counts of ``benchmarks.plan`` equal those of a real step on a fake process group of 64 processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from benchmarks.plan import Hardware, Job, Plan, best, main, meshes
from torch import Tensor

import sparsedict as sd
from sparsedict.dictionaries import shard_
from sparsedict.sharding import Peers, Traffic

WORLD = 64


class _DistinctPeers(Peers):
    """A fake group receives nothing, so the candidates of other processes are made up."""

    def gather(self, values: Tensor) -> Tensor:
        found = super().gather(values)
        return found.copy_(values + torch.rand(found.shape, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def fake_group() -> Iterator[None]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=WORLD)
    yield
    dist.destroy_process_group()


ACTIVATIONS = {"threshold": sd.JumpReLU(), "topk": sd.TopK(4), "batch_topk": sd.BatchTopK(4)}


@pytest.mark.parametrize("rule", ACTIVATIONS)
@pytest.mark.usefixtures("fake_group")
def test_memory_and_traffic_are_those_of_a_step(rule: str) -> None:
    d, n_latents, n_tokens = 8, 1024, 16
    plan = Plan(Job(d, d, n_latents, 4, n_tokens, rule), 1, WORLD)
    sae = sd.SparseAutoencoder(d, n_latents, activation=ACTIVATIONS[rule], decoder_norm=sd.UnitNorm())
    shard_(sae, _DistinctPeers())
    assert sae.shard is not None
    optimizer, x = torch.optim.Adam(sae.parameters()), torch.randn(n_tokens, d)
    with Traffic() as traffic:
        sae.train().forward_pass(x, x).reconstruction.square().sum().backward()
        sae.shard.finish_gradients_()
    optimizer.step()
    expected = plan.collectives()
    assert sorted(own.n_bytes for own in traffic.collectives) == sorted(expected.values())
    memory = plan.memory()
    learned = [p for name, p in sae.named_parameters() if not name.startswith("activation_state")]
    assert sum(p.nbytes for p in learned) == memory["weights"]
    assert sum(p.grad.nbytes for p in learned if p.grad is not None) == memory["gradients"]
    moments = [value for p in learned for value in optimizer.state[p].values() if value.ndim]
    assert sum(value.nbytes for value in moments) == memory["optimiser"]


def test_checkpoints_and_gradients_are_divided_over_the_mesh() -> None:
    job = Job(8, 8, 1024, 4, 64, "batch_topk")
    whole, mesh = Plan(job, 1, 1), Plan(job, 2, 4)
    assert {name: size // 8 for name, size in whole.checkpoint().items()} == mesh.checkpoint()
    sent = mesh.collectives()
    assert sent["gradients of rows"] == (1024 // 4) * (8 + 8 + 1) * 4
    # Counts find the limit, so no candidates are sent.
    assert "candidates" not in sent
    assert "candidates" in Plan(job, 1, 4).collectives()


def test_plans_cover_all_meshes_and_memory_falls_with_shards() -> None:
    assert set(meshes(12)) == {(12, 1), (6, 2), (4, 3), (3, 4), (2, 6), (1, 12)}
    job = Job(64, 64, 2**16, 8, 4096)
    held = [Plan(job, 1, n).n_parameters - job.d_out for n in (1, 2, 4, 8)]
    assert held == [held[0] // n for n in (1, 2, 4, 8)]
    plans = best(job, 8, Hardware(capacity=sum(Plan(job, 1, 8).memory().values()) / 0.9))
    assert plans[0].fits
    assert not plans[-1].fits


def test_the_command_prints_a_plan_for_each_number_of_gpus(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["plan", "--gpus", "4", "6", "--n-latents", "4096", "--d-in", "64", "--d-out", "64"]
    )
    main()
    printed = capsys.readouterr().out
    assert "4 GPUs" in printed
    assert "1 x 6" in printed
