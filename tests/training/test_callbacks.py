"""Callbacks for TensorBoard and Weights & Biases."""

import dataclasses
import json
import math
import warnings

import pytest
import torch

import sparsedict as sd
from sparsedict.training import callbacks


def train(*own, **options) -> sd.History:
    torch.manual_seed(0)
    coder = sd.SparseAutoencoder(4, 8, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    fixed = {"n_tokens": 512, "penalties": [sd.L1(0.1)], "progress": False, "batch_size": 64, "log_every": 1}
    return sd.fit(coder, torch.randn(256, 4), callbacks=own, **{**fixed, **options})


def test_weights_and_biases_receives_every_number():
    logged, steps = [], []

    class Run:
        step = 7

        def log(self, values, step):
            logged.append(values)
            steps.append(step)

    history = train(callbacks.WeightsAndBiases(Run()))
    assert len(logged) == len(history)
    assert steps == [7 + record.step for record in history]
    assert logged[-1]["fvu"] == history.last.fvu
    assert logged[-1]["penalty/L1"] == history.last.penalties["L1"]


def test_tensorboard_writes_events(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("tensorboard")
        callback = callbacks.TensorBoard(tmp_path)
        train(callback)
    assert any(path.stat().st_size > 0 for path in tmp_path.glob("events*"))


class Unknown(sd.training.callbacks.JSONLines):
    """Writes records whose numbers aren't known."""

    def __call__(self, name, record, dictionary):
        super().__call__(name, dataclasses.replace(record, fvu=math.inf, penalties={"L1": math.nan}), dictionary)


def no_constants(text):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_json_has_null_for_unknown_values(tmp_path):
    history = train(Unknown(tmp_path / "metrics.jsonl"))
    assert math.isnan(history.last.dead)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        found = no_constants(line)
        assert found["dead"] is found["fvu"] is found["penalty/L1"] is None
    found = no_constants(json.dumps(history.to_dict()))
    assert found["records"][-1]["dead"] is None
    assert found["records"][-1]["fvu"] == history.last.fvu
    assert "nan" not in repr(history).lower()
    assert "nan" not in history._repr_html_().lower()
    assert "dead=-" in repr(history)


def test_writers_of_curves_skip_unknown_values(tmp_path):
    logged = []

    class Run:
        def log(self, values, step):
            logged.append(values)

    class Writer:
        def add_scalar(self, name, value, step):
            logged.append({name: value})

        def flush(self):
            pass

    board = callbacks.TensorBoard.__new__(callbacks.TensorBoard)
    board._writer = Writer()
    history = train(callbacks.WeightsAndBiases(Run()), board, dead_after=256)
    dead = [values["dead"] for values in logged if "dead" in values]
    n_known = sum(not math.isnan(record.dead) for record in history)
    assert 0 < n_known < len(history)
    assert len(dead) == 2 * n_known
    assert all(math.isfinite(value) for values in logged for value in values.values())


class Stops:
    def __call__(self, name, record, dictionary):
        if record.step == 6:
            raise RuntimeError("crash")


def test_json_lines_hold_every_record_once_though_the_run_crashed(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("of an earlier run\n")
    with pytest.raises(RuntimeError, match="crash"):
        train(callbacks.JSONLines(file), Stops(), checkpoint=tmp_path / "c", checkpoint_every=4)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    history = train(callbacks.JSONLines(file), checkpoint=tmp_path / "c", checkpoint_every=4, resume=True)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [record.step for record in history] == list(range(1, 9))
    assert [line["fvu"] for line in lines] == history.column("fvu")
    assert set(lines[0]) >= {"dictionary", "loss", "l0", "dead", "lr", "penalty/L1"}


def test_json_lines_go_on_where_the_file_was_removed_or_cut(tmp_path):
    file = tmp_path / "metrics.jsonl"
    with pytest.raises(RuntimeError, match="crash"):
        train(callbacks.JSONLines(file), Stops(), checkpoint=tmp_path / "c", checkpoint_every=4)
    file.unlink()
    train(callbacks.JSONLines(file), checkpoint=tmp_path / "c", checkpoint_every=4, resume=True)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [5, 6, 7, 8]


def test_a_callback_may_be_added_when_a_run_is_resumed(tmp_path):
    with pytest.raises(RuntimeError, match="crash"):
        train(Stops(), checkpoint=tmp_path / "c", checkpoint_every=4)
    file = tmp_path / "metrics.jsonl"
    train(callbacks.JSONLines(file), checkpoint=tmp_path / "c", checkpoint_every=4, resume=True)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [5, 6, 7, 8]
