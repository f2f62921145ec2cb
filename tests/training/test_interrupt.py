"""Training under Ctrl-C, other signals, a full disk and SIGKILL."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import sparsedict as sd
from sparsedict.storage import _checkpoint, _tensor_file
from sparsedict.training._batch_queue import BatchQueue
from sparsedict.training._loop import Loop

from ._runs import BATCH, CASES, N_STEPS, coder, last_state, rows, same, same_results

ADAM = CASES["a tensor, AuxK, Adam"]
ROOT = Path(__file__).parents[2]


def steps(folder: Path) -> list[int]:
    return sorted(int(item.name.removeprefix("step-")) for item in folder.iterdir() if item.name.startswith("step-"))


@contextmanager
def doing(what: Callable[[], object], *, in_step: int, monkeypatch: pytest.MonkeyPatch):
    """Does something in the middle of a step, counted from 1."""
    step = Loop._step

    def then(self: Loop, *args: Any) -> None:
        if self.n_steps + 1 == in_step:
            what()
        step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", then)
        yield


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.as_installed
def test_ctrl_c_finishes_the_step_and_explains_how_to_resume(tmp_path, monkeypatch, capsys):
    whole = ADAM.run(tmp_path / "whole", checkpoint_every=1)
    before = signal.getsignal(signal.SIGINT)
    folder = tmp_path / "stopped"
    message = (
        rf"^Stopped after step 7 of about {N_STEPS}\. The checkpoint of this step is in {folder}\. Make the same call "
        rf"with checkpoint='{folder}' and resume=True to resume the run\.$"
    )
    with doing(press_ctrl_c, in_step=7, monkeypatch=monkeypatch), pytest.raises(KeyboardInterrupt, match=message):
        ADAM.run(folder)
    assert steps(folder) == [0, 7]
    assert "press Ctrl-C again to stop at once" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    same_results(whole, ADAM.run(folder, resume=True))


def test_ctrl_c_without_a_checkpoint_keeps_the_trained_weights(monkeypatch):
    student = coder(sd.TopK(3))
    with (
        doing(press_ctrl_c, in_step=3, monkeypatch=monkeypatch),
        pytest.raises(KeyboardInterrupt, match=r"after step 3 .* Pass `checkpoint=FOLDER` to be able to resume"),
    ):
        sd.fit(student, rows(), n_tokens=640, batch_size=BATCH, progress=False)
    assert student.trained_on["n_tokens"] == 3 * BATCH
    assert not student.training
    control = coder(sd.TopK(3))
    with doing(press_ctrl_c, in_step=3, monkeypatch=monkeypatch), pytest.raises(KeyboardInterrupt):
        sd.fit(control, rows(), n_tokens=640, batch_size=BATCH, progress=False)
    same(dict(student.state_dict()), dict(control.state_dict()))


def test_a_second_ctrl_c_interrupts_at_once(tmp_path, monkeypatch):
    def twice() -> None:
        press_ctrl_c()
        press_ctrl_c()
        raise AssertionError("it went on")

    before = signal.getsignal(signal.SIGINT)
    with doing(twice, in_step=5, monkeypatch=monkeypatch), pytest.raises(KeyboardInterrupt) as found:
        ADAM.run(tmp_path, checkpoint_every=2)
    assert not str(found.value)
    assert steps(tmp_path) == [2, 4]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_the_last_step_still_stops_the_code_after_fit(tmp_path, monkeypatch):
    with (
        doing(press_ctrl_c, in_step=N_STEPS, monkeypatch=monkeypatch),
        pytest.raises(KeyboardInterrupt, match=f"after step {N_STEPS}"),
    ):
        ADAM.run(tmp_path)
    assert steps(tmp_path) == [0, N_STEPS]


def test_ctrl_c_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    def interrupted(*args: Any) -> None:
        _tensor_file.write_tensor_file(*args)
        press_ctrl_c()
        press_ctrl_c()

    def change() -> None:
        monkeypatch.setattr(_checkpoint, "write_tensor_file", interrupted)

    with doing(change, in_step=5, monkeypatch=monkeypatch), pytest.raises(KeyboardInterrupt):
        ADAM.run(tmp_path, checkpoint_every=2)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["step-000000002", "step-000000004"]


def test_where_ctrl_c_is_ignored_it_stays_so(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with doing(press_ctrl_c, in_step=2, monkeypatch=monkeypatch):
            assert ADAM.run().histories[""].n_steps == N_STEPS
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.as_installed
def test_other_threads_train_without_touching_signals(tmp_path):
    histories = []
    thread = threading.Thread(target=lambda: histories.append(ADAM.run(tmp_path).histories[""]))
    thread.start()
    thread.join()
    assert histories[0].n_steps == N_STEPS


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_signals_of_schedulers_finish_the_step_like_ctrl_c(name, tmp_path, monkeypatch, capsys, request):
    number = getattr(signal, name)
    # Under nohup SIGHUP is ignored, and a run leaves it so.
    inherited = signal.signal(number, signal.SIG_DFL)
    request.addfinalizer(lambda: signal.signal(number, inherited))
    whole = ADAM.run(tmp_path / "whole", checkpoint_every=1)
    before = signal.getsignal(number)
    folder = tmp_path / "stopped"

    def several() -> None:
        for _ in range(3):
            signal.raise_signal(number)

    with doing(several, in_step=7, monkeypatch=monkeypatch), pytest.raises(SystemExit, match="after step 7") as found:
        ADAM.run(folder)
    assert found.value.code == 128 + number
    assert isinstance(found.value, sd.training.Terminated)
    assert steps(folder) == [0, 7]
    said = capsys.readouterr().err
    assert f"{name}: stopping after this step" in said
    assert "resume=True to resume the run" in said
    assert signal.getsignal(number) is before
    same_results(whole, ADAM.run(folder, resume=True))


def test_ctrl_c_after_sigterm_stops_at_once(tmp_path, monkeypatch):
    def both() -> None:
        signal.raise_signal(signal.SIGTERM)
        press_ctrl_c()
        raise AssertionError("it went on")

    with doing(both, in_step=5, monkeypatch=monkeypatch), pytest.raises(KeyboardInterrupt):
        ADAM.run(tmp_path, checkpoint_every=2)
    assert steps(tmp_path) == [2, 4]


def test_a_handler_of_the_program_is_called_when_the_checkpoint_is_there(tmp_path, monkeypatch):
    """Where it returns, training continues, as any other work would."""
    called = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(steps(tmp_path)))
    try:
        whole = ADAM.run()
        with doing(lambda: signal.raise_signal(signal.SIGTERM), in_step=5, monkeypatch=monkeypatch):
            run = ADAM.run(tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == [[0, 5]]
    same_results(whole, run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_does_not_wait_for_a_batch_that_is_being_captured(number, tmp_path, monkeypatch):
    whole = ADAM.run()
    ahead = BatchQueue.peek

    def slow(self: BatchQueue, index: int) -> Any:
        if self._latest is not None and not self._waiting and self.batches.n_tokens_yielded == 6 * BATCH:
            signal.raise_signal(number)
            raise AssertionError("it went on")
        return ahead(self, index)

    kind = KeyboardInterrupt if number == signal.SIGINT else sd.training.Terminated
    with monkeypatch.context() as patch:
        patch.setattr(BatchQueue, "peek", slow)
        with pytest.raises(kind, match="after step 6"):
            ADAM.run(tmp_path)
    assert steps(tmp_path) == [0, 6]
    same_results(whole, ADAM.run(tmp_path, resume=True))


JOB = """
import sys, torch, sparsedict as sd
from sparsedict.training._loop import Loop
step = Loop._step
def slowly(self, *args):
    step(self, *args)
    print(self.n_steps, flush=True)
    __import__("time").sleep(0.01)
