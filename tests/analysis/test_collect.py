from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsedict as sd
from sparsedict.analysis import Histograms, LatentRecords, _collect, collect, top_examples
from sparsedict.analysis._activation_histogram import RunningHistogram
from sparsedict.analysis._cofiring import cofiring
from sparsedict.analysis._collector import Collector
from sparsedict.sites import Site

from ._models import Foreign, LanguageModel, autoencoder, distiller, tokens

N_SEQUENCES = 90


def text(n: int = N_SEQUENCES) -> torch.Tensor:
    return tokens(n, 9, seed=4)


@pytest.fixture(scope="module")
def own_site() -> Site:
    # In float64, equal texts give equal latents, whatever the batch.
    return Site(LanguageModel().double(), "mlp", exclude_tokens=[0], exclude_first=1)


def collect_one(site: Any, dictionary: Any, ids: Any, **options: Any) -> LatentRecords:
    (records,) = collect(site, {"": dictionary}, ids, progress=False, **options).values()
    return records


def dictionaries(site: Site) -> dict[str, Any]:
    own = {"distiller": distiller(), "autoencoder": autoencoder(), "negative": distiller(activation=sd.AbsTopK(3))}
    return {name: dictionary.double() for name, dictionary in own.items()} | {"neurons": site.neurons}


@torch.no_grad()
def dense(site: Site, dictionary: Any, ids: torch.Tensor) -> torch.Tensor:
    seen = site.capture(ids)
    latents = dictionary.encode(seen.inputs if dictionary.reads == "inputs" else seen.outputs)
    return latents * seen.kept[..., None]


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name), f"{path}.{field.name}")
    else:
        yield path, value


def assert_same(a: LatentRecords, b: LatentRecords) -> None:
    for (path, left), (_, right) in zip(tensors(a), tensors(b), strict=True):
        if isinstance(left, torch.Tensor) and left.is_floating_point():
            assert torch.allclose(left, right, rtol=1e-5, atol=1e-6), path
        else:
            assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, path


def test_numbers_are_those_of_dense_latents(own_site: Site) -> None:
    found = collect(own_site, dictionaries(own_site), text(), progress=False)
    for name, dictionary in dictionaries(own_site).items():
        records, latents = found[name], dense(own_site, dictionary, text()).flatten(0, 1)
        assert records.counts.tolist() == (latents != 0).sum(0).tolist()
        assert records.n_tokens == int(own_site.capture(text()).kept.sum())
        for latent, values in enumerate(latents.T):
            values = values[values != 0].double()
            if not len(values):
                assert records.act_min[latent] == records.act_max[latent] == records.histograms.widths[latent] == 0
                continue
            assert records.act_min[latent] == pytest.approx(float(values.min()), rel=1e-5)
            assert records.act_max[latent] == pytest.approx(float(values.max()), rel=1e-5)
            edges, counts = records.histograms.edges(latent), records.histograms.counts[latent]
            assert counts.tolist() == np.histogram(values, edges.numpy())[0].tolist()
            bounds = records.quantile_values[latent]
            for q in range(1, 5):
                below = [float((values <= bounds[q] + sign * bounds[q].abs() / 16).sum()) for sign in (-1, 1)]
                assert below[0] <= q / 5 * len(values) + 1
                assert below[1] >= q / 5 * len(values) - 1


def test_examples_are_tokens_of_their_quantile(own_site: Site) -> None:
    ids = text()
    found = collect(own_site, dictionaries(own_site), ids, context=(2, 3), progress=False)
    for name, dictionary in dictionaries(own_site).items():
        records, latents = found[name], dense(own_site, dictionary, ids)
        for latent in range(records.n_latents):
            n_examples = 0
            for quantile in range(5):
                examples = records.examples(latent, quantile)
                low, high = records.quantile_values[latent, quantile : quantile + 2].tolist()
                assert all(low - 1e-6 <= e.value <= high + 1e-6 for e in examples)
                assert len({(e.sequence, e.position) for e in examples}) == len(examples) <= 4
                n_examples += len(examples)
                for e in examples:
                    assert e.value == pytest.approx(float(latents[e.sequence, e.position, latent]), rel=1e-4, abs=1e-6)
                    first, last = max(e.position - 2, 0), e.position + 4
                    assert e.tokens.tolist() == ids[e.sequence, first:last].tolist()
                    assert torch.allclose(e.activations, latents[e.sequence, first:last, latent].float(), atol=1e-5)
                    assert first + e.peak == e.position
            assert n_examples >= min(int(records.counts[latent]), 4)


