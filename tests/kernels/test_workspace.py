from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

import cases
import sparsedict as sd
from sparsedict import kernels
from sparsedict.kernels import Workspace, _embedding_bag, weighted_tokens
from sparsedict.kernels._workspace import scratch

CPU = torch.device("cpu")


def filled(make: Callable[[], Tensor]) -> tuple[Workspace, int]:
    """A workspace with one array, and where the array lies; nothing else refers to it."""
    workspace, arrays = Workspace(), [make()]
    workspace.reclaim(arrays)
    return workspace, arrays[0].data_ptr()


def test_scratch_of_a_name_is_the_same_memory_and_grows() -> None:
    workspace = Workspace()
    first = workspace.scratch("a", (3, 4), torch.float32)
    assert workspace.scratch("a", (2, 2), torch.float32).data_ptr() == first.data_ptr()
    assert workspace.scratch("b", (2, 2), torch.float32).data_ptr() != first.data_ptr()
    assert workspace.scratch("a", (30, 4), torch.float32).shape == (30, 4)


LARGE = (2**10, 2**9)


def test_an_array_is_reused_only_if_nothing_refers_to_its_memory() -> None:
    workspace = Workspace()
    first = workspace.array(LARGE, torch.float32)
    address = first.data_ptr()
    assert first.shape == LARGE
    assert first.is_contiguous()
    assert not first._is_view()
    assert workspace.array(LARGE, torch.float32).data_ptr() != address
    part = first[3]
    del first
    assert workspace.array(LARGE, torch.float32).data_ptr() != address
    array = part.numpy()
    del part
    assert workspace.array(LARGE, torch.float32).data_ptr() != address
    del array
    assert address in {own.data_ptr() for own in [workspace.array(LARGE, torch.float32) for _ in range(2)]}


def test_an_array_that_autograd_saved_is_not_reused() -> None:
    workspace, weight = Workspace(), torch.ones(LARGE, requires_grad=True)
    factor = workspace.array(LARGE, torch.float32).fill_(2.0)
    product = (weight * factor).sum()
    del factor
    workspace.array(LARGE, torch.float32).fill_(3.0)
    product.backward()
    assert weight.grad is not None
    assert (weight.grad == 2).all()


def test_arrays_of_other_sizes_share_memory() -> None:
    workspace = Workspace()
    address = workspace.array(LARGE, torch.float64).data_ptr()
    assert workspace.array((2**19,), torch.bfloat16).data_ptr() == address
    larger = workspace.array((2**21,), torch.float32)
    assert larger.shape == (2**21,)
    small = [workspace.array((3,), torch.float32) for _ in range(2)]
    assert small[0].data_ptr() != small[1].data_ptr()


def test_an_array_stays_valid_while_gradients_are_written() -> None:
    workspace, _ = filled(lambda: torch.zeros(LARGE))
    array = workspace.array(LARGE, torch.float32).fill_(1.0)
    gradient = workspace.take(LARGE, torch.float32)
    assert gradient is not None
    gradient.fill_(2.0)
    assert (array == 1).all()


def test_a_product_in_parts_of_reused_memory_equals_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.rand(1030, 8, generator=generator) * (torch.rand(1030, 8, generator=generator) < 0.3)
    rows, scales = torch.randn(8, 1024, generator=generator), torch.rand(1024, generator=generator)
    stored, workspace = sd.SparseLatents.from_dense(latents), Workspace()
    memory = sd.SparseLatents(stored.values, stored.support.with_memory(workspace), stored.batch_shape)
    results = []
    for own in (latents, stored, memory):
        weight = rows.clone().requires_grad_()
        product = kernels.matmul(own, weight, scales)
        (product * product.detach()).sum().backward()
        results.append((product.detach(), weight.grad))
    for found in results[1:]:
        torch.testing.assert_close(found, results[0])


def test_without_a_workspace_scratch_is_new() -> None:
    first, second = (scratch(None, "a", (3, 4), torch.float32, CPU) for _ in range(2))
    assert first.data_ptr() != second.data_ptr()


