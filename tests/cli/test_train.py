from __future__ import annotations

import argparse
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import sparsedict as sd
from sparsedict.cli._train_options import add_options
from sparsedict.cli.train import recipe_of
from sparsedict.training._loop import Loop

from .conftest import Run

SMALL = ["--n-tokens", "600", "--context", "16", "--quiet", "--batch-size", "64", "--k", "4"]


@pytest.fixture
def start(model_folder: Path, token_file: Path, tmp_path: Path) -> list[object]:
    given = ["--site", "model.layers.1.mlp", "--data", token_file, "--out", tmp_path / "run"]
    return ["train", model_folder, *given, *SMALL]


def test_writes_everything_and_says_where(start: list[object], command: Run, tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text(json.dumps([f"<{i}>" for i in range(64)]))
    status, out, err = command(*start, "--vocabulary", tmp_path / "v.json")
    assert (status, err) == (0, "")
    run = tmp_path / "run"
    for name in ("index.html", "examples.html", "results.json", "table.txt", "figures", "distiller", "autoencoder"):
        assert str(run / name) in out
        assert (run / name).exists()
    settings = json.loads((run / "results.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["n_latents"], settings["left_out_tokens"]) == (48, [1])
    assert (run / "table.txt").read_text(encoding="utf-8") in out
    assert sd.load(run / "distiller").n_latents == 48
    # A former result may be replaced.
    assert command(*start, "--kind", "autoencoder", "--n-latents", 10)[0] == 0
    assert sd.load(run / "autoencoder").n_latents == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--site", "model.layers.1.mpl"], "Near names: 'model.layers.1.mlp'"),
        (["--l1", "3"], "--l1 goes with --activation relu, got topk"),
        (["--activation", "relu"], "--k goes with --activation topk or batchtopk, got relu"),
        (["--skip", "--kind", "autoencoder"], "--skip is for a distiller"),
        (["--device", "abacus"], "--device"),
        (["--context", "64"], "--context must be at most the model's 32 positions, got 64"),
        (["--held-out", "2"], "--held-out must be a share between 0 and 1"),
        (["--held-out", "./gone.npy"], "no file or folder './gone.npy'"),
        (["--data", "./gone.txt"], "no file or folder './gone.txt'"),
        (["--vocabulary", "gone.json"], "gone.json"),
        (["--n-latents", "3"], "k"),
        (["--expansion", "-1"], "--expansion must be positive, got -1"),
        (["--lr", "0"], "`lr` must lie in (0.0, inf), got 0.0"),
    ],
    ids=lambda value: "-".join(value).strip("-") if isinstance(value, list) else "",
)
def test_errors_say_what_to_do(options: list[str], message: str, start: list[object], command: Run) -> None:
    status, out, err = command(*start, *options)
    assert (status, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert line.startswith("sparsedict: error: ")
    assert message in line


def test_a_model_that_is_not_there(command: Run, start: list[object], tmp_path: Path) -> None:
    start[1] = "./gone"
    assert "there is no folder './gone'" in command(*start)[2]
    start[1] = tmp_path
    assert "must be a folder with a causal language model" in command(*start)[2]


def test_other_things_in_the_folder_are_noticed_before_any_work(
    command: Run, start: list[object], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.md").write_text("mine")
    start[1] = "./gone"
    status, _, err = command(*start)
    assert status == 2
    assert "holds other things (notes.md)" in err


@pytest.mark.parametrize(
    ("options", "activation", "penalty"),
    [
        ([], sd.TopK(32), sd.AuxK),
        (["--k", "5", "--activation", "batchtopk"], sd.BatchTopK(5), sd.AuxK),
        (["--activation", "relu", "--l1", "0.3"], sd.ReLU(), sd.L1),
        (["--activation", "jumprelu", "--l0", "0.1"], sd.JumpReLU(), sd.L0),
    ],
)
def test_recipes(options: list[str], activation: sd.Activation, penalty: type) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    recipe = recipe_of(parser.parse_args(["m", "--site", "s", "--data", "d", "--out", "o", *options]))
    assert recipe.activation == activation
    assert [type(part) for part in recipe.penalties] == [penalty]


def test_a_run_that_was_stopped_is_gone_on_with(
    start: list[object], command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    assert command(*start)[0] == 0
    whole = sd.load(out / "distiller")
    step = Loop._step

    def then_stop(self: Loop, *args: Any) -> None:
        step(self, *args)
        if self.n_steps == 4:
            signal.raise_signal(signal.SIGINT)

    shutil.rmtree(out)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", then_stop)
        status, _, err = command(*start)
    assert status == 130
    assert "give the same command with --resume to go on." in err
    status, _, err = command(*start)
    assert status == 2
    assert "Add --resume to go on with it, or --force to begin anew" in err
    status, _, err = command(*start, "--resume", "--lr", "0.5")
    assert status == 2
    assert "`trainees.distiller.lr` was 0.01 and is 0.5" in err
    assert command(*start, "--resume")[0] == 0
    assert torch.equal(sd.load(out / "distiller").encoder, whole.encoder)
    assert not (out / "checkpoints").exists()
    # Where nothing was stopped, it begins.
    assert command(*start, "--resume")[0] == 0


def test_a_run_that_was_stopped_may_be_begun_anew(start: list[object], command: Run, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / "step-000000003").mkdir(parents=True)
    assert command(*start)[0] == 2
    assert command(*start, "--force")[0] == 0
