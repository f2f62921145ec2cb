"""The benchmarks of training run at toy sizes and write what they promise. Peers take part where they are installed."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from benchmarks import attribution, cross_layer, exclusive, gpu, gpu_parts, gpu_session, hops, live, precision, scores
from benchmarks.quality import __main__ as quality
from benchmarks.quality import page
from benchmarks.quality._results import Interval

import sparsedict as sd

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


SMALL = {
    cross_layer: [
        *("--seeds", "1", "--n-latents", "16", "--k", "2", "--n-tokens", "1024", "--n-held-out", "512"),
        *("--kinds", "per layer", "cross layer"),
    ],
    exclusive: ["--seeds", "1", "--coefficients", "0.1", "--k", "2", "--n-latents", "8", "--n-tokens", "1024"],
    hops: ["--seeds", "1", "--n-latents", "8", "--k", "2", "--coefficients", "0.05", "--n-tokens", "1024"],
    precision: ["--seeds", "1", "--n-tokens", "2048", "--n-held-out", "1024"],
}
"""Benchmarks of results instead of times."""


@pytest.mark.as_installed
@pytest.mark.parametrize("module", SMALL, ids=lambda module: module.__name__)
def test_results_have_a_value_for_each_seed(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", [module.__name__, *SMALL[module], "--out", str(file)])
    module.main()
    rows = json.loads(file.read_text())["rows"]
    rows = rows.values() if isinstance(rows, dict) else [row.get("values", row.get("fvu")) for row in rows]
    values = [values for row in rows for values in row.values()]
    assert values
    assert all(len(own) == 1 for own in values)


@pytest.mark.slow
def test_attribution_measures_only_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "rows.json", tmp_path / "rows.png"
    sizes = ["--n-layers", "2", "--width", "24", "--n-latents", "64", "--latents-for-tokens", "16", "--n-tokens", "8"]
    options = [*sizes, "--tokens-for-latents", "8", "--max-latents", "--out", str(out), "--picture", str(picture)]
    out.write_text(json.dumps({"rows": [{"n_tokens": 8, "max_latents": 16}]}))
    attribution.main(options)
    (row,) = json.loads(out.read_text())["rows"]
    assert row["n_nodes"] > 8
    assert row["completeness_error"] < 1e-4
    assert row["cpu_seconds"] > 0
    assert picture.stat().st_size > 1000
    before = out.read_text()
    attribution.main(options)
    assert out.read_text() == before
    assert f"| 8 | 16 | {row['n_nodes']} |" in capsys.readouterr().out


@pytest.mark.as_installed
def test_scores_are_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "scores.json"
    sizes = ["--n-latents", "16", "--k", "2", "--n-train", "2048", "--n-tokens", "20000", "--out", str(file)]
    sizes += ["--n-shuffles", "2"]
    monkeypatch.setattr(sys, "argv", ["benchmarks.scores", *sizes])
    # Tokenising the whole standard library takes ten seconds.
    tokens = sd.zoo.tokens
    monkeypatch.setattr(sd.zoo, "tokens", lambda split, *, n_tokens=8192: tokens(split, n_tokens=n_tokens))
    scores.main()
    rows = json.loads(file.read_text())["calibration"]
    assert rows["planted, the token after it, ideal states"]["intruder"]["mean"]["value"] > 0.97
    for name in ("rule", "intruder", "example embedding", "detection", "fuzzing"):
        planted, shuffled = (rows[row][name] for row in ("planted, the word", "shuffled"))
        assert planted["mean"]["value"] > (0.99 if name in ("rule", "detection", "fuzzing") else 0.85)
        assert abs(shuffled["mean"]["value"] - shuffled["chance"]) < 0.1
        null = json.loads(file.read_text())["nulls"]["scores"][name]
        assert abs(null["mean"] - null["chance"]) < 0.05
        assert null["error"] > 0


@pytest.fixture
def fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers start as copies of a process that has imported the library. Each import takes two seconds."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sparsedict", "benchmarks.memory", "benchmarks.end_to_end", "benchmarks.race"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)


@pytest.mark.usefixtures("fork_server")
@pytest.mark.as_installed
@pytest.mark.parametrize("name", RUNS)
def test_it_runs_at_toy_size(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "memory" and not Path("/proc/self/clear_refs").exists():
        pytest.skip("peaks of resident memory are read from Linux's /proc")
    libraries = [] if name == "scaling" else ["--libraries", "ours"]
    options = ["--threads", "1", *libraries, *RUNS[name], "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [f"benchmarks.{name}", *options])
    importlib.import_module(f"benchmarks.{name}").main()
    assert "failed" not in capsys.readouterr().out.lower()
    content = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert content["machine"]["torch"]
    assert content["machine"]["threads"] == 1
    assert content["results"]
    assert (tmp_path / f"{name}.png").stat().st_size > 1000
    ours = "sparsedict" if name == "end_to_end" else "sparsedict, dense"
    assert ours in (tmp_path / f"{name}.txt").read_text(encoding="utf-8")


QUALITY = ["--quick", "--contenders", "TopK, Adam", "BatchTopK, LazyAdam"]


@pytest.mark.as_installed
def test_quality_continues_and_compares_at_equal_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*QUALITY, "--out", str(tmp_path), "--store", str(tmp_path / "store")]
    quality.main([*options, "--max-minutes", "0"])
    assert "8 cells are left" in capsys.readouterr().out
    quality.main(options)
    file = tmp_path / "quality.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 8  # two contenders, kinds and seeds
    assert all(0 < row["fvu"] < 1 and abs(row["l0"] - 8) < 1 and 0 <= row["truth"] <= 1 for row in rows)
    quality.main([*options, "--clock"])
    timed = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert timed[:8] == rows
    assert {row["budget"] for row in timed[8:]} == {"time"}
    own = [row for row in rows if row["kind"] == "autoencoder"]
    seconds = {name: sum(row["seconds"] for row in own if row["contender"] == name) for name in QUALITY[2:]}
    longer = next(row for row in timed[8:] if row["kind"] == "autoencoder" and row["contender"] == "TopK, Adam")
    wanted = 20_480 * seconds["BatchTopK, LazyAdam"] / seconds["TopK, Adam"]
    assert longer["n_tokens"] == pytest.approx(max(1024, wanted), abs=1)
    table = (tmp_path / "quality.txt").read_text(encoding="utf-8")
    assert "BatchTopK, LazyAdam (reference)" in table
    assert (tmp_path / "quality.png").stat().st_size > 1000


def test_live_counts_whole_runs_and_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "live.json"
    options = ["--shapes", "toy", "--rounds", "1", "--steps", "40", "--store", str(tmp_path), "--out", str(out)]
    options += ["--contenders", "sparsedict train", "TopK, Adam"]
    live.main([*options, "--max-minutes", "0"])
    assert "2 runs are left" in capsys.readouterr().out
    live.main(options)
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [row["contender"] for row in rows] == ["sparsedict train", "TopK, Adam"]
    assert all(len(row["costs"]) == 2 and min(row["costs"]) > 1 and 0 < row["fvu"] < 1 for row in rows)
    live.main(options)  # nothing is left to measure
    assert json.loads(out.read_text(encoding="utf-8"))["rows"] == rows


def test_quality_reports_a_contender_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing:
        packages = ()

        def can_train(self, kind: str, source: str) -> bool:
            return kind == "autoencoder"

        def train(self, task: Any, data: Any) -> Any:
            raise RuntimeError("no such optimiser")

    monkeypatch.setattr(quality, "all_contenders", lambda: {"failing": Failing()})
    quality.main(["--quick", "--out", str(tmp_path), "--store", str(tmp_path)])
    out = capsys.readouterr().out
    assert "FAILED synthetic, 0, autoencoder, 256, 8, failing, 1.0, seed 0: RuntimeError: no such optimiser" in out


def test_the_page_has_the_better_rate_and_ratios_of_equal_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cell(contender: str, seed: int, fvu: float, k: int = 8, rate: float = 1.0, **others: Any) -> dict[str, Any]:
        row = {"source": "stories", "layer": 2, "kind": "autoencoder", "n_latents": 1024, "k": k, "n_distinct": 1000}
        row |= {"budget": "tokens", "n_planned": 300_000, "contender": contender, "lr_factor": rate, "seed": seed}
        return {**row, "fvu": fvu, "l0": k, "loss_recovered_zero": 0.9, "dead": 0.0, **others}

    saelens = "SAELens BatchTopK, our rate"
    rows = [cell("sparsedict train", seed, fvu) for seed, fvu in ((0, 0.1), (1, 0.2))]
    rows += [cell(saelens, 0, 0.15), cell(saelens, 0, 0.3, rate=0.5), cell(saelens, 1, 0.3)]
    rows += [cell("sparsedict train", 1, 0.1, kind="transcoder", l0=6), cell("sparsedict train", 0, 0.1, budget="time")]
    rows += [cell("sparsedict train", 0, 0.05, k=16), cell(saelens, 0, 0.04, k=16)]
    results, picture = tmp_path / "quality.json", tmp_path / "quality.png"
    results.write_text(json.dumps({"rows": rows}), encoding="utf-8")
    page.main(["--results", str(results), "--picture", str(picture)])
    printed = capsys.readouterr().out
    assert "| 8 | SAELens BatchTopK | 1 | 2 | 8.0 | 0.2250 ± 0.9532 | 1.50 ± 0.00 |" in printed
    assert printed.index("| 16 | SAELens") < printed.index("| 16 | `sparsedict train`")
    assert "| stories, layer 2 | 300,000 | 8 | 0.1500 ± 0.6355 | 0.50 (6) |" in printed
    assert picture.stat().st_size > 1000
    results.write_text(json.dumps({"rows": rows[:4]}), encoding="utf-8")
    with pytest.raises(SystemExit, match="no comparison with several values of k"):
        page.main(["--results", str(results), "--picture", str(picture)])


def test_intervals_are_those_of_students_t() -> None:
    interval = Interval.of([1.0, 2.0, 4.0])
    assert interval.mean == pytest.approx(7 / 3)
    assert interval.half == pytest.approx(4.303 * 1.5275 / 3**0.5, rel=1e-3)
    assert Interval.of([2.0]).half is None


@pytest.mark.as_installed
def test_kernels_are_timed_without_a_gpu_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--shapes", "toy", "--rounds", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *options])
    gpu.main()
    toy = json.loads(out.read_text(encoding="utf-8"))["shapes"]["toy"]
    assert toy["kernels"]["torch.bfloat16"]["weighted_rows"]["seconds"] > 0
    assert toy["step"]["forward_and_backward_over_product"] > 0


def session(out: Path, *options: str) -> dict[str, Any]:
    """Runs a GPU session on the CPU, from the source tree alone, and returns its results."""
    command = [sys.executable, "-m", "benchmarks.gpu_session", "--device", "cpu", "--out", str(out), *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    results = json.loads((out / "session.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert done.returncode == any(found["status"] != "done" for found in results.values()), done.stderr
    for name, found in results.items():
        assert name in (out / "session.txt").read_text(encoding="utf-8")
        assert found["status"] in done.stdout
    return results


@pytest.mark.slow
def test_a_gpu_session_runs_without_a_gpu_too(tmp_path: Path) -> None:
    """One part of each command: those of `gpu_parts` and `gpu`. The other parts run in this process below."""
    results = session(tmp_path, "--minutes", "6", "--parts", "resume", "kernels")
    assert {found["status"] for found in results.values()} == {"done"}, results
    assert results["resume"]["figures"]["equal bit for bit"] is True
    assert results["kernels"]["figures"]["shapes"]["toy"]["step"]["product_seconds"] > 0


@pytest.mark.as_installed
@pytest.mark.parametrize("name", ["check", "step", "fit", "circuits"])
def test_a_part_of_a_gpu_session_writes_its_figures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (part,) = (part for part in gpu_session.PARTS if part.name == name)
    options = gpu_session.command(part, tmp_path, "cpu")
    assert options[1:3] == ["-m", "benchmarks.gpu_parts"]
    monkeypatch.setattr(sys, "argv", options[2:])
    gpu_parts.main()
    figures = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    if name == "check":
        assert figures["topk, torch.float32, relative error of gradients"] < 1e-3
    elif name == "step":
        assert any("dense over the product" in figure for figure in figures)
    elif name == "fit":
        assert figures["harvest, tokens per second"] > 0
    else:
        assert figures["completeness error, float64"] < 1e-12
        assert figures["error with everything held, float64"] < 1e-10


def test_a_gpu_session_ends_in_time_and_writes_its_results(tmp_path: Path) -> None:
    start = time.monotonic()
    results = session(tmp_path, "--minutes", "0.12", "--parts", "check", "fit")
    assert time.monotonic() - start < 60
    assert results["check"]["status"] == "timed out"
    assert set(results) == {"check", "fit"}


def test_a_gpu_session_without_time_for_any_part_fails(tmp_path: Path) -> None:
    results = session(tmp_path, "--minutes", "0.09")
    assert {found["why"] for found in results.values()} == {"no time was left"}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_stopped_gpu_session_leaves_no_process_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_session", "--device", "cpu", "--out", str(tmp_path)]
    process = subprocess.Popen([*command, "--parts", "fit"], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (children := _children(process.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert children
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_of_a_part_ends_the_part(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def start(*args: Any, **options: Any) -> Any:
        started.append(popen([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        signal.raise_signal(number)
        return started[0]

    def stop(*_: object) -> None:
        raise InterruptedError

    popen = subprocess.Popen
    monkeypatch.setattr(gpu_session.subprocess, "Popen", start)
    earlier = signal.signal(number, stop)
    try:
        with pytest.raises(InterruptedError):
            gpu_session.run(gpu_session.PARTS[0], tmp_path, "cpu", 600.0)
    finally:
        signal.signal(number, earlier)
    assert started[0].poll() == -signal.SIGKILL


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_gpu_session_names_missing_packages_and_replaces_progress_bars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = gpu_session.find_spec
    monkeypatch.setattr(gpu_session, "find_spec", lambda name: None if name in ("pytest", "tqdm") else found(name))
    tests = next(part for part in gpu_session.PARTS if part.name == "tests")
    result = gpu_session.run(tests, tmp_path, "cpu", 1.0)
    assert result == {"status": "skipped", "seconds": 0.0, "why": "not installed: pytest"}
    paths = gpu_session.environment(tmp_path)["PYTHONPATH"].split(os.pathsep)
    # -S leaves out the packages that are installed, so that tqdm can only be the stand-in.
    code = (
        f"import sys; sys.path[:0] = {paths[:3]!r}\n"
        "from tqdm.auto import tqdm\n"
        "with tqdm(total=3, disable=True) as bar: bar.update(1), bar.set_postfix_str('a')\n"
        "print(list(tqdm([1, 2])), tqdm.format_interval(3.2))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1, 2] 3 s"
    monkeypatch.setattr(gpu_session, "find_spec", lambda name: None if name == "einops" else found(name))
    for part in gpu_session.PARTS:
        assert gpu_session.run(part, tmp_path, "cpu", 1.0)["why"] == "not installed: einops"


@pytest.mark.parametrize(("code", "status"), [(0, "done"), (1, "failed"), (5, "skipped")])
def test_a_gpu_session_reports_how_the_tests_ended(
    code: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = next(part for part in gpu_session.PARTS if part.name == "tests")
    script = f"print('1 skipped'); raise SystemExit({code})"
    monkeypatch.setattr(gpu_session, "command", lambda *_: [sys.executable, "-c", script])
    found = gpu_session.run(tests, tmp_path, "cpu", 60.0)
    assert (found["status"], found["why"]) == (status, "1 skipped")
