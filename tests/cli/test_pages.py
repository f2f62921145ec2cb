"""`sparsedict pages` writes the pages of a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sparsedict as sd
from sparsedict.analysis import scores
from sparsedict.analysis._collect import _Pass
from sparsedict.cli._finished_run import finished_run

from .conftest import Run

pytestmark = pytest.mark.usefixtures("no_rendering")


def manifest(folder: Path) -> dict:
    text = (folder / "data" / "manifest.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix('sparsedict.receive("manifest",').removesuffix(");\n"))


def test_pages_of_a_run_are_written_again(
    command: Run, model_folder: Path, token_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    options = ["--site", "model.layers.0.mlp", "--data", token_file, "--context", 16, "--kind", "autoencoder"]
    options += ["--batch-size", 64]
    small = ["--n-tokens", "1k", "--n-latents", 24, "--k", 4, "--device", "cpu", "--held-out", "0.5", "--quiet"]
    status, _, err = command("train", model_folder, *options, *small, "--out", run)
    assert status == 0, err
    first = manifest(run / "latents")
    assert "MB of pages" not in err
    status, out, err = command("pages", run, "--n-tokens", 200, "--device", "cpu", "--quiet")
    assert status == 0, err
    assert str(run / "latents" / "index.html") in out
    again = manifest(run / "latents")
    assert [own["name"] for own in again["dictionaries"]] == ["autoencoder", "neurons"]
    assert again["dictionaries"][0]["n"] == 24
    assert 200 <= again["dictionaries"][0]["n_tokens"] < first["dictionaries"][0]["n_tokens"]
    other = tmp_path / "other"
    status, _, err = command("pages", run, "--out", other, "--n-tokens", 200, "--device", "cpu", "--quiet")
    assert status == 0, err
    assert manifest(other) == again
    check_interrupted_pages_continue(command, run, first, monkeypatch)


def check_interrupted_pages_continue(command: Run, run: Path, whole: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    state, update = run / "latents.unfinished", _Pass.update_
    shown = manifest(run / "latents")
    options = ["pages", run, "--device", "cpu", "--quiet", "--checkpoint-every", 64]
    calls: list[int] = []

    def interrupted(self: _Pass, *arguments: Any) -> int:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(update(self, *arguments))
        return calls[-1]

    monkeypatch.setattr(_Pass, "update_", interrupted)
    status, _, err = command(*options)
    assert status == 130
    assert "it continues" in err
    assert list(state.iterdir())
    assert manifest(run / "latents") == shown
    before = list(calls)
    calls[:] = [-1] * 3  # no further interruption
    status, _, err = command(*options)
    assert status == 0, err
    assert manifest(run / "latents")["dictionaries"] == whole["dictionaries"]
    assert not state.exists()
    assert sum(before) + sum(calls[3:]) == whole["dictionaries"][0]["n_tokens"]


def values(folder: Path, index: int, name: str) -> list[float | None]:
    text = (folder / "data" / str(index) / "table.js").read_text(encoding="utf-8")
    return json.loads(text.split(",", 1)[1].removesuffix(");\n"))[name]


def shard(folder: Path, index: int, number: int) -> list[str | None]:
    """Returns the rules in words of the latents in a file."""
    text = (folder / "data" / str(index) / f"{number}.js").read_text(encoding="utf-8")
    return [dict(own.get("words", ())).get("rule") for own in json.loads(text.split(",", 1)[1].removesuffix(");\n"))]


def test_scores_and_stability_are_columns(command: Run, model_folder: Path, token_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    runs = [tmp_path / "a", tmp_path / "b"]
    options = ["--site", "model.layers.*.mlp", "--data", token_file, "--context", 16, "--kind", "autoencoder"]
    options += ["--batch-size", 64]
    small = ["--n-tokens", "1k", "--n-latents", 24, "--k", 4, "--device", "cpu", "--held-out", "0.5"]
    for seed, run in enumerate(runs):
        status, _, err = command("train", model_folder, *options, *small, "--seed", seed, "--out", run)
        assert status == 0, err
        assert "MB of pages" in err
    first = ["pages", runs[0], "--device", "cpu", "--quiet"]
    status, _, err = command(*first, "--scores", "--stability", runs[1])
    assert status == 0, err
    loaded = finished_run(runs[0], device="cpu", progress=False)
    assert len(loaded.sites) == 2
    for name, site in loaded.sites.items():
        again = runs[0] / name / "latents"
        columns = [own["scores"] for own in manifest(again)["dictionaries"]]
        assert columns == [["score", "grade", "stability"], ["score", "grade"]]
        dictionaries = [sd.load(run / name / "autoencoder") for run in runs]
        assert values(again, 0, "stability") == scores.stability(*dictionaries).value.tolist()
        rules = scores.RuleScore()(scores.record(site, dictionaries[0], loaded.held_out, strings=loaded.strings))
        assert rules.n_scored > 0
        for column, found in (("score", rules.value), ("grade", rules.columns["grade"])):
            shown = torch.tensor([float("nan") if value is None else value for value in values(again, 0, column)])
            torch.testing.assert_close(shown, found.float(), rtol=1e-3, atol=1e-6, equal_nan=True)
        assert shard(again, 0, 0)[: len(rules.words or ())] == list(rules.words or ())
    check_wrong_runs(command, first, runs, tmp_path)


def check_wrong_runs(command: Run, first: list[object], runs: list[Path], empty: Path) -> None:
    """Only a run that differs in its seed alone measures stability."""
    document = json.loads((runs[1] / "run.json").read_text(encoding="utf-8"))
    document["options"]["--k"] = 5
    other = empty / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps(document), encoding="utf-8")
    wrongs = (([runs[0]], "a run with another --seed"), ([empty], "no run.json"), ([other], "differs in --k"))
    for wrong, message in (*wrongs, ([runs[1], runs[1]], "a run with another --seed")):
        status, _, err = command(*first, *(part for run in wrong for part in ("--stability", run)))
        assert status == 2
        assert message in err


def test_another_folder_is_rejected(command: Run, tmp_path: Path) -> None:
    status, _, err = command("pages", tmp_path)
    assert status == 2
    assert "RUN must be the folder of a finished run" in err