def test_top_examples_are_those_of_the_function(own_site: Site) -> None:
    records = collect_one(own_site, distiller(), text(), n_top=5, context=3)
    expected = top_examples(own_site, distiller(), text(), n_examples=5, context=3)
    for latent, top in expected.items():
        for a, b in zip(records.top_examples(latent).examples, top.examples, strict=True):
            assert (a.sequence, a.position, a.peak) == (b.sequence, b.position, b.peak)
            assert torch.equal(a.tokens, b.tokens)
            assert torch.equal(a.activations, b.activations)


@pytest.mark.parametrize(("batch_size", "every"), [(1, 7), (7, 100), (90, 10**6)])
def test_records_do_not_depend_on_batches_and_blocks(
    own_site: Site, tmp_path: Path, batch_size: int, every: int
) -> None:
    options: dict[str, Any] = {"n_per_quantile": 1, "n_top": 3, "progress": False}
    expected = collect(own_site, dictionaries(own_site), text(), **options)
    # A block ends where a checkpoint is due.
    options |= {"batch_size": batch_size, "checkpoint": tmp_path, "checkpoint_every": every}
    found = collect(own_site, dictionaries(own_site), text(), **options)
    for name in expected:
        assert_same(found[name], expected[name])
    assert not list(tmp_path.iterdir())


class KilledError(Exception):
    pass


def killed(ids: torch.Tensor, after: int) -> Iterator[list[int]]:
    for number, row in enumerate(ids.tolist()):
        if number == after:
            raise KilledError
        yield row


def test_an_interrupted_pass_continues(own_site: Site, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 4, "checkpoint": tmp_path / "new" / "folder", "checkpoint_every": 60}
    options |= {"progress": False}
    with pytest.raises(KilledError):
        collect(own_site, dictionaries(own_site), killed(text(), 50), **options)
    with pytest.raises(FileExistsError, match="resume=True"):
        collect(own_site, dictionaries(own_site), text(), **options)
    options |= {"resume": True}
    with pytest.raises(ValueError, match="`n_top` 16, got 3"):
        collect(own_site, dictionaries(own_site), text(), n_top=3, **options)
    with pytest.raises(ValueError, match="`dictionaries`"):
        collect(
            own_site,
            dictionaries(own_site) | {"negative": distiller(activation=sd.AbsTopK(3), seed=9).double()},
            text(),
            **options,
        )
    with pytest.raises(ValueError, match="earlier sequences differ"):
        collect(own_site, dictionaries(own_site), text().flip(0), **options)
    found = collect(own_site, dictionaries(own_site), text(), **options)
    expected = collect(own_site, dictionaries(own_site), text(), batch_size=4, progress=False)
    for name in expected:
        assert_same(found[name], expected[name])


def test_an_error_writes_the_state_and_intervals_may_be_times(
    own_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_collect, "BLOCK_TOKENS", 500)
    options: dict[str, Any] = {"batch_size": 4, "checkpoint": tmp_path, "resume": True, "progress": False}
    rows = text()
    with pytest.raises(ValueError, match="`checkpoint_every` must be a number of tokens or a positive timedelta"):
        collect(own_site, dictionaries(own_site), rows, checkpoint_every=timedelta(0), **options)
    with pytest.raises(KilledError):
        collect(own_site, dictionaries(own_site), killed(rows, 70), **options)
    (state,) = tmp_path.iterdir()
    assert int(state.name.rsplit("-")[-1]) >= 500
    with pytest.raises(KilledError):
        collect(
            own_site, dictionaries(own_site), killed(rows, 80), checkpoint_every=timedelta(microseconds=1), **options
        )
    found = collect(own_site, dictionaries(own_site), rows, **options)
    expected = collect(own_site, dictionaries(own_site), rows, batch_size=4, progress=False)
    for name in expected:
        assert_same(found[name], expected[name])


def test_a_pass_continues_only_with_a_number_of_tokens_that_it_has_not_passed(own_site: Site, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 4, "checkpoint": tmp_path, "resume": True, "progress": False}
    rows, coders = text(), dictionaries(own_site)

    def expected(n_tokens: int | None) -> dict[str, sd.analysis.LatentRecords]:
        return collect(own_site, coders, rows, n_tokens=n_tokens, batch_size=4, progress=False)

    for after, wanted in ((None, 350), (350, None), (400, 350)):
        with pytest.raises(KilledError):
            collect(own_site, coders, killed(rows, 40), n_tokens=after, checkpoint_every=60, **options)
        (state,) = tmp_path.iterdir()
        n_read = int(state.name.rsplit("-")[-1])
        assert 60 < n_read < 350
        with pytest.raises(
            ValueError, match=rf"`n_tokens` must be at least {n_read}, .*, got {n_read - 1}\. .* delete"
        ):
            collect(own_site, coders, rows, n_tokens=n_read - 1, **options)
        found = collect(own_site, coders, rows, n_tokens=wanted, **options)
        for name, own in expected(wanted).items():
            assert_same(found[name], own)


