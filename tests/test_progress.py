"""Bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from sparsedict import progress


def test_a_log_file_gets_no_bars_but_a_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar("fit", total=1000, initial=100) as bar:
        for _ in range(9):
            bar.update(100)
            bar.set_postfix_str("fvu 0.5")
    written = capsys.readouterr().err
    assert "\r" not in written
    (line,) = written.splitlines()
    assert line.startswith("fit: 1,000 of 1,000 tok (100%), ")
    assert line.endswith(" left, fvu 0.5")


def test_lines_are_a_minute_apart(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    lines = progress.Lines("fit", 1000, 0, "tok")
    for second in range(300):
        now[0] = float(second)
        lines.update(1)
    lines.close()
    lines.close()
    shown = [line.split(" of ")[0] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["fit: 61", "fit: 121", "fit: 181", "fit: 241", "fit: 300"]


def test_nothing_where_nothing_is_to_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar("fit", total=10, shown=False) as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("shell", [None, SimpleNamespace()], ids=["imported only", "without a kernel"])
def test_imported_packages_of_jupyter_alone_get_no_bars(shell: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert not progress.is_live()


def test_a_terminal_and_a_notebook_get_bars(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object())))
    assert progress.is_live()
    with progress.progress_bar("fit", total=10) as bar:
        bar.update(10)
    assert "10.0/10.0" in capsys.readouterr().err


def test_a_task_with_more_units_than_expected_ends_at_its_total(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar("collecting", total=20_000) as bar:
        bar.update(20_138)
    said = capsys.readouterr().err
    assert "20,138 of 20,138 tok (100%)" in said
    assert ", 00:00 left" in said
