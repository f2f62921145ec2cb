from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

import sparsedict as sd
from sparsedict.batches import Activations
from sparsedict.data import (
    ActivationStore,
    ActivationStream,
    _shards,
    _source,
    _store_description,
    _store_writer,
    _stored_rows,
    _stored_sites,
)
from sparsedict.data._columns import columns_of, quantised
from sparsedict.data._shards import BLOCK
from sparsedict.storage import StorageError

from ._models import Counted, ids, site, unique

N_TOKENS = 4096
BYTES_PER_TOKEN = 24
SHARD_BYTES = 4 * BLOCK * BYTES_PER_TOKEN
COLUMNS = columns_of((("inputs", 3), ("outputs", 3)), torch.float32)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_store_description, "SHARD_BYTES", SHARD_BYTES)


def stream(model: Counted | None = None, **options: object) -> ActivationStream:
    arguments = {"batch_size": 64, "seed": 3, "buffer_size": 512, "model_batch_size": 4, **options}
    return ActivationStream(site(model), unique(N_TOKENS // 32, 32), **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("written") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_store_description, "SHARD_BYTES", SHARD_BYTES)
        stream().save_to(folder, progress=False)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the store, and the seed of its model."""
    torch.manual_seed(0)
    stream()  # draws from the generator as writing the store does
    shutil.copytree(written, tmp_path / "store")
    return tmp_path / "store"


def served(store: ActivationStore, n: int | None = None, **options: object) -> list[int]:
    return [token for batch in islice(store.batches(**options), n) for token in ids(batch)]  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_store_holds_the_rows_of_the_stream_in_order(folder: Path) -> None:
    torch.manual_seed(0)
    wanted = [token for batch in stream() for token in ids(batch)]
    assert names(folder) == [*(f"activations-00000{i}.safetensors" for i in range(4)), "activations.json"]
    stored: list[int] = []
    for name in names(folder)[:4]:
        with safe_open(folder / name, framework="np") as file:
            stored += file.get_tensor("inputs")[:, 0].round().astype(int).tolist()
            assert file.get_tensor("outputs").shape == (4 * BLOCK, 3)
    assert stored == wanted


def test_each_pass_yields_every_token_once_in_its_own_order(folder: Path) -> None:
    store = ActivationStore(folder, batch_size=100, buffer_size=700, seed=1)
    assert (store.n_tokens, store.n_batches, store.d_in, store.d_out) == (N_TOKENS, 41, 3, 3)
    passes = [[t for batch in store.epoch(number) for t in ids(batch)] for number in range(3)]
    assert all(sorted(one) == list(range(N_TOKENS)) for one in passes)
    assert passes[0] != passes[1] != passes[2] != list(range(N_TOKENS))
    assert passes[0] == [t for batch in store for t in ids(batch)]
    assert passes[0] != [t for b in ActivationStore(folder, batch_size=100, buffer_size=700, seed=2) for t in ids(b)]


def test_inputs_and_outputs_of_a_row_belong_together(folder: Path) -> None:
    torch.manual_seed(0)
    by_token = {
        t: (i, o) for batch in stream() for t, i, o in zip(ids(batch), batch.inputs, batch.outputs, strict=True)
    }  # type: ignore[union-attr]
    for batch in ActivationStore(folder, batch_size=128, buffer_size=600):
        assert isinstance(batch, Activations)
        for token, inputs, outputs in zip(ids(batch), batch.inputs, batch.outputs, strict=True):
            assert torch.equal(inputs, by_token[token][0])
            assert torch.equal(outputs, by_token[token][1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(st.integers(1, 60), st.sampled_from([300, 1024, 5000]), st.sampled_from([64, 250]))
def test_a_state_resumes_at_its_position(folder: Path, n_before: int, buffer_size: int, batch_size: int) -> None:
    store = ActivationStore(folder, batch_size=batch_size, buffer_size=buffer_size)
    batches = store.batches()
    for _ in range(n_before):
        batches.next_batch()
    state = json.loads(json.dumps(batches.state_dict()))
    wanted = [ids(batches.next_batch()) for _ in range(12)]
    again = ActivationStore(folder, batch_size=batch_size, buffer_size=buffer_size).batches()
    again.load_state_dict(state)
    assert [ids(again.next_batch()) for _ in range(12)] == wanted


def test_the_store_itself_can_be_stopped_and_taken_up(folder: Path) -> None:
    store = ActivationStore(folder, batch_size=64, buffer_size=500)
    first = iter(store)
    for _ in range(5):
        next(first)
    state = store.state_dict()
    wanted = [ids(batch) for batch in first]
    again = ActivationStore(folder, batch_size=64, buffer_size=500)
    again.load_state_dict(state)
    assert [ids(batch) for batch in again] == wanted
    with pytest.raises(ValueError, match="must have the same batch_size as these batches, 32, got 64"):
        ActivationStore(folder, batch_size=32).load_state_dict(state)


def test_tokens_mix_as_documented(folder: Path) -> None:
    torch.manual_seed(0)
    blocks = {token: row // BLOCK for row, token in enumerate(t for batch in stream() for t in ids(batch))}
    n_together = n_pairs = 0
    for number in range(20):
        for batch in ActivationStore(folder, batch_size=64, buffer_size=1024).epoch(number):
            of = torch.tensor([blocks[token] for token in ids(batch)])
            n_together += int((of[:, None] == of).sum()) - len(of)
            n_pairs += len(of) * (len(of) - 1)
    assert n_together / n_pairs == pytest.approx((BLOCK - 1) / (1024 - 1), rel=0.05)


@pytest.mark.parametrize("buffer_size", [1024, N_TOKENS])
def test_memory_is_bounded_by_the_buffer(folder: Path, buffer_size: int) -> None:
    rows = _stored_rows.StoredRows(ActivationStore(folder)._shards, 0, buffer_size, torch.float32, None)
    assert max(len(chunk) for chunk in rows.chunks(0, (0, 0))) <= buffer_size
    assert rows._decoder is not None
    assert sum(tensor.numel() for tensor in rows._decoder.tensors.values()) <= (3 + 3 + 2) * buffer_size


def test_fit_trains_on_a_store_as_on_a_stream(folder: Path) -> None:
    store = ActivationStore(folder, batch_size=256, seed=5, buffer_size=1024)
    coder = sd.SparseDistiller(3, 3, 8, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
    history = sd.fit(coder, store, n_tokens=2 * N_TOKENS, progress=False, lr=1e-2)
    assert history.n_tokens == 2 * N_TOKENS
    assert "4,096 stored tokens" in coder.trained_on["data"]
    for name, value in (("batch_size", 64), ("seed", 1)):
        with pytest.raises(ValueError, match=f"`{name}` must be omitted for data with its own"):
            sd.fit(coder, store, n_tokens=1, progress=False, **{name: value})
    with pytest.raises(ValueError, match=r"`dictionary\.d_in` must equal the width of the data's inputs, 3, got 4"):
        sd.fit(
            sd.SparseDistiller(4, 3, 8, activation=sd.ReLU(), decoder_norm=sd.Free()), store, n_tokens=1, progress=False
        )


def test_several_sites_are_stored_once_and_read_by_name(tmp_path: Path) -> None:
    model = Counted()
    sites = {"a": site(model), "b": sd.Site(model, reads="first:in", writes="first:in"), "c": site(model, "second")}
    both = ActivationStream(sites, unique(16, 32), batch_size=64, buffer_size=256)
    store = both.save_to(tmp_path, progress=False)
    assert store.names == ("a", "b", "c")
    assert store.widths == {"a": (3, 3), "b": (3, 3), "c": (3, 2)}
    assert store.sites["a"]["site"] == "first"
    with pytest.raises(ValueError, match="`d_in` needs a store with a single site"):
        _ = store.d_in
    with safe_open(tmp_path / "activations-000000.safetensors", framework="np") as file:
        assert sorted(file.keys()) == ["a/inputs", "a/outputs", "c/outputs", "checksums", "positions", "tokens"]
    batch = next(iter(store))
    assert torch.equal(batch.site("b").outputs, batch.site("a").inputs)
    assert torch.equal(batch.site("c").inputs, batch.site("a").outputs)
    torch.testing.assert_close(model.second(batch.site("c").inputs), batch.site("c").outputs)
    assert store.batches().resolve("outputs", "b") == store.batches().resolve("inputs", "b")
    assert store.batches().metadata("c") == {"model": "Counted", "model_class": "Counted", "site": "second"}


def test_neurons_are_stored_if_the_stream_has_them(tmp_path: Path) -> None:
    mlp = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    model = torch.nn.Sequential(torch.nn.Embedding(10, 4), mlp)
    made = ActivationStream(sd.Site(model, "1"), torch.randint(10, (8, 16)), batch_size=32, neurons=True)
    batch = next(iter(made.save_to(tmp_path, progress=False)))
    assert isinstance(batch, Activations)
    assert batch.neurons is not None
    torch.testing.assert_close(mlp[2](batch.neurons), batch.outputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_types_are_kept_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Counted(n_vocabulary=200)
    made = ActivationStream(site(model), torch.randint(200, (40, 16)), batch_size=64)
    wanted = torch.cat([batch.outputs for batch in made]).to(dtype)  # type: ignore[union-attr]
    store = made.save_to(tmp_path, dtype=dtype, progress=False)
    assert store.dtype == dtype
    found = torch.cat([batch.outputs for batch in store])  # type: ignore[union-attr]
    assert found.dtype == dtype
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, wanted.tolist()))
    converted = next(iter(ActivationStore(tmp_path, batch_size=10, dtype=torch.float64)))
    assert converted.inputs.dtype == torch.float64  # type: ignore[union-attr]


def test_overflow_raises(tmp_path: Path) -> None:
    model = Counted(n_vocabulary=70_000)
    made = ActivationStream(site(model), torch.arange(69_000, 69_512).view(16, 32), batch_size=64)
    with pytest.raises(ValueError, match=r"'inputs' overflows float16. Use torch\.bfloat16"):
        made.save_to(tmp_path, dtype=torch.float16, progress=False)


def stopped_after(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the writer fail at the shard after the first ``n``."""
    write, calls = _store_writer.write_shard, []

    def failing(*arguments: object) -> str:
        calls.append(arguments)
        if len(calls) > n:
            raise OSError(28, "No space left on device")
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(_store_writer, "write_shard", failing)


@pytest.mark.parametrize("n_written", [0, 1, 3])
def test_a_stopped_writer_resumes_and_writes_the_same_bytes(
    folder: Path, tmp_path: Path, n_written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = Counted()
    with monkeypatch.context() as patched:
        stopped_after(n_written, patched)
        with pytest.raises(OSError, match="No space left"):
            stream(model).save_to(tmp_path / "again", progress=False)
    with pytest.raises(StorageError, match=r"was interrupted\. Call `save_to` again"):
        ActivationStore(tmp_path / "again")
    written = {name: (tmp_path / "again" / name).stat().st_mtime_ns for name in names(tmp_path / "again")[:-1]}
    assert len(written) == n_written
    model.n_positions = 0
    stream(model).save_to(tmp_path / "again", progress=False)
    assert names(tmp_path / "again") == names(folder)
    for name in names(folder):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    for name, moment in written.items():
        assert (tmp_path / "again" / name).stat().st_mtime_ns == moment
    assert model.n_positions <= N_TOKENS - n_written * 4 * BLOCK + 512 + 128


@pytest.mark.parametrize("damaged", [[0], [1], [3], [0, 2]])
def test_only_damaged_shards_are_captured_again(folder: Path, damaged: list[int]) -> None:
    torch.manual_seed(0)
    model = Counted()
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    times = {name: (folder / name).stat().st_mtime_ns for name in names(folder)}
    broken = [f"activations-{index:06d}.safetensors" for index in damaged]
    for name in broken:
        (folder / name).write_bytes(before[name][:-1])
    model.n_positions = 0
    stream(model).save_to(folder, progress=False)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    changed = {name for name in names(folder) if (folder / name).stat().st_mtime_ns != times[name]}
    assert changed == {*broken, "activations.json"}
    # Besides each shard: what of the stream's buffer lies before it and behind it, and a first pass to compare.
    assert model.n_positions <= len(damaged) * (4 * BLOCK + 2 * 512) + 128


def test_a_complete_folder_is_left_as_it_is(folder: Path) -> None:
    torch.manual_seed(0)
    before = {name: (folder / name).stat().st_mtime_ns for name in names(folder)}
    stream().save_to(folder, progress=False)
    assert {name: (folder / name).stat().st_mtime_ns for name in names(folder)} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "has `seed` 3 instead of 4"),
        ({"buffer_size": 640}, "has `buffer_size` 512 instead of 640"),
        ({"model_batch_size": 8}, "has `model_batch_size` 4 instead of 8"),
        ({"dtype": torch.bfloat16}, r"has `dtype` torch.float32 instead of torch.bfloat16"),
    ],
)
def test_other_activations_are_not_mixed_in(folder: Path, change: dict[str, object], message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        stream(**change).save_to(folder, progress=False)


def test_another_model_and_other_tokens_are_noticed(folder: Path) -> None:
    torch.manual_seed(1)
    with pytest.raises(ValueError, match="has `root_mean_squares`"):
        stream().save_to(folder, progress=False)
    torch.manual_seed(0)
    other = ActivationStream(
        site(Counted()), unique(N_TOKENS // 32, 32).flip(0), batch_size=64, seed=3, buffer_size=512, model_batch_size=4
    )
    with pytest.raises(ValueError, match="has `first_tokens`"):
        other.save_to(folder, progress=False)


def test_a_given_number_of_tokens_is_stored(tmp_path: Path) -> None:
    store = stream().save_to(tmp_path / "some", n_tokens=1500, progress=False)
    assert store.n_tokens == 1500
    assert len(set(served(store, repeat=False))) == 1500
    rows = [list(range(low, low + 32)) for low in range(0, 640, 32)]
    unknown = ActivationStream(site(), (row for row in rows), batch_size=64)
    with pytest.raises(ValueError, match="`n_tokens` must be an integer if the number of tokens of a pass is unknown"):
        unknown.save_to(tmp_path / "unknown")
    short = unknown.save_to(tmp_path / "unknown", n_tokens=10_000, progress=False)
    assert (short.n_tokens, len(names(tmp_path / "unknown"))) == (640, 2)


def test_the_size_is_reported_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream().save_to(tmp_path / "told")
    assert "4,096 tokens, 0.000 GiB in 4 shards; 0 tokens are there already" in capsys.readouterr().out
    usage = shutil.disk_usage(tmp_path)._replace(free=N_TOKENS * BYTES_PER_TOKEN)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        OSError, match=r"The store needs 0\.00 GiB more, but the disk has only 0\.00 GiB free. Store fewer"
    ) as e:
        stream().save_to(tmp_path / "full")
    assert e.value.errno == 28
    assert not (tmp_path / "full").exists()


def test_a_damaged_block_is_named_at_its_first_read(folder: Path) -> None:
    file = folder / "activations-000002.safetensors"
    header = _shards.read_header(folder, file.name, COLUMNS)
    content = bytearray(file.read_bytes())
    content[header.offsets[1] + 12 * 600 + 5] ^= 1
    file.write_bytes(content)
    store = ActivationStore(folder, batch_size=64, buffer_size=512)
    for read in (lambda: served(store, repeat=False), store.verify):
        with pytest.raises(
            StorageError, match=r"activations-000002\.safetensors is damaged: the content of rows 512 to 767"
        ):
            read()
    assert len(served(ActivationStore(folder, verify=False), repeat=False)) == N_TOKENS
    file.unlink()
    with pytest.raises(StorageError, match=r"lacks the shard activations-000002\.safetensors"):
        ActivationStore(folder)
    torch.manual_seed(0)
    stream().save_to(folder, progress=False).verify()


def test_damaged_checksums_are_noticed(folder: Path) -> None:
    file = folder / "activations-000001.safetensors"
    header = _shards.read_header(folder, file.name, COLUMNS)
    content = bytearray(file.read_bytes())
    content[header.offsets[-1]] ^= 1
    file.write_bytes(content)
    with pytest.raises(StorageError, match="its checksums differ from the written ones"):
        ActivationStore(folder).verify()


def test_shards_of_another_store_raise(folder: Path) -> None:
    shutil.copy(folder / "activations-000001.safetensors", folder / "activations-000002.safetensors")
    with pytest.raises(StorageError, match=r"000002\.safetensors is a shard of another store"):
        ActivationStore(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(st.data())
def test_any_damage_to_descriptions_raises_or_is_harmless(folder: Path, data: st.DataObject) -> None:
    damaged = folder.parent / "damaged"
    shutil.copytree(folder, damaged, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(["activations.json", "activations-000001.safetensors"]))
    content = bytearray((folder / name).read_bytes())
    place = data.draw(st.integers(0, min(len(content), 2000) - 1))
    what = data.draw(st.sampled_from(["cut", "flip", "insert"]))
    if what == "cut":
        del content[place:]
    elif what == "flip":
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        content[place:place] = data.draw(st.binary(min_size=1, max_size=9))
    (damaged / name).write_bytes(content)
    found = outcome(damaged)
    assert "damaged" in found or found == str(N_TOKENS)


def outcome(folder: Path) -> str:
    try:
        return str(len(served(ActivationStore(folder, batch_size=512), repeat=False)))
    except StorageError as error:
        return str(error)


@pytest.mark.as_installed
def test_a_folder_without_a_store_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"`folder` must contain stored activations, but .*nowhere.*doesn't exist"
    ):
        ActivationStore(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="`batch_size` must not exceed `buffer_size`, got 64 and 32"):
        ActivationStore(folder, batch_size=64, buffer_size=32)
    with pytest.raises(ValueError, match="`dtype` must be a floating-point type"):
        ActivationStore(folder, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"`dtype` must be one of torch.float32, .*, got torch.float64"):
        stream().save_to(tmp_path / "double", dtype=torch.float64)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"`folder` must be a folder, but .*file is a file"):
        stream().save_to(tmp_path / "file", progress=False)
    (folder / "activations-000000.safetensors").rename(tmp_path / "moved")
    os.symlink(tmp_path / "moved", folder / "activations-000000.safetensors")
    with pytest.raises(StorageError, match="must not link out of its folder"):
        ActivationStore(folder)