def test_a_pass_that_has_ended_within_a_batch_continues_only_with_its_number_of_tokens(
    own_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"batch_size": 4, "checkpoint": tmp_path, "resume": True, "progress": False}
    rows, coders, n_tokens = text(), dictionaries(own_site), 90

    def fail(_: object) -> None:
        raise KilledError

    # The pass writes its last state, and is killed before it returns.
    with monkeypatch.context() as patched:
        patched.setattr(Collector, "records", fail)
        with pytest.raises(KilledError):
            collect(own_site, coders, rows, n_tokens=n_tokens, checkpoint_every=1, **options)
    for other in (None, 200, 50):
        with pytest.raises(ValueError, match=rf"`n_tokens` must be 90, as in the interrupted pass, .*, got {other}\."):
            collect(own_site, coders, rows, n_tokens=other, **options)
    found = collect(own_site, coders, rows, n_tokens=n_tokens, **options)
    for name, own in collect(own_site, coders, rows, n_tokens=n_tokens, batch_size=4, progress=False).items():
        assert_same(found[name], own)


def test_memory_does_not_grow_with_tokens(own_site: Site, tmp_path: Path) -> None:
    sizes = []
    for n in (60, 600):
        with pytest.raises(KilledError):
            collect_one(
                own_site,
                distiller(),
                killed(text(n), n - 8),
                checkpoint=tmp_path / str(n),
                checkpoint_every=n * 4,
                n_top=2,
                n_per_quantile=1,
                batch_size=4,
            )
        (state,) = (tmp_path / str(n)).glob("*/state.safetensors")
        sizes.append(state.stat().st_size)
    assert sizes[0] == sizes[1]


def test_random_examples_are_uniform_and_depend_on_the_seed() -> None:
    site = Site(LanguageModel(), "mlp")
    ids = tokens(400, 9, seed=1)
    options: dict[str, Any] = {"n_quantiles": 1, "n_per_quantile": 100}
    first, second = (collect_one(site, site.neurons, ids, seed=seed, **options).quantiles for seed in (0, 1))
    for table in (first, second):
        counts = torch.bincount(table.sequences // 40, minlength=10).double()
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 40  # chi-squared, 9 degrees of freedom
    assert not torch.equal(first.sequences, second.sequences)


def test_partners_are_latents_that_fire_together() -> None:
    generator = torch.Generator().manual_seed(0)
    n_tokens = 20_000
    fires = torch.rand(40, n_tokens, generator=generator) < torch.logspace(-3.3, -0.3, 40)[:, None]
    fires[1] = fires[30] & (torch.rand(n_tokens, generator=generator) < 0.5)
    fires[2] = fires[3] | (torch.rand(n_tokens, generator=generator) < 0.001)
    token_keys = torch.randint(0, 2**63 - 1, (n_tokens,), generator=generator)
    keys = torch.where(fires, token_keys, -1).topk(256, dim=1).values.numpy()
    found = cofiring(keys, fires.sum(1).numpy(), 4)
    joint = fires.double() @ fires.double().T
    union = fires.sum(1)[:, None] + fires.sum(1) - joint
    for latent, partner in ((1, 30), (2, 3), (3, 2)):
        assert found.latents[latent, 0] == partner
        exact = float(joint[latent, partner] / union[latent, partner])
        assert found.jaccard[latent, 0] == pytest.approx(exact, abs=0.1)
        assert found.share[latent, 0] == pytest.approx(float(joint[latent, partner] / fires[latent].sum()), abs=0.1)
    assert (np.diff(found.jaccard, axis=1) <= 0).all()
    assert ((found.latents >= 0) == (found.jaccard > 0)).all()
    assert (found.latents != np.arange(40)[:, None]).all()


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(2**-126, 2.0**127, width=32), min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=3),
)
def test_histograms_grow_in_any_order(values: list[float], cuts: list[int]) -> None:
    numbers = np.array(values, dtype=np.float32)
    whole, parts = RunningHistogram(1), RunningHistogram(1)
    whole.update_(np.zeros(len(numbers), dtype=np.int32), np.sort(numbers))
    for part in np.split(numbers, sorted(cuts)):
        parts.update_(np.zeros(len(part), dtype=np.int32), part)
    assert torch.equal(whole.counts, parts.counts)
    assert int(whole.counts.sum()) == len(numbers)
    edges = parts.edges(slice(None))[0]
    assert whole.counts[0].tolist() == np.histogram(numbers.astype(np.float64), edges)[0].tolist()
    assert edges[-1] / 2 <= numbers.max() < edges[-1]


