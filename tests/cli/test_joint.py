"""Commands on runs of one dictionary of several sites: rating, pages with scores and stability, and a killed run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import sparsedict as sd
from rendering import empty_images
from sparsedict.pages.graphs._examples import read_script

from .conftest import Run

KINDS = ("cross-layer", "crosscoder")
LAYERS = ("model.layers.0.mlp", "model.layers.1.mlp")
SMALL = ["--n-latents", "24", "--k", "4", "--lr", "0.03", "--batch-size", "64", "--device", "cpu", "--context", "16"]
SMALL += ["--held-out", "0.5", "--quiet"]


def options(model: Path, tokens: Path, kind: str, out: Path, *more: str) -> list[str]:
    where = ["--site", "model.layers.*.mlp", "--data", str(tokens), "--out", str(out)]
    return ["train", str(model), "--kind", kind, *where, *SMALL, *more]


@pytest.fixture(scope="module", params=KINDS)
def runs(
    request: pytest.FixtureRequest, model_folder: Path, token_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    """The kind, and two runs that differ in their seed."""
    from sparsedict.cli import main

    folder = tmp_path_factory.mktemp("joint")
    for seed in ("0", "1"):
        own = options(model_folder, token_file, request.param, folder / seed, "--n-tokens", "2k", "--seed", seed)
        with empty_images():
            assert main(own) == 0
    return request.param, folder / "0", folder / "1"


@pytest.mark.parametrize("text", [[], ["--n-tokens", "1k"]], ids=["examples of pages", "other text"])
def test_latents_and_the_neurons_of_each_layer_are_rated(
    runs: tuple[str, Path, Path], text: list[str], command: Run, tmp_path: Path
) -> None:
    kind, run, _ = runs
    page = tmp_path / "rate.html"
    given = ["--n-per-kind", "3", "--quiet", "--device", "cpu", *text]
    status, _, err = command("rate", run, "--out", page, "--ratings", tmp_path / "ratings", *given)
    assert status == 0, err
    key = json.loads((tmp_path / "ratings" / "key.json").read_text(encoding="utf-8"))
    found = Counter(item["dictionary"] for item in key["items"])
    assert found == {kind: 3, **{f"{layer}.neurons": 3 for layer in LAYERS}}
    assert not any(name in page.read_text(encoding="utf-8") for name in (kind, *LAYERS))


def test_pages_have_scores_and_stability(runs: tuple[str, Path, Path], command: Run, tmp_path: Path) -> None:
    kind, run, other = runs
    given = ["--scores", "--stability", other, "--out", tmp_path / "pages", "--quiet", "--device", "cpu"]
    status, _, err = command("pages", run, *given)
    assert status == 0, err
    names = [own["name"] for own in read_script(tmp_path / "pages" / "data" / "manifest.js")["dictionaries"]]
    table = read_script(tmp_path / "pages" / "data" / str(names.index(kind)) / "table.js")
    expected = sd.analysis.scores.stability(sd.load(run / kind), sd.load(other / kind))
    assert table["stability"] == expected.value.tolist()
    if kind == "cross-layer":  # latents of different layers read different points, so none is another's return
        layers = torch.arange(48) // 24, expected.columns["partner"].long() // 24
        assert (layers[0] == layers[1])[expected.value > 0].all()
    assert len(table["score"]) == len(table["grade"]) == len(table["stability"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cross-layer"])
def test_a_killed_run_is_resumed_with_the_same_result(
    kind: str, model_folder: Path, command: Run, tmp_path: Path
) -> None:
    token_file = tmp_path / "tokens.npy"
    np.save(token_file, np.random.default_rng(0).integers(1, 64, 17_000).astype(np.uint16))
    # The weights are compared, so few tokens are held out for the evaluation.
    more = ("--n-tokens", "16k", "--checkpoint-every", "40", "--held-out", "0.05")
    with empty_images():
        status, _, err = command(*options(model_folder, token_file, kind, tmp_path / "whole", *more))
        assert status == 0, err
        given = options(model_folder, token_file, kind, tmp_path / "killed", *more)
        process = subprocess.Popen([sys.executable, "-m", "sparsedict", *given], stderr=subprocess.DEVNULL)
        checkpoints, end = tmp_path / "killed" / "checkpoints", time.monotonic() + 120
        # The first checkpoint is that of the start.
        while not any(int(path.name[5:]) for path in checkpoints.glob("step-*")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed" / kind).exists()
        assert command(*given)[0] == 2
        status, _, err = command(*given, "--resume")
    assert status == 0, err
    whole, resumed = (sd.load(tmp_path / name / kind) for name in ("whole", "killed"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
