"""Files that version 0.1 wrote are read, and its runs are continued."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tests.version_0_1.runs import FOLDER, RUNS, run

import sparsedict as sd


@pytest.mark.filterwarnings("ignore:The run in", "ignore:.data. gives activations that differ in rounding")
@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_continues_to_the_same_weights(name: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER / name / "run", tmp_path / "run")
    trained = run(name, tmp_path / "run", resume=True)
    for key, trainee in trained.items():
        whole = sd.load(FOLDER / name / "whole" / (key or "only"))
        assert trainee.dictionary.trained_on["n_tokens"] == whole.trained_on["n_tokens"]
        # What an activation measures in training may be measured otherwise since then.
        weights = dict(whole.named_parameters())
        for weight, value in trainee.dictionary.named_parameters():
            torch.testing.assert_close(value, weights[weight], rtol=1e-4, atol=1e-5)


def test_stored_activations_are_those_of_the_model() -> None:
    store = sd.ActivationStore(FOLDER / "activations", batch_size=200)
    assert store.names == ("0", "1")
    assert store.n_tokens == 100
    store.verify()
