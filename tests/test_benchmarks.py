"""The benchmarks of training run at toy sizes and write what they promise. Peers take part where they are installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

RUNS = {
    "step": [
        "--shapes",
        "toy",
        "--kinds",
        "topk-autoencoder",
        "relu-distiller",
        "--rounds",
        "1",
        "--turn-seconds",
        "0",
    ],
    "scaling": [
        *("--d", "8", "--base-latents", "32", "--base-tokens", "16", "--base-k", "2", "--n-latents", "32", "64"),
        *("--k", "2", "--n-tokens", "16", "--rounds", "1", "--turn-seconds", "0"),
    ],
    "end_to_end": [
        *("--sources", "embedded", "--steps", "8", "--batch-size", "256", "--n-latents", "64", "--k", "4"),
        *("--kinds", "autoencoder", "--n-held-out", "2048", "--rounds", "1"),
    ],
    "memory": ["--d", "8", "--k", "2", "--n-latents", "32", "--n-tokens", "16"],
}


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_at_toy_size(name: str, tmp_path: Path) -> None:
    if name == "memory" and not Path("/proc/self/clear_refs").exists():
        pytest.skip("peaks of resident memory are read from Linux's /proc")
    command = [sys.executable, "-m", f"benchmarks.{name}", "--threads", "1", "--libraries", "ours", *RUNS[name]]
    if name == "scaling":
        command = [part for part in command if part not in ("--libraries", "ours")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert "failed" not in done.stdout
    content = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert content["machine"]["torch"]
    assert content["machine"]["threads"] == 1
    assert content["results"]
    assert (tmp_path / f"{name}.png").stat().st_size > 1000
    ours = "sparsedict" if name == "end_to_end" else "sparsedict, dense"
    assert ours in (tmp_path / f"{name}.txt").read_text(encoding="utf-8")


def test_kernels_are_timed_without_a_gpu_too(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--shapes", "toy", "--rounds", "1"]
    subprocess.run([*command, "--out", str(out)], cwd=REPOSITORY, capture_output=True, timeout=300, check=True)
    toy = json.loads(out.read_text(encoding="utf-8"))["shapes"]["toy"]
    assert toy["kernels"]["torch.bfloat16"]["weighted_rows"]["seconds"] > 0
    assert toy["step"]["forward_and_backward_over_product"] > 0
