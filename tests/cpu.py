"""Prints the CPU seconds of each test file: ``python -m pytest -p tests.cpu``.

Wall-clock times vary with the load of the machine, CPU times hardly do. Processes that a test starts and waits for are
included. Fixtures are counted in the test that first needs them. It works with pytest-xdist.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

N_TESTS = 30
"""Number of tests that are listed."""

_before = [0.0]


def _cpu() -> float:
    return sum(os.times()[:4])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart() -> None:
    _before[0] = _cpu()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    now = _cpu()
    report.user_properties = [*report.user_properties, ("cpu", now - _before[0])]
    _before[0] = now
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tests: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "cpu":
                    tests[report.nodeid] += value
                    files[report.nodeid.partition("::")[0]] += value
    terminalreporter.section(f"CPU seconds: {sum(files.values()):.0f} in tests")
    for title, rows in (("files", files.most_common()), (f"the {N_TESTS} longest tests", tests.most_common(N_TESTS))):
        terminalreporter.write_line(f"{title}:")
        for name, seconds in rows:
            terminalreporter.write_line(f"{seconds:8.1f}  {name}")
