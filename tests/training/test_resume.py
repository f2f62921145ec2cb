"""Runs that are stopped and go on end as runs that never were stopped."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import pytest

from sparsedict.training import _checkpoints

from ._runs import CASES, Case, last_state, same, same_results


class Killed(BaseException):
    """Stands for the end of the process."""


@contextlib.contextmanager
def killed_after(step: int, monkeypatch: pytest.MonkeyPatch):
    """Ends the run when the checkpoint of a step has been written."""
    write = _checkpoints.Checkpoints.write

    def then_die(self, n_steps, state):
        write(self, n_steps, state)
        if n_steps >= step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(_checkpoints.Checkpoints, "write", then_die)
        with pytest.raises(Killed):
            yield


@contextlib.contextmanager
def replaying(case: Case, step: int):
    """Expects the warning of data that is read again, and no other."""
    if case.replays and step > 1:
        with pytest.warns(UserWarning, match="`data` can't go to where the run was stopped"):
            yield
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield


@pytest.mark.as_installed  # beartype draws from the random generators that are compared here
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_run_that_goes_on_ends_like_one_that_was_never_stopped(case, tmp_path: Path, monkeypatch):
    whole = case.run(tmp_path / "whole", checkpoint_every=1)
    same_results(whole, case.run())
    for step in (0, 4, 10):
        folder = tmp_path / str(step)
        with killed_after(step, monkeypatch):
            case.run(folder, checkpoint_every=1)
        with replaying(case, step):
            resumed = case.run(folder, checkpoint_every=1, resume=True)
        same_results(whole, resumed)
        same(last_state(tmp_path / "whole"), last_state(folder))
    # A run that has ended is read, not made again.
    same_results(whole, case.run(tmp_path / "4", resume=True))
