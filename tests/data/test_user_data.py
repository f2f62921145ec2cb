from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from sparsedict.batches import ActivationBatch, Activations
from sparsedict.data import ActivationStream, Batches, as_batches

from ._models import site, unique


def rows(n: int, width: int = 2) -> torch.Tensor:
    return torch.arange(n, dtype=torch.float32)[:, None].repeat(1, width)


def served(batches: Any) -> list[int]:
    return [int(value) for batch in batches for value in batch.inputs[:, 0]]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5), st.integers(0, 20))
def test_rows_in_memory_come_once_a_pass_and_resume_anywhere(n: int, size: int, seed: int, stop: int) -> None:
    assert sorted(served(as_batches(rows(n), batch_size=size, seed=seed, repeat=False))) == list(range(n))
    whole, resumed = (as_batches(rows(n), batch_size=size, seed=seed) for _ in range(2))
    for _ in islice(whole, stop):
        pass
    resumed.load_state_dict(whole.state_dict())
    assert served(islice(whole, 5)) == served(islice(resumed, 5))
    assert whole.n_tokens_yielded == resumed.n_tokens_yielded == (stop + 5) * min(n, size)


def test_seeds_and_passes_have_shuffles_of_their_own() -> None:
    def serve(seed: int) -> list[int]:
        return served(islice(as_batches(rows(64), batch_size=64, seed=seed), 2))

    first = serve(0)
    assert first == serve(0) != serve(1)
    assert first[:64] != first[64:]


def test_a_tensor_is_inputs_and_outputs_and_not_a_pair() -> None:
    batches = as_batches(rows(8), batch_size=4)
    batch = batches.next_batch()
    assert isinstance(batch, Activations)
    assert batch.inputs is batch.outputs
    assert (batches.points, batches.n_tokens, batches.names) == (("activations",), 8, None)
    assert "8 tokens in memory, shuffled anew for each pass; batches of 4, seed 0; repeated" in batches.description


@pytest.mark.parametrize("form", ["tuple", "arrays", "batch", "site", "list", "lists", "loader", "iterator"])
def test_pairs_stay_aligned_in_every_form(form: str) -> None:
    x, y = rows(12, 3), -rows(12, 2)
    cut = list(zip(x.split(5), y.split(5), strict=True))
    data: Any = {
        "tuple": (x, y),
        "arrays": (x.numpy(), y.numpy()),
        "batch": ActivationBatch(x, y),
        "site": {"a": (x, y), "b": ActivationBatch(y, x)},
        "list": [ActivationBatch(*pair) for pair in cut],
        "lists": [list(pair) for pair in cut],
        "loader": DataLoader(TensorDataset(x, y), batch_size=5),
        "iterator": iter(cut),
    }[form]
    batches = as_batches(data, repeat=False)
    assert batches.resolve("inputs", batches.names and "a") != batches.resolve("outputs", batches.names and "a")
    total = []
    for batch in batches:
        if batch.sites:
            assert batches.names == ("a", "b")
            assert torch.equal(batch.site("a").inputs, batch.site("b").outputs)
            batch = batch.site("a")
        assert torch.equal(batch.inputs[:, :2], -batch.outputs)
        total += batch.inputs[:, 0].int().tolist()
    assert sorted(total) == list(range(12))


def test_given_batches_keep_their_order_and_are_reshuffled_afterwards() -> None:
    data = list(rows(40).split(4))
    batches = as_batches(data, seed=3)
    passes = [served(islice(batches, 10)) for _ in range(3)]
    assert passes[0] == list(range(40))
    assert passes[1] != passes[0] != passes[2] != passes[1]
    assert all(sorted(one) == passes[0] for one in passes)
    assert "reshuffled after the first pass" in batches.description


@pytest.mark.parametrize("kind", ["list", "loader"])
def test_given_batches_are_taken_up_where_they_stopped(kind: str) -> None:
    parts = list(rows(20).split(4))
    data: Any = parts if kind == "list" else DataLoader(TensorDataset(rows(20)), batch_size=4)
    whole, resumed = as_batches(data), as_batches(data)
    for _ in islice(whole, 8):
        pass
    resumed.load_state_dict(whole.state_dict())
    assert served(islice(whole, 9)) == served(islice(resumed, 9))


class Placed:
    """Batches that know where they stand."""

    def __init__(self) -> None:
        self.n_made = 0
        self._next = 0
        self._after = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        self._next, self._after = self._after, 0
        while self._next < 5:
            self._next += 1
            self.n_made += 1
            yield rows(4) + 4 * self._next

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._after = state_dict["next"]


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 6, 13])
def test_batches_that_know_where_they_stand_are_not_read_again(stop: int) -> None:
    whole, data = as_batches(Placed()), Placed()
    resumed = as_batches(data)
    assert not resumed.replays
    for _ in islice(whole, stop):
        pass
    resumed.load_state_dict(whole.state_dict())
    assert served(islice(whole, 7)) == served(islice(resumed, 7))
    assert data.n_made == 1 + 7  # the first one is looked at before


