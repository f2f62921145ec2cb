"""Folders that older versions of the format wrote are still read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import cases
import sparsedict as sd
from sparsedict.storage import FORMAT_VERSION, _migrations

WRITTEN = sorted(Path(__file__).parent.glob("version_*/*"))
MADE = {
    "distiller_bias_skip": lambda: cases.make("distiller_bias_skip", "jump_relu", "max", dtype=torch.float32),
    "autoencoder_own": lambda: cases.make("autoencoder_own", "batch_top_k", "unit", dtype=torch.bfloat16),
}


def test_every_older_version_has_a_step_and_a_folder() -> None:
    older = set(range(1, FORMAT_VERSION))
    assert set(_migrations.STEPS) == older
    assert {int(folder.parent.name.removeprefix("version_")) for folder in WRITTEN} == older


@pytest.mark.parametrize("folder", WRITTEN, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_files_of_older_versions_are_read_unchanged(folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "dictionary.json").read_text())
    assert document["format_version"] == int(folder.parent.name.removeprefix("version_"))
    loaded, made = sd.load(folder), MADE[folder.name]()
    assert loaded.arguments() == made.arguments()
    assert (loaded.activation, loaded.decoder_norm) == (made.activation, made.decoder_norm)
    assert loaded.trained_on == document["trained_on"]
    # Weights are made again, and releases of PyTorch round their norms differently.
    torch.testing.assert_close(dict(loaded.state_dict()), dict(made.state_dict()))
    loaded.save(tmp_path)
    assert json.loads((tmp_path / "dictionary.json").read_text())["format_version"] == FORMAT_VERSION
    assert torch.equal(sd.load(tmp_path).encoder, loaded.encoder)
