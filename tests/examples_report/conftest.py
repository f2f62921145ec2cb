from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.report import replicate
from examples.report.__main__ import main
from rendering import empty_images

from ._experiment import experiment_of

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a replication of a small model."""
    folder = tmp_path_factory.mktemp("replication") / "run"
    with warnings.catch_warnings(), empty_images():
        # Eight steps are too few for a target.
        warnings.filterwarnings("ignore", "Dictionary .* The target of TargetL0")
        replicate(experiment_of(), folder, facts={"model": "a small one"}, progress=False)
    return folder


@pytest.fixture(autouse=True)
def _no_rendering(no_rendering: None) -> None:
    """The gallery renders the figures."""


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; returns its status, the standard output, and the standard error stream."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = int(stop.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