def test_a_loader_that_shuffles_is_put_back_to_the_order_that_it_had() -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(rows(40), batch_size=4, shuffle=True)  # type: ignore[arg-type]

    whole = as_batches(loader())
    for _ in islice(whole, 13):
        torch.rand(3)  # others draw as well
    state = whole.state_dict()
    rest = served(islice(whole, 20))
    torch.manual_seed(17)
    resumed = as_batches(loader())
    resumed.load_state_dict(state)
    assert resumed.replays
    assert served(islice(resumed, 20)) == rest


def test_a_state_of_other_data_raises() -> None:
    state = as_batches(Placed()).state_dict()
    state["source"] = {"own": {}}
    for data in ([rows(4)], iter([rows(4)])):
        with pytest.raises(ValueError, match=r"`state` must (be a state of the same kind of data|have the same seed)"):
            as_batches(data).load_state_dict(state)


def test_an_iterator_is_read_once() -> None:
    batches = as_batches(iter(rows(8).split(4)))
    assert served(islice(batches, 2)) == list(range(8))
    with pytest.raises(ValueError, match="got an iterator, which ended after 2 batches"):
        batches.next_batch()


def test_a_stream_owns_its_batch_size_and_seed() -> None:
    stream = ActivationStream(site(), unique(4, 4), batch_size=6)
    assert as_batches(stream).batch_size == 6
    assert as_batches(stream).points == ("inputs", "outputs")
    for name in ("batch_size", "seed"):
        with pytest.raises(ValueError, match=f"`{name}` must be omitted .* ActivationStream"):
            as_batches(stream, **{name: 1})
    with pytest.raises(ValueError, match="`batch_size` must be omitted"):
        as_batches([rows(2)], batch_size=2)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (torch.ones(3, 2, dtype=torch.int64), TypeError, "floating-point activations .*ActivationStream"),
        (torch.ones(3), ValueError, r"shape \[n_tokens, d\], got \(3,\)"),
        (torch.ones(0, 2), ValueError, "at least one token"),
        ((torch.ones(3, 2), torch.ones(2, 2)), ValueError, "as many inputs as outputs, got 3 and 2"),
        ((torch.ones(3, 2),) * 3, TypeError, "got tuple of 3"),
        (torch.tensor([[1.0, float("nan")]]), ValueError, "1 NaN or infinite entries of 2"),
        ({"a": torch.ones(3, 2), "b": torch.ones(4, 2)}, ValueError, "same number of tokens for all sites"),
        ({}, ValueError, "at least one site"),
        ([], ValueError, "at least one batch, got an empty list"),
        (["x"], TypeError, "got str"),
        ("x", TypeError, "must be an ActivationStream.* got str"),
        (3, TypeError, "got int"),
        (np.ones((2, 2), dtype=np.int32), TypeError, "floating-point"),
        (torch.ones(2, 2).to_sparse(), TypeError, "`data` must be a dense tensor"),
        ((torch.ones(2, 2), torch.ones(2, 2).to(torch.float8_e5m2)), TypeError, "got torch.float8_e5m2"),
    ],
)
def test_bad_data_raises(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_batches(data)


def test_reversed_arrays_keep_their_order() -> None:
    array = rows(5).numpy()[::-1]
    batch = next(iter(as_batches((array, array.astype(">f4")), batch_size=5)))
    assert sorted(batch.inputs.tolist()) == sorted(array.tolist())
    assert torch.equal(batch.inputs, batch.outputs)


def test_ready_made_batches_of_no_rows_are_passed_over() -> None:
    batches = as_batches([rows(2), rows(0), rows(3)], repeat=False)
    assert isinstance(batches, Batches)
    assert [batch.n_tokens for batch in batches if batch.n_tokens] == [2, 3]


def test_ids_of_activations_by_site_stay_and_points_may_change_their_order() -> None:
    x, ids = rows(6, 3), torch.arange(6)
    one = Activations({"inputs": x, "outputs": -x}, tokens=ids)
    batch = as_batches({"a": one, "b.inputs": x}, batch_size=6).next_batch()
    assert batch.tokens is not None
    assert torch.equal(batch["a.inputs"], x[batch.tokens])
    assert torch.equal(batch["b.inputs"], x[batch.tokens])
    given = as_batches([{"a": x, "b": -x}, {"b": -x, "a": x}], repeat=False)
    assert all(torch.equal(own["a.activations"], -own["b.activations"]) for own in given)
