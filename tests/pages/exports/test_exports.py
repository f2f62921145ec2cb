"""Exports hold what the records hold, in the fields that other tools read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsedict.analysis import LatentRecords
from sparsedict.pages import exports
from sparsedict.pages.exports import _latents, feature_number, write_circuit_tracer, write_neuronpedia, write_parquet

from .conftest import effects, strings

DEAD = 7
NAMED = {"model_id": "m", "layer": 2, "sae_set": "res-24"}
BATCH_FIELDS = {"model_id", "layer", "sae_set", "sae_id_suffix", "features"}
FEATURE_FIELDS = {
    "feature_index",
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_l1",
    "correlated_neurons_pearson",
    "correlated_features_indices",
    "correlated_features_l1",
    "correlated_features_pearson",
    "neg_str",
    "neg_values",
    "pos_str",
    "pos_values",
    "frac_nonzero",
    "freq_hist_data_bar_values",
    "freq_hist_data_bar_heights",
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "n_prompts_total",
    "n_tokens_in_prompt",
    "dataset",
    "decoder_weights_dist",
    "activations",
    "vector",
}
ACTIVATION_FIELDS = {"bin_min", "bin_max", "bin_contains", "tokens", "values", "qualifying_token_index"}
CIRCUIT_FIELDS = {
    "transcoder_id",
    "index",
    "examples_quantiles",
    "top_logits",
    "bottom_logits",
    "act_min",
    "act_max",
    "quantile_values",
    "histogram",
    "activation_frequency",
}


def read(file: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {file}")

    return json.loads(file.read_bytes().decode("utf-8", "strict"), parse_constant=refuse)


def test_neuronpedia_batches_have_the_fields_of_saedashboard(records: LatentRecords, tmp_path: Path) -> None:
    files = write_neuronpedia(
        tmp_path / "np",
        records,
        **NAMED,
        strings=strings,
        effects=effects(),
        vectors=torch.eye(24),
        latents_per_batch=10,
    )
    assert [file.name for file in files] == ["batch-0.json", "batch-1.json", "batch-2.json"]
    batches = [read(file) for file in files]
    assert [len(batch["features"]) for batch in batches] == [10, 10, 3]
    features = [feature for batch in batches for feature in batch["features"]]
    assert [feature["feature_index"] for feature in features] == [i for i in range(24) if i != DEAD]
    assert read(tmp_path / "np" / "skipped_indexes.json")["skipped_indexes"] == [DEAD]
    for batch in batches:
        assert set(batch) == BATCH_FIELDS
        assert (batch["model_id"], batch["layer"], batch["sae_id_suffix"]) == ("m", 2, None)
    for feature in features:
        latent = feature["feature_index"]
        assert set(feature) == FEATURE_FIELDS
        assert feature["frac_nonzero"] == pytest.approx(float(records.frequency[latent]))
        assert sum(feature["freq_hist_data_bar_heights"]) == pytest.approx(int(records.counts[latent]), rel=1e-4)
        assert feature["vector"] == torch.eye(24)[latent].tolist()
        assert feature["pos_str"][0] == strings([latent])[0].replace("\ud800", "\N{REPLACEMENT CHARACTER}")
        assert (feature["pos_values"][0], feature["neg_values"][0]) == (2.0, -3.0)
        assert (feature["n_prompts_total"], feature["n_tokens_in_prompt"]) == (60, 16)


def test_neuronpedia_activations_are_the_examples_of_the_records(records: LatentRecords, tmp_path: Path) -> None:
    (file,) = write_neuronpedia(tmp_path / "np", records, **NAMED, strings=strings, latents=[3])
    (feature,) = read(file)["features"]
    activations = feature["activations"]
    assert all(set(activation) == ACTIVATION_FIELDS for activation in activations)
    top = [activation for activation in activations if activation["bin_contains"] == -1]
    assert len(top) == len(records.examples(3))
    for activation, example in zip(top, records.examples(3), strict=True):
        assert activation["values"] == pytest.approx(example.activations.tolist(), rel=1e-5)
        assert activation["values"][activation["qualifying_token_index"]] == pytest.approx(example.value, rel=1e-5)
        assert len(activation["tokens"]) == len(activation["values"])
    others = activations[len(top) :]
    assert len(others) == sum(len(records.examples(3, q)) for q in range(5))
    for activation in others:
        assert activation["bin_contains"] == pytest.approx(0.2)
        value = activation["values"][activation["qualifying_token_index"]]
        assert activation["bin_min"] * 0.96 <= value <= activation["bin_max"] * 1.04


def test_saedashboard_reads_the_batches(records: LatentRecords, tmp_path: Path) -> None:
    dashboard = pytest.importorskip("sae_dashboard.neuronpedia.neuronpedia_dashboard")
    (file,) = write_neuronpedia(tmp_path / "np", records, **NAMED, strings=strings, effects=effects())
    content = read(file)
    assert dashboard.NeuronpediaDashboardBatch(**content).to_dict() == content


def test_circuit_tracer_files_have_the_fields_of_its_frontend(records: LatentRecords, tmp_path: Path) -> None:
    n = write_circuit_tracer(
        tmp_path / "features",
        {0: records, 3: records},
        transcoder_id="t",
        strings=strings,
        effects={0: effects()},
        latents={3: [1, 5]},
    )
    names = {file.name for file in (tmp_path / "features").iterdir()}
    assert n == len(names) == 25
    assert f"{feature_number(3, 5)}.json" in names
    for layer, latent in [(0, 2), (3, 1), (3, 5)]:
        content = read(tmp_path / "features" / f"{feature_number(layer, latent)}.json")
        assert set(content) == CIRCUIT_FIELDS
        assert (content["index"], content["transcoder_id"]) == (latent, "t")
        assert content["act_max"] == float(records.act_max[latent])
        assert content["activation_frequency"] == pytest.approx(float(records.frequency[latent]))
        assert sum(content["histogram"]) == pytest.approx(int(records.counts[latent]), rel=1e-4)
        assert len(content["quantile_values"]) == 100
        assert content["quantile_values"] == sorted(content["quantile_values"])
        assert content["quantile_values"][-1] == pytest.approx(content["act_max"], rel=1e-5)
        assert content["examples_quantiles"][0]["quantile_name"] == "Top"
        for quantile in content["examples_quantiles"]:
            for example in quantile["examples"]:
                assert set(example) == {"tokens_acts_list", "train_token_ind", "is_repeated_datapoint", "tokens"}
                assert len(example["tokens"]) == len(example["tokens_acts_list"])
        assert bool(content["top_logits"]) == (layer == 0)


def test_the_frontend_of_circuit_tracer_reads_the_files(records: LatentRecords, tmp_path: Path) -> None:
    models = pytest.importorskip("circuit_tracer.frontend.feature_models")
    write_circuit_tracer(tmp_path / "f", {1: records}, transcoder_id="t", strings=strings, effects={1: effects()})
    for file in (tmp_path / "f").iterdir():
        assert models.Model.model_validate_json(file.read_bytes(), strict=False).index < 24


def test_numbers_of_features_are_those_of_cantors_pairing() -> None:
    pairs = {(layer, latent): feature_number(layer, latent) for layer in range(40) for latent in range(40)}
    assert len(set(pairs.values())) == len(pairs)
    for (layer, latent), number in pairs.items():
        # The inverse, as the frontend computes it.
        w = math.isqrt(8 * number + 1) // 2
        w -= w * (w + 1) // 2 > number
        assert (w - (number - w * (w + 1) // 2), number - w * (w + 1) // 2) == (layer, latent)


def test_bytes_are_written_as_the_frontend_joins_them(records: LatentRecords, tmp_path: Path) -> None:
    write_circuit_tracer(tmp_path / "f", {0: records}, transcoder_id="t", strings=strings)
    text = "".join(file.read_text() for file in (tmp_path / "f").iterdir())
    assert '"\\\\xe2"' in text
    assert "<0xE2>" not in text


def test_parquet_has_a_row_for_each_latent(records: LatentRecords, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = write_parquet(
        tmp_path / "new" / "latents.parquet",
        {"sae": records, "b": records},
        strings=strings,
        effects={"sae": effects()},
    )
    rows = parquet.read_table(file).to_pylist()
    assert [(row["dictionary"], row["latent"]) for row in rows] == [(n, i) for n in ("sae", "b") for i in range(24)]
    row = rows[3]
    assert row["count"] == int(records.counts[3])
    assert row["act_max"] == float(records.act_max[3])
    assert row["quantile_values"] == records.quantile_values[3].tolist()
    top = [example for example in row["examples"] if example["quantile"] is None]
    assert [example["token_ids"] for example in top] == [e.tokens.tolist() for e in records.examples(3)]
    assert top[0]["activations"] == records.examples(3)[0].activations.tolist()
    assert top[0]["activations"][top[0]["peak"]] == row["act_max"]
    of = [example for example in row["examples"] if example["quantile"] == 4]
    assert [example["position"] for example in of] == [e.position for e in records.examples(3, 4)]
    assert rows[DEAD]["examples"] == []
    assert rows[DEAD]["histogram_counts"] == []
    assert rows[3]["promoted"][0] == "\N{REPLACEMENT CHARACTER}"
    assert rows[24]["promoted"] == []


def test_parquet_without_pyarrow_names_the_extra(
    records: LatentRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"pip install 'sparsedict\[hf\]'"):
        write_parquet(tmp_path / "x.parquet", {"sae": records})


def test_histograms_and_percentiles_are_near_those_of_the_activations(records: LatentRecords) -> None:
    """The bins of the records are narrow, so redistribution moves few tokens."""
    for latent in (0, 3, 11):
        middles, counts = _latents.histogram(records, latent)
        mean = np.dot(middles, counts) / sum(counts)
        own = records.histograms
        edges = own.edges(latent).numpy()
        expected = np.dot((edges[:-1] + edges[1:]) / 2, own.counts[latent].numpy()) / int(records.counts[latent])
        assert mean == pytest.approx(expected, rel=0.05)
        found = _latents.percentiles(records, latent)
        bounds = records.quantile_values[latent].tolist()
        assert [found[p - 1] for p in (20, 40, 60, 80)] == pytest.approx(bounds[1:-1], rel=0.1)


def test_a_folder_with_files_is_not_changed(records: LatentRecords, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="`folder` must be a new or empty folder"):
        write_neuronpedia(tmp_path, records, **NAMED)
    with pytest.raises(FileExistsError, match="`folder` must be a new or empty folder"):
        write_circuit_tracer(tmp_path, {0: records}, transcoder_id="t")
    assert [file.name for file in tmp_path.iterdir()] == ["own.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": [24]}, r"`latents` must lie in \[0, 24\), got 24"),
        ({"latents": [1, 1]}, "`latents` must name each latent once"),
        ({"latents": [-1]}, "`latents` must be at least 0"),
        ({"layer": -1}, "`layer` must be at least 0"),
        ({"vectors": torch.zeros(3, 8)}, r"`vectors` must be a tensor with 24 rows, one for each latent, got \[3, 8\]"),
        ({"latents_per_batch": 0}, "`latents_per_batch` must be at least 1"),
        ({"effects": effects(3)}, "`effects` must be the effects of the 24 latents of the records, got those of 3"),
        ({"effects": {0: effects()}}, "`effects` must be the result of `token_effects`, or None, got dict"),
        ({"vectors": [1.0]}, "`vectors` must be a tensor with 24 rows, one for each latent, got list"),
        ({"model_id": "a/../b"}, "`model_id` must be a name without spaces and slashes, got 'a/../b'"),
        ({"sae_set": ""}, "`sae_set` must be a name without spaces and slashes, got ''"),
        ({"sae_id_suffix": 3}, "`sae_id_suffix` must be a text, got 3"),
        ({"strings": 5}, "`strings` must be a tokenizer, a list of strings by token id, a function or None, got int"),
        ({"dataset": None}, "`dataset` must be a text, got NoneType"),
        ({"records": {"sae": None}}, "`records` must be records, as `collect` returns them, got dict"),
    ],
)
@pytest.mark.as_installed
def test_bad_arguments_are_errors(
    records: LatentRecords, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given = {"records": records, **NAMED, **options}
    with pytest.raises((ValueError, TypeError), match=message):
        write_neuronpedia(tmp_path / "np", **given)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("write", [partial(write_circuit_tracer, transcoder_id="t"), exports.write_parquet])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "`records` must map .* to records, as `collect` returns them, got LatentRecords"),
        ({}, "`records` must have the records of at least one dictionary"),
        ({0: "x"}, r"`records\[0\]` must be records, as `collect` returns them, got str"),
    ],
)
@pytest.mark.as_installed
def test_records_of_another_form_are_errors(
    records: LatentRecords, tmp_path: Path, write: Callable[..., Any], given: Any, message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        write(tmp_path / "f", records if given is None else given)
    assert not any(tmp_path.iterdir())


@pytest.mark.as_installed
def test_other_bad_arguments_are_errors(records: LatentRecords, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="`graph` must be the result of `attribute`, got int"):
        exports.write_circuit_tracer_graph(tmp_path / "g", 5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`transcoder_id` must be a name without spaces and slashes"):
        write_circuit_tracer(tmp_path / "f", {0: records}, transcoder_id="../x")
    with pytest.raises(IsADirectoryError, match="`path` must be a Parquet file"):
        exports.write_parquet(tmp_path, {"sae": records})
    with pytest.raises(TypeError, match="`latents` must map names of `records` to values, or be None, got list"):
        exports.write_parquet(tmp_path / "f.parquet", {"sae": records}, latents=[1])  # pyright: ignore[reportArgumentType]
    for function in (exports.histogram, exports.percentiles):
        with pytest.raises(ValueError, match=r"`latent` must lie in \[0, 24\), got 24"):
            function(records, 24)
    with pytest.raises(ValueError, match="`n_bins` must be at least 1, got 0"):
        exports.histogram(records, 0, 0)
    assert not any(tmp_path.iterdir())


def test_unknown_layers_and_names_are_errors(records: LatentRecords, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`latents` must have layers of `records`, got 1"):
        write_circuit_tracer(tmp_path / "f", {0: records}, transcoder_id="t", latents={1: [0]})
    with pytest.raises(ValueError, match="`effects` must have names of `records`, got 'x'"):
        exports.write_parquet(tmp_path / "f.parquet", {"sae": records}, effects={"x": effects()})


@pytest.mark.as_installed
def test_keys_that_are_no_layers_are_named(records: LatentRecords, tmp_path: Path) -> None:
    for key in ("2", -1):
        with pytest.raises((TypeError, ValueError), match=f"must map numbers of layers, .*, got the key {key!r}"):
            write_circuit_tracer(tmp_path / "f", {key: records}, transcoder_id="t")  # type: ignore[dict-item]
