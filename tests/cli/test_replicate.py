from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest
import torch

from sparsedict import zoo
from sparsedict.cli import _replicate_options
from sparsedict.cli import replicate as module
from sparsedict.studies import QUICK, REPORT, STANDARD, STUDIES, Setting

from .conftest import Run


def asked(*arguments: str) -> Setting:
    parser = argparse.ArgumentParser()
    _replicate_options.add(parser.add_subparsers())
    return module.setting_of(parser.parse_args(["replicate", "--out", "x", *arguments]))


def test_the_options_choose_the_setting() -> None:
    assert asked() == STANDARD
    assert asked("--quick") == QUICK
    assert asked("--model", "a/b", "--data", "c/d") == REPORT
    assert asked("--model", "a/b", "--data", "c/d", "--quick") == QUICK
    fewer = asked("--model", "a/b", "--data", "c/d", "--n-tokens", "4M")
    assert fewer.report.n_tokens == 4_000_000
    assert fewer.n_harvested == 4_000_000
    assert fewer.modern.n_tokens == REPORT.modern.n_tokens // 1000
    assert fewer.report.lr == REPORT.report.lr


def test_the_names_of_the_studies_are_those_of_the_room() -> None:
    assert [study.name for study in STUDIES] == list(_replicate_options.STUDIES)


def test_a_study_in_small(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randint(1, 4096, (12, 48), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    monkeypatch.setattr(zoo, "tokens", lambda split, n_tokens=None: tokens)
    arguments = ("replicate", "--out", tmp_path / "run", "--quick", "--n-tokens", "256", "--studies", "sparse-decoders")
    status, out, err = command(*arguments, "--seed", "3")
    assert status == 0, err
    assert "[1/1] Appendix A" in err
    assert f"Open {tmp_path / 'run' / 'index.html'} in a browser." in out
    run = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert (run["facts"]["seed"], run["facts"]["model"]) == (3, "the embedded model")
    status, _, err = command(*arguments, "--seed", "4")
    assert status == 2
    assert "--out must be a new folder" in err
    assert "holds a run with another seed" in err
    assert set(run["environment"]["versions"]) >= {"torch", "sparsedict"}
    # A run of other settings takes its place when it is there, and not before.
    (tmp_path / "run" / "ratings.json").write_text("{}")
    before = (tmp_path / "run" / "numbers" / "sparse-decoders.json").read_text()

    def crash(*_: object) -> None:
        assert (tmp_path / "run" / "replaced-result" / "numbers" / "sparse-decoders.json").read_text() == before
        raise OSError("crash")

    with monkeypatch.context() as patch:
        patch.setattr("sparsedict.studies._replicate._measure", crash)
        assert command(*arguments, "--seed", "4", "--force")[0] == 2
        assert command(*arguments, "--seed", "5", "--force")[0] == 2
    assert command(*arguments, "--seed", "4", "--force")[0] == 0
    assert not (tmp_path / "run" / "replaced-result").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["facts"]["seed"] == 4


def test_refuses_a_folder_with_other_things_before_the_model_is_loaded(command: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / "run.json").write_text('{"made_by": "sparsedict", "options": {}}')
    status, _, err = command("replicate", "--model", "./gone", "--data", "x", "--out", tmp_path)
    assert status == 2
    assert "--out must be a new or empty folder" in err
    assert "holds other things (notes.md, run.json)" in err


def test_refuses_what_does_not_go_together(command: Run, tmp_path: Path) -> None:
    for arguments, words in (
        (("--data", "x"), "--data goes with --model"),
        (("--model", "a/b"), "--data must be given"),
    ):
        status, _, err = command("replicate", "--out", tmp_path, *arguments)
        assert status == 2
        assert words in err


@pytest.mark.skipif("SPARSEDICT_TEST_DATA" not in os.environ, reason="needs the folder of real data")
def test_the_five_layers_of_a_llama(command: Run, tmp_path: Path) -> None:
    data = Path(os.environ["SPARSEDICT_TEST_DATA"])
    status, out, err = command(
        "replicate",
        *("--model", data / "stories260K", "--path", "model.layers.{}.mlp"),
        *("--data", data / "stories-train-tokens.npy", "--vocabulary", data / "tok512-vocab.json"),
        *("--quick", "--n-tokens", "1024", "--studies", "loss-by-layer", "first-latents", "--out", tmp_path / "run"),
    )
    assert status == 0, err
    assert "loss-by-layer" in out
    numbers = json.loads((tmp_path / "run" / "numbers" / "loss-by-layer.json").read_text(encoding="utf-8"))
    assert numbers["layers"] == [0, 1, 2, 3, 4]
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["facts"]
    # The Llama writes far less than the embedded model: coefficients are made smaller with it.
    assert max(facts["coefficients"]) < max(QUICK.coefficients)
    texts = json.loads((tmp_path / "run" / "numbers" / "first-latents.json").read_text(encoding="utf-8"))["strings"]
    assert not any(text.startswith("[") and text.endswith("]") for text in texts.values())