def test_a_reclaimed_array_is_reused_once_and_only_where_it_fits() -> None:
    workspace = Workspace()
    assert workspace.take((3, 4), torch.float32) is None
    workspace.reclaim([torch.empty_strided((4, 3), (1, 4)), torch.zeros(3, 4)])
    assert workspace.take((3, 4), torch.float64) is None
    assert workspace.take((4, 3), torch.float32) is None
    assert workspace.take((3, 4), torch.float32) is not None
    assert workspace.take((3, 4), torch.float32) is None
    workspace.reclaim([torch.zeros(3, 4)])
    workspace.release()
    assert workspace.take((3, 4), torch.float32) is None


def test_scratch_lies_in_reclaimed_arrays_as_far_as_it_fits() -> None:
    workspace, place = filled(lambda: torch.zeros(100, 4))
    first = workspace.scratch("a", (10, 3), torch.int16)
    second = workspace.scratch("b", (9,), torch.bool)
    large = workspace.scratch("c", (400,), torch.float32)
    first.fill_(1)
    second.fill_(True)
    large.fill_(2.0)
    assert first.data_ptr() == place
    assert 60 <= second.data_ptr() - place < 1600
    assert workspace.scratch("b", (9,), torch.bool).data_ptr() == second.data_ptr()
    assert bool((first == 1).all())
    assert bool(second.all())
    taken = workspace.take((100, 4), torch.float32)
    assert taken is not None
    assert taken.data_ptr() == place
    for array in (large, workspace.scratch("a", (10, 3), torch.int16)):
        assert array.data_ptr() not in range(place, place + 1600)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty_strided((5, 8), (1, 5)),
        lambda: torch.empty(40, requires_grad=True),
        lambda: torch.empty_strided((4, 5), (10, 1)),
    ],
    ids=["transposed", "with history", "strided"],
)
def test_scratch_never_lies_where_the_layout_or_history_forbids(make: Callable[[], Tensor]) -> None:
    workspace, place = filled(make)
    assert workspace.scratch("a", (4,), torch.int64).data_ptr() not in range(place, place + 160)


def test_own_scratch_of_the_first_step_alone_is_freed() -> None:
    workspace = Workspace()
    places = []
    for _ in range(3):
        places.append(workspace.scratch("a", (2**20,), torch.float32))
        workspace.release()
    assert places[0].data_ptr() != places[1].data_ptr()
    assert places[1].data_ptr() == places[2].data_ptr()


HOLDERS: dict[str, Callable[[Tensor], object]] = {
    "itself": lambda gradient: gradient,
    "in a dict": lambda gradient: {"gradient": gradient},
    "a view": lambda gradient: gradient[2:],
    "detached": lambda gradient: gradient.detach(),
    "transposed": lambda gradient: gradient.T,
    "NumPy": lambda gradient: gradient.numpy(),
    "a part in NumPy": lambda gradient: gradient.numpy()[1:],
    "DLPack": lambda gradient: np.from_dlpack(gradient),
    "its storage": lambda gradient: gradient.untyped_storage(),
    "a graph": lambda gradient: (gradient * torch.ones(4, 3, requires_grad=True)).sum(),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_an_array_that_something_refers_to_is_not_reclaimed(holder: str) -> None:
    arrays = [torch.zeros(4, 3)]
    held = HOLDERS[holder](arrays[0])
    workspace = Workspace()
    workspace.reclaim(arrays)
    assert workspace.take((4, 3), torch.float32) is None
    del held


def test_a_gradient_that_its_parameter_still_has_is_not_reclaimed() -> None:
    """As after an optimiser that sets gradients to zero in place."""
    weight = torch.nn.Parameter(torch.ones(4, 3))
    weight.sum().backward()
    assert weight.grad is not None
    workspace, arrays = Workspace(), [weight.grad]
    workspace.reclaim(arrays)
    assert workspace.take((4, 3), torch.float32) is None
    weight.grad = None
    workspace.reclaim(arrays)
    assert workspace.take((4, 3), torch.float32) is not None


@pytest.mark.parametrize("again", [copy.deepcopy, lambda kept: pickle.loads(pickle.dumps(kept))])
def test_a_copy_of_latents_has_no_memory_of_the_step(again: Callable[[sd.SparseLatents], sd.SparseLatents]) -> None:
    workspace, _ = filled(lambda: torch.zeros(4, 3))
    sparse = sd.SparseLatents.from_dense(torch.eye(4))
    made = again(sd.SparseLatents(sparse.values, sparse.support.with_memory(workspace), sparse.batch_shape))
    assert torch.equal(made.to_dense(), torch.eye(4))
    assert made.support.memory is None or made.support.memory.take((4, 3), torch.float32) is None
    assert workspace.take((4, 3), torch.float32) is not None


def test_a_product_written_into_old_memory_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_embedding_bag, "PART_ENTRIES", 16)
    monkeypatch.setattr(_embedding_bag, "REUSED_ENTRIES", 0)
    latents = sd.SparseLatents.from_dense(torch.randn(9, 12, generator=torch.Generator().manual_seed(0)).relu())
    vectors = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    fresh = weighted_tokens(latents.values, latents.support, vectors)
    workspace, place = filled(lambda: torch.full((12, 5), torch.nan))
    reused = weighted_tokens(latents.values, latents.support.with_memory(workspace), vectors)
    assert reused.data_ptr() == place
    assert torch.equal(reused, fresh)


