"""The command line on two ranks, as ``torchrun`` starts them. The ranks are started once, and run all commands."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sparsedict as sd
from ranks import run_ranks
from rendering import empty_images
from sparsedict.cli import _ranks, main
from sparsedict.training._loop import Loop

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks are forked")]

SMALL = ["--n-tokens", "600", "--context", "16", "--quiet", "--batch-size", "64", "--k", "4", "--kind", "autoencoder"]
COMMANDS: dict[str, list[str]] = {
    "unknown option": ["--n-tokens", "many"],
    "wrong value": ["--lr", "0"],
    "wrong ranks": ["--latent-ranks", "3"],
    "stopped": [],
    "exists": [],
    "resumed": ["--resume"],
    "finished": ["--resume"],
    "forced": ["--force", "--seed", "1"],
}
JOINT = ("cross-layer", "crosscoder")
JOINT_OPTIONS = ["--site", "model.layers.*.mlp", "--n-latents", "24", "--lr", "0.03"]
Results = tuple[Path, list[dict[str, tuple[int, str, str]]]]


@contextlib.contextmanager
def stopping(step: int) -> Iterator[None]:
    """Returns a context in which rank 1 receives SIGTERM at a step."""
    usual = Loop._step

    def then_stop(self: Loop, *args: Any) -> None:
        usual(self, *args)
        if self.n_steps == step and _ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    setattr(Loop, "_step", then_stop)  # noqa: B010
    try:
        yield
    finally:
        setattr(Loop, "_step", usual)  # noqa: B010


def called(arguments: list[str]) -> tuple[int, str, str]:
    """Calls the command line. Returns its status and its output."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = int(stop.code or 0)
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, token_file: Path) -> Results:
    """The folder of the runs, and the status and the output of all commands on each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = ["train", str(model_folder), "--site", "model.layers.1.mlp", "--data", str(token_file), *SMALL]
    start += ["--out", str(folder / "run")]

    def run(rank: int, n_ranks: int, _: Path) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(n_ranks), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        _ranks.WAIT = 0.0
        found: dict[str, Any] = {}
        for name, options in COMMANDS.items():
            with stopping(4 if name == "stopped" else -1):
                found[name] = called([*start, *options])
        for kind in JOINT:
            out = ["--out", str(folder / kind), "--latent-ranks", "2"]
            found[kind] = called([*start, *JOINT_OPTIONS, "--kind", kind, *out])
        for command in ("pages", "rate", "demo"):
            found[command] = called([command, *(["--out"] if command == "demo" else []), str(folder / "run")])
        found["trace"] = called(["trace", str(folder / "run"), "a", "--out", str(folder / "graph")])
        (folder / f"{rank}.json").write_text(json.dumps(found))

    with empty_images():
        run_ranks(2, run, folder)
        for kind in JOINT:
            assert main([*start, *JOINT_OPTIONS, "--kind", kind, "--out", str(folder / f"whole {kind}")]) == 0
    assert sd.load(folder / "run" / "autoencoder").n_latents == 48
    assert not (folder / "graph").exists()
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("unknown option", 2, "argument --n-tokens"),
        ("wrong value", 2, "sparsedict: error: --lr must lie in (0.0, inf), got 0.0."),
        ("wrong ranks", 2, "--latent-ranks must divide the number of processes that torchrun starts, 2, got 3"),
        ("stopped", 143, "sparsedict: stopped by SIGTERM; run the same command with --resume"),
        ("exists", 2, "--out must be a new or empty folder"),
        ("resumed", 0, "autoencoder"),
        ("finished", 0, "This run is already finished"),
        ("forced", 0, "autoencoder"),
        *((kind, 0, kind) for kind in JOINT),
        *((name, 2, f"`sparsedict {name}` must run in one process") for name in ("pages", "rate", "trace", "demo")),
    ],
)
def test_all_ranks_end_alike_and_rank_0_prints(name: str, status: int, text: str, results: Results) -> None:
    (first, out, err), (second, *others) = (of[name] for of in results[1])
    assert (first, second) == (status, status), err + "".join(others)
    assert (out if status == 0 else err).count(text) >= 1
    assert "sparsedict:" not in "".join(others)
    assert others[0] == ""


@pytest.mark.parametrize("kind", JOINT)
def test_divided_latents_of_several_layers_equal_those_of_one_process(kind: str, results: Results) -> None:
    folder, ranks = results
    assert "sharded latents: 2 ranks" in ranks[0][kind][2]
    divided, whole = (sd.load(folder / name / kind).state_dict() for name in (kind, f"whole {kind}"))
    assert divided.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(divided[name], value, rtol=1e-4, atol=1e-5, msg=name)
    measured = [json.loads((folder / name / "results.json").read_text()) for name in (kind, f"whole {kind}")]
    counts = [own["results"][kind]["latents"]["firing_counts"] for own in measured]
    assert counts[0] == counts[1]
    assert sum(counts[0]) > 0
