from __future__ import annotations

import copy
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsedict as sd
from sparsedict.batches import Activations
from sparsedict.data import ActivationStream, Batches

from ._models import Counted, ids, site, unique

SIZES: dict[str, st.SearchStrategy[int]] = {
    "n_sequences": st.integers(1, 12),
    "context": st.integers(1, 7),
    "batch_size": st.integers(1, 20),
    "model_batch_size": st.integers(1, 5),
    "spare": st.integers(0, 40),
    "seed": st.integers(0, 3),
}


def stream(
    tokens: Any, batch_size: int, model_batch_size: int, spare: int, seed: int, context: int = 7, **options: Any
) -> ActivationStream:
    return ActivationStream(
        options.pop("where", None) or site(),
        tokens,
        batch_size=batch_size,
        model_batch_size=model_batch_size,
        buffer_size=max(batch_size, context) + spare,
        seed=seed,
        **options,
    )


def as_source(tokens: Tensor, form: str) -> Any:
    return {"array": tokens, "rows": list(tokens), "iterable": Rows(tokens)}[form]


class Rows:
    """An iterable without random access."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __iter__(self) -> Any:
        return iter(self.rows)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return torch.equal(a.inputs, b.inputs) and torch.equal(a.outputs, b.outputs)


@settings(max_examples=20, deadline=None)
@given(**SIZES, form=st.sampled_from(["array", "rows", "iterable"]), epoch=st.integers(0, 2))
def test_each_included_token_comes_once_in_a_pass(
    n_sequences: int, context: int, form: str, epoch: int, **sizes: int
) -> None:
    tokens = unique(n_sequences, context)
    data = stream(as_source(tokens, form), **sizes)
    batches = list(data.epoch(epoch))
    assert all(batch.n_tokens == data.batch_size for batch in batches[:-1])
    assert sorted(token for batch in batches for token in ids(batch)) == tokens.flatten().tolist()
    if form == "array":
        assert data.n_tokens == tokens.numel()
        assert data.n_batches == len(batches)


@settings(max_examples=20, deadline=None)
@given(**SIZES, form=st.sampled_from(["array", "rows", "iterable"]), stop=st.integers(0, 30), repeat=st.booleans())
def test_batches_after_a_state_are_bitwise_equal(
    n_sequences: int, context: int, form: str, stop: int, repeat: bool, **sizes: int
) -> None:
    source = as_source(unique(n_sequences, context), form)
    model = Counted()
    whole = stream(source, where=site(model), **sizes).batches(repeat=repeat)
    for _ in islice(whole, stop):
        pass
    state = whole.state_dict()
    resumed = stream(source, where=site(model), **sizes).batches(repeat=repeat)
    resumed.load_state_dict(state)
    expected, got = list(islice(whole, 12)), list(islice(resumed, 12))
    assert len(expected) == len(got)
    assert all(map(same, expected, got))
    assert resumed.state_dict() == whole.state_dict()


@settings(max_examples=20, deadline=None)
@given(**SIZES, stop=st.integers(0, 12))
def test_a_stream_resumes_from_its_own_state(n_sequences: int, context: int, stop: int, **sizes: int) -> None:
    tokens, model = unique(n_sequences, context), Counted()
    first = stream(tokens, where=site(model), **sizes)
    batches = list(first)
    for _ in islice(first, stop):
        pass
    second = stream(tokens, where=site(model), **sizes)
    second.load_state_dict(first.state_dict())
    assert all(map(same, batches[stop:], list(second)))
    assert all(map(same, batches, list(second)))


@settings(max_examples=20, deadline=None)
@given(**SIZES)
def test_capture_stops_when_the_buffer_is_full(n_sequences: int, context: int, **sizes: int) -> None:
    model = Counted()
    data = stream(unique(n_sequences, context), where=site(model), **sizes)
    model.n_positions = n_tokens_yielded = 0
    for batch in data:
        # What has been harvested and isn't served yet lies in the buffer or, from the one before it, in this batch.
        assert model.n_positions - n_tokens_yielded <= data.buffer_size + data.batch_size
        n_tokens_yielded += batch.n_tokens
    assert model.n_positions == n_tokens_yielded


@settings(max_examples=20, deadline=None)
@given(
    **SIZES, form=st.sampled_from(["array", "rows", "iterable"]), n_batches=st.integers(1, 8), stop=st.integers(0, 9)
)
def test_capture_stops_at_the_expected_number_of_tokens(
    n_sequences: int, context: int, form: str, n_batches: int, stop: int, **sizes: int
) -> None:
    model, source = Counted(), as_source(unique(n_sequences, context), form)

    def expecting() -> Batches:
        batches = stream(source, where=site(model), **sizes).batches()
        batches.expect((n_batches - 1) * sizes["batch_size"] + 1)
        return batches

    batches = expecting()
    model.n_positions = 0
    whole = list(islice(batches, n_batches))
    n_tokens_yielded = sum(batch.n_tokens for batch in whole)
    n_whole_passes = n_tokens_yielded // (n_sequences * context)
    spare = sizes["model_batch_size"] * context
    assert model.n_positions <= n_tokens_yielded + spare or n_whole_passes
    assert max(torch.bincount(torch.tensor([token for batch in whole for token in ids(batch)]))) <= n_whole_passes + 1
    # The same again, stopped anywhere and gone on with, beyond what was expected too.
    first, again = expecting(), stream(source, where=site(model), **sizes).batches()
    for _ in islice(first, stop):
        pass
    again.load_state_dict(first.state_dict())
    n_left = max(n_batches - stop, 0)
    got = list(islice(again, n_left + 3))
    assert all(map(same, whole[stop:], got))
    assert all(map(same, islice(first, n_left + 3), got))


def test_a_short_run_captures_only_the_tokens_it_trains_on() -> None:
    model = Counted()
    data = ActivationStream(site(model), unique(200, 16), batch_size=64, model_batch_size=2)
    coder = sd.SparseAutoencoder(3, 8, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    model.n_positions = 0
    sd.fit(coder, data, n_tokens=500, progress=False)
    assert model.n_positions == 512
    sd.analysis.firing_frequencies(coder, data, n_tokens=100)
    assert model.n_positions == 512 + 128


@settings(max_examples=20, deadline=None)
@given(**SIZES, exclude_first=st.integers(0, 3))
def test_sites_get_the_same_tokens_in_the_same_order(
    n_sequences: int, context: int, exclude_first: int, **sizes: int
) -> None:
    model, tokens = Counted(), unique(n_sequences, context) + 1
    sites = {"a": site(model, exclude_first=exclude_first), "b": site(model, "second", exclude_tokens=[1, 4])}
    kept = sorted(set(tokens[:, exclude_first:].flatten().tolist()) - {1, 4})
    data = stream(tokens, where=sites, **sizes)
    assert data.names == ("a", "b")
    if not kept:
        with pytest.raises(ValueError, match="at least one token that isn't excluded"):
            next(iter(data))
        return
    served = []
    for batch in data:
        assert batch.sites == ("a", "b")
        served += ids(batch.site("a"))
        assert torch.equal(batch.site("a").outputs, batch.site("b").inputs)
        assert torch.allclose(model.second(batch.site("b").inputs), batch.site("b").outputs, atol=1e-4)
    assert sorted(served) == kept
    assert data.n_tokens == len(kept)


def test_the_same_seed_gives_the_same_batches_and_another_gives_others() -> None:
    model, tokens = Counted(), unique(30, 8)

    def batches(seed: int) -> list[Any]:
        return list(ActivationStream(site(model), tokens, batch_size=16, buffer_size=64, seed=seed))

    assert all(map(same, batches(0), batches(0)))
    assert not any(map(same, batches(0), batches(1)))


def test_each_pass_has_a_shuffle_of_its_own() -> None:
    for buffer_size in (64, 512):
        data = ActivationStream(site(), unique(30, 8), batch_size=16, buffer_size=buffer_size)
        assert not any(map(same, data.epoch(0), data.epoch(1)))
        assert all(map(same, data, data.epoch(0)))


def test_batches_straddle_passes_so_that_all_have_one_size() -> None:
    batches = ActivationStream(site(), unique(5, 4), batch_size=8, buffer_size=8).batches()
    served = [batches.next_batch() for _ in range(10)]
    assert [batch.n_tokens for batch in served] == [8] * 10
    counts = torch.bincount(torch.tensor([token for batch in served for token in ids(batch)]))
    assert counts.tolist() == [4] * 20
    assert batches.n_tokens_yielded == 80


def test_a_pass_smaller_than_a_batch_is_a_batch() -> None:
    batches = ActivationStream(site(), unique(2, 3), batch_size=8).batches()
    for _ in range(3):
        assert sorted(ids(batches.next_batch())) == list(range(6))


def test_data_within_the_buffer_are_captured_once() -> None:
    model = Counted()
    data = ActivationStream(site(model), unique(10, 8), batch_size=20)
    model.n_positions = 0
    assert len(list(islice(data.batches(), 12))) == 12
    assert model.n_positions == 80
    assert len(list(data)) == 4
    assert model.n_positions == 160


def test_the_buffer_has_the_stated_size() -> None:
    data = ActivationStream(site(), unique(100, 8), batch_size=16, buffer_size=80)
    # Reads 3 and writes 3 numbers of 4 bytes.
    assert (data.bytes_per_token, data.buffer_bytes) == (24, 80 * 24)
    batches = data.batches()
    batches.next_batch()
    columns = batches._source._buffer.distinct()  # type: ignore[attr-defined]
    assert sum(column.numel() * column.element_size() for column in columns.values()) == data.buffer_bytes + 80 * 16
    assert "80 (0.0 MiB)" in repr(data)
    assert ActivationStream(site(), unique(100, 8), batch_size=2).buffer_bytes == 800 * 24


def test_a_yielded_batch_does_not_change() -> None:
    data = ActivationStream(site(), unique(40, 4), batch_size=8, buffer_size=16)
    batches = list(data)
    assert sorted(token for batch in batches for token in ids(batch)) == list(range(160))


def test_positions_of_several_sequences_are_mixed() -> None:
    data = ActivationStream(site(), unique(64, 16), batch_size=32, buffer_size=256, model_batch_size=4)
    n_sequences = [len({token // 16 for token in ids(batch)}) for batch in data]
    # 32 draws from 16 sequences of the buffer: 13.9 different ones are expected.
    assert sum(n_sequences) / len(n_sequences) > 12


def test_padding_is_left_out() -> None:
    tokens, mask = unique(6, 4), torch.ones(6, 4, dtype=torch.int64)
    mask[2, 1:] = 0
    mask[4] = 0
    data = ActivationStream(site(), {"input_ids": tokens, "attention_mask": mask}, batch_size=5)
    expected = tokens[mask.bool()].tolist()
    assert data.n_tokens == len(expected)
    assert sorted(token for batch in data for token in ids(batch)) == expected


def test_padding_is_left_out_for_a_model_that_knows_nothing_of_masks() -> None:
    model = nn.Sequential(nn.Embedding(50, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight[:, 0] = torch.arange(50)
    rows = [[1, 2, 3], [4, 5], [6], [7, 8, 9]]
    data = ActivationStream(site(model, "1"), rows, batch_size=4)
    assert sorted(token for batch in data for token in ids(batch)) == list(range(1, 10))


def test_neurons_are_captured_on_request() -> None:
    mlp = nn.Sequential(nn.Linear(3, 12), nn.GELU(), nn.Linear(12, 3))
    model = nn.Sequential(nn.Embedding(20, 3), mlp, nn.Linear(3, 20))
    here = site(model, "1")
    batch = next(iter(ActivationStream(here, torch.arange(20).view(4, 5), batch_size=10, neurons=True)))
    assert isinstance(batch, Activations)
    assert batch.neurons is not None
    assert torch.allclose(batch.neurons, mlp[1](mlp[0](batch.inputs)), atol=1e-6)
    both = ActivationStream({"a": here, "b": site(model, "2")}, torch.arange(20).view(4, 5), neurons=["a"])
    first = next(iter(both))
    assert list(first) == ["a.inputs", "a.outputs", "a.neurons", "b.inputs", "b.outputs"]


def test_a_point_that_is_read_and_written_is_stored_once() -> None:
    model = Counted()
    from sparsedict.sites import Site

    data = ActivationStream(Site(model, reads="first:out", writes="first:out"), unique(4, 4), batch_size=4)
    batch = next(iter(data))
    assert isinstance(batch, Activations)
    assert batch.inputs is batch.outputs
    assert data.bytes_per_token == 12
    assert data.batches().resolve("outputs") == data.batches().resolve("inputs")


def test_dtype_and_device_of_the_batches() -> None:
    data = ActivationStream(site(), unique(4, 4), batch_size=4, dtype=torch.bfloat16, device="cpu")
    batch = next(iter(data))
    assert isinstance(batch, Activations)
    assert batch.inputs.dtype == batch.outputs.dtype == torch.bfloat16
    assert data.bytes_per_token == 12


def test_dropout_is_off_during_capture_and_the_mode_is_restored() -> None:
    model = nn.Sequential(nn.Embedding(50, 4), nn.Dropout(0.5), nn.Linear(4, 4))
    model[2].eval()
    data = ActivationStream(site(model, "2"), torch.arange(50).view(10, 5), batch_size=50)
    assert same(next(iter(data)), next(iter(data)))
    assert [module.training for module in model] == [True, True, False]


@pytest.mark.parametrize("index", [(3, 0), (7, 1)])
def test_activations_that_are_not_finite_raise_with_the_name_of_the_site(index: tuple[int, int]) -> None:
    model = Counted(64)
    with torch.no_grad():
        model.embed.weight[index] = float("nan")
    data = ActivationStream({"early": site(model)}, unique(8, 8), batch_size=4, buffer_size=64)
    with pytest.raises(ValueError, match=r"'first'.*'early'.*1 NaN or infinite entries of \d+ in its inputs"):
        list(data)


def test_values_beyond_the_range_of_the_stored_type_raise() -> None:
    data = ActivationStream(site(Counted(80_000)), torch.tensor([[70_000]]), dtype=torch.float16)
    with pytest.raises(ValueError, match=r"inputs, stored as torch\.float16"):
        list(data)


def test_padding_may_hold_anything() -> None:
    model = Counted(64)
    with torch.no_grad():
        model.embed.weight[0] = float("nan")
    data = ActivationStream(site(model, exclude_tokens=[0]), unique(8, 8), batch_size=4)
    assert sum(batch.n_tokens for batch in data) == 63


def test_an_error_is_raised_again_at_the_next_call() -> None:
    batches = ActivationStream(site(Counted(8)), torch.tensor([[1, 9]]), batch_size=1).batches()
    for _ in range(2):
        with pytest.raises(ValueError, match="from 0 to 7, the vocabulary of the Counted, got ids from 1 to 9"):
            batches.next_batch()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 9, "buffer_size": 8}, "`batch_size` must not exceed `buffer_size`, got 9 and 8"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"model_batch_size": 0}, "`model_batch_size` must be at least 1"),
        ({"dtype": torch.int32}, "`dtype` must be a floating-point type"),
        ({"neurons": ["x"]}, "`neurons` must be names of the sites"),
        ({"context": 3}, "`context` must be omitted"),
        ({"sites": {}}, "at least one site"),
    ],
)
def test_bad_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    sites = arguments.pop("sites", None)
    with pytest.raises(ValueError, match=message):
        ActivationStream(site() if sites is None else sites, unique(2, 4), **arguments)


def test_a_sequence_longer_than_the_buffer_raises() -> None:
    with pytest.raises(
        ValueError, match="`buffer_size` must be at least the length of a sequence, got 4 tokens for a sequence"
    ):
        next(iter(ActivationStream(site(), unique(2, 8), batch_size=4, buffer_size=4)))


def test_sites_of_two_models_see_the_same_tokens() -> None:
    base = Counted()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.first.weight += 1.0
    data = ActivationStream({"base": site(base), "tuned": site(tuned)}, unique(6, 4), batch_size=5)
    for batch in data:
        assert torch.equal(batch["base.inputs"], batch["tuned.inputs"])
        assert torch.allclose(base.first(batch["base.inputs"]), batch["base.outputs"], atol=1e-4)
        assert torch.allclose(tuned.first(batch["tuned.inputs"]), batch["tuned.outputs"], atol=1e-4)
    assert (base.n_positions, tuned.n_positions) == (24, 24)


def test_ids_and_positions_are_served_with_their_rows() -> None:
    data = ActivationStream(site(exclude_first=1), unique(6, 4), batch_size=5)
    seen = []
    for batch in data:
        assert batch.tokens is not None
        assert batch.positions is not None
        assert batch.tokens.tolist() == ids(batch)
        assert batch.positions.tolist() == [token % 4 for token in ids(batch)]
        seen += batch.tokens.tolist()
    assert sorted(seen) == [token for token in range(24) if token % 4]


@pytest.mark.as_installed
def test_a_model_in_place_of_a_site_raises() -> None:
    with pytest.raises(TypeError, match=r"got Counted for ''. Write `Site\(model, path\)`"):
        ActivationStream(Counted(), unique(2, 4))  # type: ignore[arg-type]


def test_a_stream_that_keeps_nothing_raises() -> None:
    data = ActivationStream(site(exclude_first=4), unique(2, 4))
    assert data.n_tokens == 0
    for repeat in (False, True):
        with pytest.raises(
            ValueError, match="at least one token that isn't excluded, got none from 8 tokens in 2 sequences of 4"
        ):
            data.batches(repeat=repeat).next_batch()


def test_a_state_of_another_batch_size_raises() -> None:
    state = ActivationStream(site(), unique(2, 4), batch_size=4).state_dict()
    with pytest.raises(ValueError, match="must have the same batch_size as these batches, 2, got 4"):
        ActivationStream(site(), unique(2, 4), batch_size=2).load_state_dict(state)
    with pytest.raises(ValueError, match="without the keys batch_size"):
        ActivationStream(site(), unique(2, 4)).load_state_dict({"epoch": 0})


def test_description_shows_that_it_repeats() -> None:
    batches = ActivationStream(site(), unique(2, 4), batch_size=4).batches()
    assert isinstance(batches, Batches)
    assert "repeated" in batches.description
    assert "one pass" in ActivationStream(site(), unique(2, 4)).epoch(1).description


def test_sites_in_a_decoder_of_an_encoder_decoder_model_raise() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 2, "num_heads": 2}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(decoder_start_token_id=0, **sizes)).eval()
    tokens = torch.randint(1, 50, (4, 8))
    with pytest.raises(
        ValueError, match=r"must not be in the decoder of an encoder-decoder model.*`site.capture\(batch\)`"
    ):
        sd.ActivationStream(sd.Site(model, "decoder.block.1.layer.2.DenseReluDense"), tokens)
    stream = sd.ActivationStream(sd.Site(model, "encoder.block.1.layer.1.DenseReluDense"), tokens, batch_size=8)
    assert next(iter(stream)).n_tokens == 8


@pytest.mark.parametrize(("batch_size", "sizes"), [(8, {8}), (10, {8}), (3, {4}), (100, {28})])
def test_whole_sequences_are_served_in_reading_order(batch_size: int, sizes: set[int]) -> None:
    data = ActivationStream(site(), unique(7, 4), batch_size=batch_size, mix="sequences")
    seen, orders = [], []
    for batch in data:
        starts = ids(batch)[::4]
        assert ids(batch) == [start + offset for start in starts for offset in range(4)]
        seen += ids(batch)
        orders += starts
    assert sorted(seen) == list(range(28))
    assert orders != sorted(orders)
    assert {batch.n_tokens for batch in list(data)[:-1]} <= sizes


def test_sequences_with_positions_left_out_stay_together() -> None:
    data = ActivationStream(site(exclude_tokens=(1, 2, 3, 6)), unique(3, 4), batch_size=4, mix="sequences", seed=1)
    sequences = [[0], [4, 5, 7], [8, 9, 10, 11]]
    for batch in data:
        left = ids(batch)
        while left:
            own = next(sequence for sequence in sequences if sequence[0] == left[0])
            assert left[: len(own)] == own
            left = left[len(own) :]
    assert sorted(token for batch in data for token in ids(batch)) == [0, 4, 5, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("n_before", range(6))
def test_a_stream_of_sequences_can_be_stopped_anywhere(n_before: int) -> None:
    data = ActivationStream(site(), unique(9, 4), batch_size=10, buffer_size=16, mix="sequences")
    batches, again = data.batches(), data.batches()
    for _ in range(n_before):
        batches.next_batch()
    again.load_state_dict(batches.state_dict())
    for _ in range(4):
        assert ids(again.next_batch()) == ids(batches.next_batch())


def test_a_stream_of_whole_sequences_is_not_saved(tmp_path: Path) -> None:
    data = ActivationStream(site(), unique(9, 4), batch_size=10, mix="sequences")
    assert data.n_batches is None
    with pytest.raises(ValueError, match="`mix` must be 'tokens' for a stream that is saved, got 'sequences'"):
        data.save_to(tmp_path / "store", progress=False)
    assert not (tmp_path / "store").exists()


def test_an_id_outside_of_the_vocabulary_of_one_of_two_models_names_its_site_and_the_row() -> None:
    """The models of a crosscoder may have vocabularies of different sizes."""
    sites = sd.Sites({"base": site(Counted(64)), "tuned": site(Counted(32))})
    ids = torch.ones(5, 4, dtype=torch.long)
    ids[3, 1] = 40
    message = r"from 0 to 31, the vocabulary of the Counted at site 'tuned', got ids from 1 to 40; .* 40 in row 3\."
    with pytest.raises(ValueError, match=message):
        list(ActivationStream(sites, ids, batch_size=4, model_batch_size=2))
    with pytest.raises(ValueError, match=message):
        sites.capture(ids)
    width = sites["base"].d_out
    crosscoder = sd.Crosscoder(dict.fromkeys(sites, width), 8, activation=sd.TopK(2), decoder_norm=sd.Free())
    with pytest.raises(ValueError, match=message):
        sd.evaluate(sites, crosscoder, ids, batch_size=2)
