from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from examples.report import QUICK, REPORT, STANDARD, STUDIES, Setting, options
from examples.report.__main__ import setting_of
from sparsedict import zoo
from sparsedict.training import NonFiniteLossError, Terminated

from .conftest import Run

REPOSITORY = Path(__file__).parents[2]


def asked(*arguments: str) -> Setting:
    return setting_of(options.parser().parse_args(["--out", "x", *arguments]))


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


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version(arguments: list[str], command: Run) -> None:
    status, out, _ = command(*arguments)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 120
    if arguments == ["--help"]:
        assert out.count("  python -m examples.report ") >= 3
        assert all(study.name in "".join(out.split()) for study in STUDIES)  # long lines are broken at hyphens


@pytest.mark.parametrize(
    "arguments", [[], ["--out", ""], ["--out", "x", "--n-tokens", "0"], ["--out", "x", "--seed", "-1"]]
)
def test_wrong_usage_is_status_2(arguments: list[str], command: Run) -> None:
    status, _, err = command(*arguments)
    assert status == 2
    assert "error:" in err


def test_runs_as_a_module() -> None:
    code = [sys.executable, "-m", "examples.report", "--help"]
    ran = subprocess.run(code, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert "--studies" in ran.stdout


@pytest.mark.parametrize(("error", "status"), [(ValueError("`path` is\nx"), 2), (NonFiniteLossError("x"), 1)])
def test_errors_are_one_line(
    error: Exception, status: int, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("examples.report.__main__.check_replication", fail)
    assert command("--out", tmp_path)[0] == status
    found, _, err = command("--out", tmp_path)
    assert (found, err.count("\n")) == (status, 1)
    assert "`path`" not in err
    with pytest.raises(type(error)):
        command("--out", tmp_path, "--traceback")


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (Terminated(15), 143)])
def test_an_interruption_prints_how_to_resume(
    error: BaseException, status: int, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("examples.report.__main__.check_replication", stop)
    found, _, err = command("--out", tmp_path)
    assert found == status
    assert "run the same command again" in err


def test_a_study_in_small(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randint(1, 4096, (12, 48), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    monkeypatch.setattr(zoo, "tokens", lambda split, n_tokens=None: tokens)
    arguments = ("--out", tmp_path / "run", "--quick", "--n-tokens", "256", "--studies", "sparse-decoders")
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
        patch.setattr("examples.report.replication._measure", crash)
        assert command(*arguments, "--seed", "4", "--force")[0] == 2
        assert command(*arguments, "--seed", "5", "--force")[0] == 2
    assert command(*arguments, "--seed", "4", "--force")[0] == 0
    assert not (tmp_path / "run" / "replaced-result").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["facts"]["seed"] == 4


def test_rejects_a_folder_with_other_things_before_the_model_is_loaded(command: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / "run.json").write_text('{"made_by": "sparsedict", "options": {}}')
    status, _, err = command("--model", "./gone", "--data", "x", "--out", tmp_path)
    assert status == 2
    assert "--out must be a new or empty folder" in err
    assert "contains other files (notes.md, run.json)" in err


def test_conflicting_options_raise(command: Run, tmp_path: Path) -> None:
    for arguments, words in (
        (("--data", "x"), "--data requires --model"),
        (("--model", "a/b"), "--data is required"),
    ):
        status, _, err = command("--out", tmp_path, *arguments)
        assert status == 2
        assert words in err


@pytest.mark.skipif("SPARSEDICT_TEST_DATA" not in os.environ, reason="needs the folder of real data")
def test_the_five_layers_of_a_llama(command: Run, tmp_path: Path) -> None:
    data = Path(os.environ["SPARSEDICT_TEST_DATA"])
    status, out, err = command(
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