class ZeroedInPlace(torch.optim.SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none=False)


class DecoderAlone(torch.optim.SGD):
    def __init__(self, params: Iterable[torch.Tensor], lr: float) -> None:
        super().__init__(list(params)[2:3], lr=lr)


OPTIMIZERS = [torch.optim.Adam, ZeroedInPlace, DecoderAlone]


def trained(optimizer: Callable[..., torch.optim.Optimizer], **kwargs) -> list[Tensor]:
    dictionary = cases.make("autoencoder", "top_k")
    data = torch.randn(256, dictionary.d_in, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kwargs = {"n_tokens": 1024, "batch_size": 64, "clip_norm": 1.0, "progress": False} | kwargs
    sd.fit(dictionary, data, optimizer=optimizer, **kwargs)
    return [parameter.detach() for parameter in dictionary.parameters()]


@pytest.fixture
def reused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is reused for results of any size."""
    monkeypatch.setattr(_embedding_bag, "REUSED_ENTRIES", 0)
    monkeypatch.setattr(_embedding_bag, "PART_ENTRIES", 16)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("penalties", [[], [sd.AuxK(2, dead_after=1)]], ids=["", "AuxK"])
def test_training_with_old_memory_is_training(
    optimizer: Callable[..., torch.optim.Optimizer], penalties: list[sd.Penalty], request: pytest.FixtureRequest
) -> None:
    usual = trained(optimizer, penalties=penalties)
    request.getfixturevalue("reused")
    for weight, wanted in zip(trained(optimizer, penalties=penalties), usual, strict=True):
        assert torch.equal(weight, wanted)


def test_the_memory_of_the_last_gradients_is_reused(reused: None) -> None:
    """Both decoder gradients of two steps lie in the memory of the two before; a copy would lie elsewhere."""
    places: list[tuple[int, ...]] = []

    def note(name: str, record: sd.Record, dictionary: sd.Dictionary) -> None:
        weights = (dictionary.encoder, dictionary.decoder)
        places.append(tuple(sorted(weight.grad.data_ptr() for weight in weights if weight.grad is not None)))

    trained(torch.optim.Adam, callbacks=[note], log_every=1)
    assert len(places) == 16
    assert len(set(places)) == 1


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, DecoderAlone])
@pytest.mark.parametrize("holder", ["itself", "a view", "NumPy", "DLPack"])
def test_gradients_that_a_callback_holds_stay(
    holder: str, optimizer: Callable[..., torch.optim.Optimizer], reused: None
) -> None:
    held: list[tuple[object, object]] = []

    def hold(name: str, record: sd.Record, dictionary: sd.Dictionary) -> None:
        assert dictionary.decoder.grad is not None
        held.append((HOLDERS[holder](dictionary.decoder.grad), HOLDERS[holder](dictionary.decoder.grad.clone())))

    trained(optimizer, callbacks=[hold], log_every=3)
    assert len(held) == 6
    for gradient, wanted in held:
        np.testing.assert_array_equal(np.asarray(gradient), np.asarray(wanted))