Loop._step = slowly
coder = sd.SparseAutoencoder(8, 16, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
sd.fit(coder, torch.randn(512, 8), n_tokens=10**7, batch_size=64, progress=False, checkpoint=sys.argv[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_job_that_gets_sigterm_exits_with_143_and_leaves_its_last_step(tmp_path):
    job = subprocess.Popen(
        [sys.executable, "-c", JOB, str(tmp_path / "c")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert job.stdout is not None
    for line in job.stdout:
        if int(line) >= 5:
            break
    job.terminate()
    out, err = job.communicate(timeout=60)
    last = int(out.split()[-1]) if out.split() else 5
    assert job.returncode == 143
    assert f"Stopped after step {last}" in err
    assert "Traceback" not in err
    assert steps(tmp_path / "c") == [0, last]


def no_room(file: Path, tensors: dict[str, Tensor]) -> str:
    file.write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.as_installed
def test_a_full_disk_is_a_clear_error_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    whole = ADAM.run(tmp_path / "whole", checkpoint_every=2)
    folder = tmp_path / "full"
    message = (
        r"The disk is full: the checkpoint of step 6 could not be written to .*full .*The checkpoint of step 4 is "
        r"intact\. Free some space, then resume the run with resume=True"
    )
    with monkeypatch.context() as patch:
        fill = lambda: patch.setattr(_checkpoint, "write_tensor_file", no_room)  # noqa: E731
        with doing(fill, in_step=6, monkeypatch=monkeypatch), pytest.raises(OSError, match=message) as found:
            ADAM.run(folder, checkpoint_every=2)
    assert found.value.errno == errno.ENOSPC
    assert sorted(item.name for item in folder.iterdir()) == ["step-000000002", "step-000000004"]
    same_results(whole, ADAM.run(folder, checkpoint_every=2, resume=True))
    same(last_state(tmp_path / "whole"), last_state(folder))


def test_a_full_disk_raises_an_error_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(_checkpoint, "write_tensor_file", no_room)
    with pytest.raises(OSError, match=r"The disk is full: .* step 0 .*There is no earlier checkpoint"):
        ADAM.run(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on files")
def test_a_file_that_the_system_does_not_let_grow(tmp_path, monkeypatch):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # noqa: E731
    try:
        message = r"The disk is full: the checkpoint of step 4 .* step 2 is intact"
        with doing(limit, in_step=4, monkeypatch=monkeypatch), pytest.raises(OSError, match=message):
            ADAM.run(tmp_path, checkpoint_every=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert steps(tmp_path) == [0, 2]
    same_results(ADAM.run(), ADAM.run(tmp_path, checkpoint_every=2, resume=True))


FULL = """
import pathlib, sys, torch, sparsedict as sd
folder = pathlib.Path(sys.argv[1])
coder = sd.SparseAutoencoder(64, 512, activation=sd.TopK(8), decoder_norm=sd.UnitNorm())
try:
    sd.fit(coder, torch.randn(4096, 64), n_tokens=20_000, batch_size=512, progress=False, checkpoint=folder,
           checkpoint_every=1, checkpoint_keep=9)
except OSError as error:
    print(error.errno, error, sorted(item.name for item in folder.glob("*step*")))
"""


def test_a_disk_that_is_really_full(tmp_path):
    """On a disk of 2 MiB in memory, which only this process sees, where the system lets one make it."""
    mount = f"mount -t tmpfs -o size=2m tmpfs {tmp_path} 2>/dev/null || exit 77; exec"
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    command = ["unshare", "-rm", "sh", "-c", f'{mount} {sys.executable} -c "$0" {tmp_path}', FULL]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode in (1, 77) and "Traceback" not in done.stderr:
        pytest.skip("needs user namespaces")
    assert re.search(
        rf"^{errno.ENOSPC} .*The disk is full: the checkpoint of step (\d+) could not be written", done.stdout
    ), done.stdout + done.stderr
    left = done.stdout[done.stdout.rindex("[") :]
    assert "step-000000000" in left
    assert ".writing" not in left


def test_runs_survive_sigkill(tmp_path):
    """A few kills; a hundred are ``python -m benchmarks.kills``."""
    out = tmp_path / "kills.json"
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", "6", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"kills 6, .*runs (\d+), equal_runs \1, lost_checkpoints 0,", done.stdout)
