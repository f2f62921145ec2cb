"""The benchmarks of known features and of advice run at toy sizes, and stop and resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import advice, truth

pytest.importorskip("scipy")


def test_a_stopped_benchmark_of_truth_resumes_with_the_same_figures(tmp_path: Path) -> None:
    sizes = ["--truth", "A", "--tokens", "2048", "--n-held-out", "300", "--recipes", "TopK, Adam, AnnealK"]
    whole, resumed = tmp_path / "whole.json", tmp_path / "resumed.json"
    assert truth.main([*sizes, "--out", str(whole)]) == 0
    saved = ["--checkpoints", str(tmp_path / "checkpoints"), "--out", str(resumed)]
    assert truth.main([*sizes, *saved, "--minutes", "0"]) == 75
    assert not resumed.exists()
    assert truth.main([*sizes, *saved]) == 0
    assert truth.main([*sizes, *saved]) == 0  # a finished run is measured again, and its row replaced
    (row,), (other,) = (json.loads(file.read_text()) for file in (whole, resumed))
    for name in ("recovered", "MCC", "F1", "oracle F1", "FVU"):
        assert row[name] == other[name], name
    assert 0 < row["MCC"] < 1
    with pytest.raises(SystemExit):
        truth.main(["--minutes", "1"])


def test_the_benchmark_of_advice_compares_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--kinds", "large mean", "huge tokens", "--seeds", "0", "--n-tokens", "4096", "--n-latents", "32"]
    advice.main([*sizes, "--no-skip", "--out", str(tmp_path / "advice.json")])
    rows = json.loads((tmp_path / "advice.json").read_text())["rows"]
    assert len(rows) == 8
    assert rows["large mean, autoencoder, default"] == rows["large mean, autoencoder, advice"]
    assert rows["large mean, distiller, advice"]["FVU"] != rows["large mean, distiller, default"]["FVU"]
    assert "exclude_first=1" in capsys.readouterr().out
