"""`sparsedict diagnose` prints the diagnosis of a site."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import sparsedict as sd

from .conftest import Run

SMALL = ("--device", "cpu", "--quiet", "--n-tokens", "600", "--context", "16")


def test_sites_are_diagnosed(command: Run, model_folder: Path, token_file: Path) -> None:
    options = ("--site", "model.layers.*.mlp", "--data", token_file, *SMALL)
    status, out, err = command("diagnose", model_folder, *options)
    assert status == 0, err
    for part in ("model.layers.0.mlp\n", "model.layers.1.mlp\n", "inputs: effective rank", "advice, k"):
        assert part in out
    assert "never fired" not in out


def test_a_dictionary_is_diagnosed(command: Run, model_folder: Path, token_file: Path, tmp_path: Path) -> None:
    sae = sd.SparseAutoencoder(8, 24, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
    sae.save(tmp_path / "sae")
    options = ("--site", "model.layers.0.mlp", "--data", token_file, "--dictionary", tmp_path / "sae", *SMALL)
    status, out, err = command("diagnose", model_folder, *options)
    assert status == 0, err
    assert "of 24" in out
    assert "error in the worst 1 % of tokens" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--site", "model.layers.0.mlpp"), "--site must"),
        (("--site", "model.layers.0.mlp", "--context", "99"), "--context must be at most the model's 32 positions"),
        (("--site", "model.layers.0.mlp", "--dictionary", "nowhere"), "--dictionary must be a folder or file"),
        (("--site", "model.layers.0.mlp", "--exclude-tokens", *map(str, range(1, 64))), "--data must have at least 16"),
    ],
)
def test_bad_options(
    command: Run, model_folder: Path, token_file: Path, options: tuple[str, ...], message: str
) -> None:
    status, _, err = command("diagnose", model_folder, "--data", token_file, *SMALL, *options)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_one_dictionary_is_for_one_site(command: Run, model_folder: Path, token_file: Path, tmp_path: Path) -> None:
    sd.SparseAutoencoder(8, 24, activation=sd.TopK(2), decoder_norm=sd.UnitNorm()).save(tmp_path / "sae")
    options = ("--site", "model.layers.*.mlp", "--data", token_file, "--dictionary", tmp_path / "sae", *SMALL)
    status, _, err = command("diagnose", model_folder, *options)
    assert status == 2
    assert "--site must name one MLP with --dictionary, got 2" in err


def test_a_dictionary_of_several_sites_is_rejected(
    command: Run, model_folder: Path, token_file: Path, tmp_path: Path
) -> None:
    both = {"a": 8, "b": 8}
    sd.Crosscoder(both, 24, activation=sd.TopK(2), decoder_norm=sd.UnitNorm()).save(tmp_path / "crosscoder")
    options = ("--site", "model.layers.0.mlp", "--data", token_file, "--dictionary", tmp_path / "crosscoder", *SMALL)
    status, _, err = command("diagnose", model_folder, *options)
    assert status == 2
    assert "--dictionary must be a distiller or an autoencoder" in err
    assert "got a Crosscoder of 'a.outputs', 'b.outputs'." in err


def test_warnings_name_the_option(command: Run, model_folder: Path, token_file: Path) -> None:
    options = ("--data", token_file, "--site", "model.layers.0", *SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        status, _, err = command("diagnose", model_folder, *options)
    assert status == 0, err
    assert "warning: --site 'model.layers.0' (LlamaDecoderLayer) contains more than an MLP" in err