def test_the_files_need_neither_torch_nor_this_library(folder: Path) -> None:
    with safe_open(folder / "activations-000003.safetensors", framework="np") as file:
        inputs = file.get_tensor("inputs")
        sums = file.get_tensor("checksums")
    import zlib

    assert isinstance(inputs, np.ndarray)
    assert zlib.crc32(inputs[BLOCK : 2 * BLOCK].tobytes()) == sums[1, 0]


def test_more_shards_than_may_be_mapped_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stored_rows, "MAX_MAPPED", 2)
    store = ActivationStore(folder, batch_size=64, buffer_size=512)
    assert sorted(served(store, repeat=False)) == list(range(N_TOKENS))
    assert len(store._shards._mapped) == 2


def test_batches_outlive_the_next_chunk(folder: Path) -> None:
    store = ActivationStore(folder, batch_size=256, buffer_size=256)
    kept: list[tuple[Tensor, Tensor]] = [(batch.inputs, batch.inputs.clone()) for batch in store]  # type: ignore[union-attr]
    assert all(torch.equal(batch, copy) for batch, copy in kept)


@pytest.mark.as_installed
def test_a_buffer_beyond_the_machine_s_memory_raises(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ActivationStore(folder, batch_size=10**9)
    assert [batch.n_tokens for batch in store] == [store.n_tokens]  # no more than there is
    monkeypatch.setattr(_source, "_memory", lambda: store.n_bytes - 1)
    with pytest.raises(ValueError, match=r"`batch_size` of 1,000,000,000 must be small enough for the machine's"):
        ActivationStore(folder, batch_size=10**9)
    with pytest.raises(ValueError, match=r"`buffer_size` of 999,999 must be small enough for .* Use fewer tokens\."):
        ActivationStore(folder, batch_size=64, buffer_size=999_999)
    with pytest.raises(ValueError, match="`batch_size` of 8,000 must be small enough for"):
        ActivationStream(site(), iter([[1, 2]]), batch_size=8000)
    assert ActivationStore(folder, batch_size=64, buffer_size=64).buffer_size == 64


@pytest.mark.as_installed
@pytest.mark.parametrize("value", [None, 3, b"folder", ["folder"]])
def test_arguments_that_are_no_paths_raise(value: Any) -> None:
    with pytest.raises(TypeError, match=r"`folder` must be a path, as text or a pathlib\.Path, got"):
        ActivationStore(value)
    with pytest.raises(TypeError, match="`folder` must be a path"):
        ActivationStream(site(), unique(2, 4), batch_size=4).save_to(value)


def test_another_process_that_writes_is_noticed(folder: Path) -> None:
    shard = folder / next(name for name in names(folder) if name.endswith(".safetensors"))
    content = shard.read_bytes()
    shard.unlink()
    code = (
        "import sys, pathlib; from sparsedict.storage import take_lock; "
        "lock = take_lock(pathlib.Path(sys.argv[1]) / '.lock'); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        torch.manual_seed(0)
        with pytest.raises(BlockingIOError, match="`folder` must be written by one process at a time"):
            stream().save_to(folder, progress=False)
        assert not shard.exists()
        other.communicate("")
    torch.manual_seed(0)
    stream().save_to(folder, progress=False)
    assert shard.read_bytes() == content
    assert ".lock" not in names(folder)


def test_the_type_is_that_of_the_site_not_of_the_model_s_first_weights(tmp_path: Path) -> None:
    model = Counted()
    embed = model.embed
    model.embed = embed.double()
    embed.register_forward_hook(lambda _module, _given, found: found.float())
    made = ActivationStream(site(model), unique(8, 32), batch_size=64)
    assert made.save_to(tmp_path, progress=False).dtype == torch.float32


def test_token_ids_and_positions_are_stored(folder: Path) -> None:
    for batch in ActivationStore(folder, batch_size=300):
        assert batch.tokens is not None
        assert batch.positions is not None
        assert batch.tokens.dtype == batch.positions.dtype == torch.int64
        # Tokens are numbered row by row, and the inputs are a function of the token.
        assert batch.tokens.tolist() == ids(batch)
        assert torch.equal(batch.positions, batch.tokens % 32)


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_int8_is_off_by_at_most_half_a_step(scale: float) -> None:
    rows = torch.randn(50, 7) * scale
    rows[3] = 0.0
    steps, scales = quantised(rows)
    assert steps.abs().amax(-1).tolist() == [0 if i == 3 else 127 for i in range(50)]
    error = (steps.double() * scales.double() - rows.double()).abs()
    assert (error <= 0.5001 * scales).all()


def test_a_store_in_int8(tmp_path: Path) -> None:
    torch.manual_seed(0)
    exact = stream().save_to(tmp_path / "exact", progress=False)
    torch.manual_seed(0)
    store = stream().save_to(tmp_path / "int8", dtype=torch.int8, progress=False)
    assert store.dtype == torch.float32
    assert store.bytes_per_token == 6 * 1 + 2 * 4 + 2 * 4
    by_token = {int(t): y for batch in exact for t, y in zip(batch.tokens, batch.outputs, strict=True)}
    for batch in store:
        assert batch.outputs.dtype == torch.float32
        wanted = torch.stack([by_token[int(token)] for token in batch.tokens])
        step = wanted.abs().amax(-1, keepdim=True) / 127
        assert ((batch.outputs - wanted).abs() <= 0.5001 * step).all()
    store.verify()


def test_an_interrupted_store_in_int8_continues_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_store_description, "SHARD_BYTES", 4 * BLOCK * 6)
    contents = []
    for name in ("whole", "continued"):
        torch.manual_seed(0)
        made = stream()
        made.save_to(tmp_path / name, dtype=torch.int8, progress=False)
        if name == "continued":
            (tmp_path / name / "activations-000002.safetensors").unlink()
            made.save_to(tmp_path / name, dtype=torch.int8, progress=False)
        contents.append([file.read_bytes() for file in sorted((tmp_path / name).iterdir())])
    assert contents[0] == contents[1]


def test_an_interrupted_store_of_version_1_continues_in_version_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    made = stream()
    with monkeypatch.context() as earlier:
        version_1 = partial(_store_description.StoreDescription, format_version=1)
        earlier.setattr(_stored_sites, "StoreDescription", version_1)
        made.save_to(tmp_path, progress=False)
    assert json.loads((tmp_path / "activations.json").read_text())["format_version"] == 1
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.suffix == ".safetensors"}
    (tmp_path / "activations-000001.safetensors").unlink()
    store = made.save_to(tmp_path, progress=False)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.suffix == ".safetensors"}
    batch = next(iter(store))
    assert batch.tokens is None
    with pytest.raises(ValueError, match="has `dtype`"):
        made.save_to(tmp_path, dtype=torch.int8, progress=False)
