"""`sparsedict pages` writes the pages of a finished run."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Run


def manifest(folder: Path) -> dict:
    text = (folder / "data" / "manifest.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix('sparsedict.receive("manifest",').removesuffix(");\n"))


def test_pages_of_a_run_are_written_again(command: Run, model_folder: Path, token_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--site", "model.layers.0.mlp", "--data", token_file, "--context", 16, "--kind", "autoencoder"]
    small = ["--n-tokens", "1k", "--n-latents", 24, "--k", 4, "--device", "cpu", "--held-out", "0.5", "--quiet"]
    status, _, err = command("train", model_folder, *options, *small, "--out", run)
    assert status == 0, err
    first = manifest(run / "latents")
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


def test_another_folder_is_rejected(command: Run, tmp_path: Path) -> None:
    status, _, err = command("pages", tmp_path)
    assert status == 2
    assert "RUN must be the folder of a finished run" in err