def test_records_are_saved_and_loaded(own_site: Site, tmp_path: Path) -> None:
    records = collect_one(own_site, distiller(), text())
    for _ in range(2):
        assert_same(LatentRecords.load(records.save(tmp_path / "a" / "records")), records)
    with pytest.raises(FileExistsError, match="holds something else"):
        records.save(tmp_path)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.SiLU()])
def test_strong_frequency_is_the_share_from_a_tenth_of_the_maximum(activation: nn.Module) -> None:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(16, 24), activation, nn.Linear(24, 16))
    site = Site(nn.Sequential(nn.Embedding(500, 16), mlp, nn.Linear(16, 500)), "1")
    ids = torch.randint(0, 500, (40, 50))
    records = collect_one(site, site.neurons, ids)
    with torch.no_grad():
        values = site.capture(ids, neurons=True).neurons.flatten(0, 1)
    largest = values.gather(0, values.abs().argmax(0, keepdim=True))
    exact = (values / largest >= 0.1).float().mean(0)
    # Within a bin, at most a thirty-second of the largest magnitude wide, tokens are taken as spread evenly.
    torch.testing.assert_close(records.strong_frequency, exact, atol=0.015, rtol=0)
    assert records.rarely_zero is not isinstance(activation, nn.ReLU)
    assert 0.1 < records.strong_frequency.mean() < 0.9


def test_sparse_latents_are_strong_where_they_fire(own_site: Site) -> None:
    records = collect_one(own_site, distiller(), text())
    assert not records.rarely_zero
    assert (records.strong_frequency <= records.frequency + 1e-6).all()
    assert not records.strong_frequency[records.dead].any()
    equal = Histograms(torch.tensor([[0, 0, 5, 0]]), torch.tensor([0.25]), 0)
    assert equal.counts_from(torch.tensor([0.06])).tolist() == [5.0]
    signed = Histograms(torch.tensor([[3, 2, 5, 4]]), torch.tensor([0.25]), 2)
    assert signed.counts_from(torch.tensor([0.125])).tolist() == [6.5]
    assert signed.counts_from(torch.tensor([-0.25])).tolist() == [3.0]


def test_dead_latents_have_empty_records(own_site: Site) -> None:
    dead = distiller()
    with torch.no_grad():
        dead.encoder_bias.fill_(-100)
    records = collect_one(own_site, dead, text())
    assert records.dead.all()
    assert not records.examples(3)
    assert not records.examples(3, 4)
    assert (records.partners.latents == -1).all()
    assert not records.quantile_values.any()


def test_sites_and_other_libraries(own_site: Site) -> None:
    sites = sd.Sites({"0": own_site, "1": own_site})
    expected = collect_one(own_site, distiller(), text())
    student = distiller()
    student.reads, student.writes = "1.inputs", "1.outputs"
    found = collect(sites, {"0": {"a": distiller()}, "1": distiller(), "b": student}, text(), progress=False)
    assert list(found) == ["0.a", "1", "b"]
    for records in found.values():
        assert_same(records, expected)
    single = Site(LanguageModel(), "mlp", exclude_tokens=[0], exclude_first=1)
    foreign = collect_one(single, Foreign(distiller()), text(), reads="inputs")
    assert_same(foreign, collect_one(single, distiller(), text()))


def test_n_tokens_ends_after_a_sequence(own_site: Site) -> None:
    for batch_size in (1, 16):
        records = collect_one(own_site, distiller(), text(), n_tokens=10, batch_size=batch_size)
        expected = collect_one(own_site, distiller(), text()[: records.n_sequences])
        assert 10 <= records.n_tokens < 20
        assert_same(records, expected)


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_top": 0}, "`n_top` must be at least 1"),
        ({"n_quantiles": 0}, "`n_quantiles` must be at least 1"),
        ({"context": -1}, "`context` must be at least 0"),
        ({"n_tokens": 0}, "`n_tokens` must be at least 1"),
        ({"dictionaries": {}}, "`dictionaries` must contain at least one"),
        ({"dictionaries": {"x": {"y": 1}}}, "or 'x' the name of a site"),
    ],
)
def test_bad_arguments_raise(own_site: Site, options: dict, message: str) -> None:
    arguments = {"dictionaries": {"a": distiller()}, "tokens": text()} | options
    with pytest.raises(ValueError, match=message):
        collect(own_site, progress=False, **arguments)


def test_latents_that_are_not_finite_raise(own_site: Site) -> None:
    broken = distiller(activation=sd.ReLU())
    with torch.no_grad():
        broken.encoder_bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="latents of 'x' must be finite"):
        collect(own_site, {"x": broken}, text(), progress=False)
