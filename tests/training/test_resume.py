"""Resumed runs are identical to uninterrupted runs."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sparsedict as sd
from sparsedict.training import _checkpoints

from ._runs import BATCH, CASES, N_TOKENS, Case, coder, last_state, rows, same, same_results


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
def test_a_resumed_run_ends_like_an_uninterrupted_one(case, tmp_path: Path, monkeypatch):
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


class Explode(sd.Penalty):
    """Becomes infinite at a given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        return out.values.sum() * (torch.inf if out.step == self.step else 0.0)


@pytest.mark.parametrize("step", [6, 8])
def test_the_last_good_state_and_the_first_bad_step_are_kept(step, tmp_path: Path, monkeypatch):
    """Stopped before the loss became infinite and after, but before the record that finds it."""
    case = Case(lambda: ({"": sd.Trainee(coder(sd.TopK(3)), [Explode(7)], lr=1e-2)}, rows()))
    dictionaries = []
    for folder in (None, tmp_path):
        trainees, data = case.make()
        if folder is not None:
            with killed_after(step, monkeypatch):
                case.run(folder, checkpoint_every=1)
        options = {"checkpoint": folder, "resume": folder is not None, "batch_size": BATCH, "log_every": 5}
        with pytest.raises(sd.NonFiniteLossError, match=r"at step 7\..* after step 5, the last one"):
            sd.fit_many(trainees, data, n_tokens=N_TOKENS, dead_after=200, progress=False, **options)
        dictionaries.append(trainees[""].dictionary)
    same(*(dict(dictionary.state_dict()) for dictionary in dictionaries))


def test_a_dictionary_that_was_trained_before_notes_all_its_tokens(tmp_path: Path, monkeypatch):
    def trained() -> sd.Dictionary:
        dictionary = coder(sd.TopK(3))
        sd.fit(dictionary, rows(), n_tokens=256, batch_size=BATCH, progress=False)
        return dictionary

    case = Case(lambda: ({"": sd.Trainee(trained(), lr=1e-2)}, rows()))
    whole = case.run()
    with killed_after(4, monkeypatch):
        case.run(tmp_path, checkpoint_every=1)
    resumed = case.run(tmp_path, resume=True)
    same_results(whole, resumed)
    assert resumed.dictionaries[""].trained_on["n_tokens"] == 256 + N_TOKENS


def test_the_same_objects_can_be_resumed_with(tmp_path: Path, monkeypatch):
    """As in a notebook, where the cell is run again."""
    trainees, data = CASES["a tensor, AuxK, Adam"].make()
    case = Case(lambda: (trainees, data))
    with killed_after(4, monkeypatch):
        case.run(tmp_path, checkpoint_every=1)
    same_results(CASES["a tensor, AuxK, Adam"].run(), case.run(tmp_path, resume=True))


@pytest.mark.as_installed  # as above: sampled checks draw different numbers in the two runs
@pytest.mark.parametrize("case", list(CASES.values())[:4], ids=list(CASES)[:4])
def test_deterministic_algorithms_are_there_for_every_part(case):
    before = torch.backends.cudnn.benchmark
    plain, deterministic = case.run(), case.run(deterministic=True)
    same_results(plain, deterministic)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark is before
