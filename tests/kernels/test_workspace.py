from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import pytest
import torch

import cases
import sparsedict as sd
from sparsedict.kernels import Workspace, _bag, weighted_tokens
from sparsedict.kernels._workspace import result, scratch

CPU = torch.device("cpu")


def test_scratch_of_a_name_is_the_same_memory_and_grows() -> None:
    workspace = Workspace()
    with workspace.used():
        first = scratch("a", (3, 4), torch.float32, CPU)
        assert scratch("a", (2, 2), torch.float32, CPU).data_ptr() == first.data_ptr()
        assert scratch("b", (2, 2), torch.float32, CPU).data_ptr() != first.data_ptr()
        assert scratch("a", (30, 4), torch.float32, CPU).shape == (30, 4)
    assert scratch("a", (3, 4), torch.float32, CPU).data_ptr() != first.data_ptr()


def test_an_offered_array_is_given_once_and_to_what_it_fits() -> None:
    workspace = Workspace()
    workspace.offer([None, torch.zeros(3, 4), torch.zeros(4, 3).T])
    assert result((3, 4), torch.float32) is None
    with workspace.used():
        assert result((3, 4), torch.float64) is None
        assert result((4, 3), torch.float32) is None
        assert result((3, 4), torch.float32) is not None
        assert result((3, 4), torch.float32) is None


def test_scratch_lies_in_what_was_offered_as_far_as_it_fits() -> None:
    workspace = Workspace()
    offered = torch.zeros(100, 4)
    workspace.offer([offered[:, ::2], offered[50:].T, offered])
    with workspace.used():
        first = scratch("a", (10, 3), torch.int16, CPU)
        second = scratch("b", (9,), torch.bool, CPU)
        large = scratch("c", (400,), torch.float32, CPU)
        first.fill_(1)
        second.fill_(True)
        large.fill_(2.0)
        assert first.data_ptr() == offered.data_ptr()
        assert 60 <= second.data_ptr() - first.data_ptr() < 1600
        assert scratch("b", (9,), torch.bool, CPU).data_ptr() == second.data_ptr()
        assert bool((first == 1).all())
        assert bool(second.all())
        assert result((100, 4), torch.float32) is offered
        again = scratch("a", (10, 3), torch.int16, CPU)
    inside = range(offered.data_ptr(), offered.data_ptr() + 1600)
    assert again.data_ptr() not in inside
    assert large.data_ptr() not in inside


@pytest.mark.parametrize("offered", [torch.zeros(8, 5).T, torch.zeros(41)[1:], torch.zeros(40, requires_grad=True)])
def test_scratch_never_lies_where_its_type_or_history_forbids(offered: torch.Tensor) -> None:
    workspace = Workspace()
    workspace.offer([offered])
    with workspace.used():
        place = scratch("a", (4,), torch.int64, CPU).data_ptr()
    assert not offered.data_ptr() <= place < offered.data_ptr() + 160


def test_own_scratch_of_the_first_pass_alone_is_let_go() -> None:
    workspace = Workspace()
    places = []
    for _ in range(3):
        with workspace.used():
            places.append(scratch("a", (2**20,), torch.float32, CPU))
    assert places[0].data_ptr() != places[1].data_ptr()
    assert places[1].data_ptr() == places[2].data_ptr()


def test_another_thread_does_not_see_it() -> None:
    workspace = Workspace()
    seen = []
    with workspace.used():
        inside = scratch("a", (3,), torch.float32, CPU).data_ptr()
        thread = threading.Thread(target=lambda: seen.append(scratch("a", (3,), torch.float32, CPU).data_ptr()))
        thread.start()
        thread.join()
    assert seen != [inside]


def test_a_product_written_into_old_memory_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bag, "PART_ENTRIES", 16)
    latents = sd.SparseLatents.from_dense(torch.randn(9, 12, generator=torch.Generator().manual_seed(0)).relu())
    vectors = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    fresh = weighted_tokens(latents.values, latents.support, vectors)
    monkeypatch.setattr(_bag, "KEPT_ENTRIES", 0)
    workspace = Workspace()
    offered = torch.full((12, 5), torch.nan)
    place = offered.data_ptr()
    workspace.offer([offered])
    with workspace.used():
        kept = weighted_tokens(latents.values, latents.support, vectors)
    assert kept.data_ptr() == place
    assert torch.equal(kept, fresh)


class ZeroedInPlace(torch.optim.SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none=False)


class DecoderAlone(torch.optim.SGD):
    def __init__(self, params: Iterable[torch.Tensor], lr: float) -> None:
        super().__init__(list(params)[2:3], lr=lr)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, ZeroedInPlace, DecoderAlone])
def test_training_with_old_memory_is_training(
    optimizer: Callable[..., torch.optim.Optimizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> list[torch.Tensor]:
        dictionary = cases.make("autoencoder", "top_k")
        data = torch.randn(256, dictionary.d_in, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        sd.fit(dictionary, data, n_tokens=1024, batch_size=64, optimizer=optimizer, clip_norm=1.0, progress=False)
        return [parameter.detach() for parameter in dictionary.parameters()]

    usual = trained()
    monkeypatch.setattr(_bag, "KEPT_ENTRIES", 0)
    monkeypatch.setattr(_bag, "PART_ENTRIES", 16)
    for kept, fresh in zip(trained(), usual, strict=True):
        assert torch.equal(kept, fresh)
