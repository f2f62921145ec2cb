from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import warnings

import pytest

import sparsedict.cli
from sparsedict.training import NonFiniteLossError

from .conftest import Run


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["train", "--help"]])
def test_help_is_worth_reading(arguments: list[str], command: Run) -> None:
    status, out, _ = command(*arguments)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 120
    if arguments[0] != "--help":
        assert out.count("  sparsedict ") >= 3
        assert "(default: " in out


def test_version(command: Run) -> None:
    for arguments in (["--version"], ["train", "--version"], ["demo", "--version"]):
        assert command(*arguments)[1].strip() == f"sparsedict {sparsedict.__version__}"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["demo", "--version"]])
def test_help_and_version_import_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from sparsedict.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: print([m for m in ('torch', 'numpy', 'tqdm', 'transformers') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [[], ["dmeo"], ["demo"], ["demo", "--out", "x", "--layer", "9"]])
def test_wrong_usage_is_status_2_without_a_traceback(arguments: list[str], command: Run) -> None:
    status, _, err = command(*arguments)
    assert status == 2
    assert "error:" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("a\nb"), 2),
        (TypeError("a b"), 2),
        (FileNotFoundError("a b"), 2),
        (ImportError("a b"), 2),
        (NonFiniteLossError("a b"), 1),
    ],
)
def test_errors_are_one_line(error: Exception, status: int, command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr("sparsedict.cli.demo.run", fail)
    assert command("demo", "--out", "x") == (status, "", "sparsedict: error: a b\n")
    with pytest.raises(type(error)):
        command("demo", "--out", "x", "--traceback")


@pytest.mark.filterwarnings("always:more")
def test_warnings_are_one_line(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(_: argparse.Namespace) -> None:
        warnings.warn("more\nsteps", stacklevel=1)

    monkeypatch.setattr("sparsedict.cli.demo.run", warn)
    assert command("demo", "--out", "x") == (0, "", "sparsedict: warning: more steps\n")


def test_an_interruption_is_no_error(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsedict.cli.demo.run", stop)
    status, _, err = command("demo", "--out", "x")
    assert status == 130
    assert "nothing was written" in err


def test_the_entry_point_is_installed() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="sparsedict")
    assert entry.value == "sparsedict.cli:main"


def test_importing_it_imports_no_extra() -> None:
    code = (
        "import sys, sparsedict.cli; print([m for m in ('transformers', 'matplotlib', 'datasets') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["demo", "--out", "x"], "Look for outliers in the activations."),
        (
            ["train", "m", "--site", "s", "--data", "d", "--out", "x"],
            "Lower --lr (it was 0.01), or look for outliers in the activations.",
        ),
    ],
)
def test_a_loss_that_diverged_names_options_of_the_command(
    arguments: list[str], remedy: str, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: argparse.Namespace) -> None:
        raise NonFiniteLossError("The loss became NaN.", 0.01)

    monkeypatch.setattr(f"sparsedict.cli.{arguments[0]}.run", fail)
    assert command(*arguments) == (1, "", f"sparsedict: error: The loss became NaN. {remedy}\n")


WRITES = """
import sys, types
import sparsedict.cli
def run(args):
    for _ in range(100_000):
        print("a line of output", file=sys.{stream}, flush={flush})
sys.modules["sparsedict.cli.demo"] = types.SimpleNamespace(run=run, stop_message=str)
sys.exit(sparsedict.cli.main(["demo", "--out", "nowhere"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise")
# The standard error stream is flushed at the end of each line in any case.
@pytest.mark.parametrize(("stream", "flush"), [("stdout", True), ("stdout", False), ("stderr", False)])
def test_a_reader_that_leaves_ends_the_program_quietly(stream: str, flush: bool) -> None:
    """As in ``sparsedict ... | head -1``."""
    code, is_error = WRITES.format(stream=stream, flush=flush), stream == "stderr"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT if is_error else subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **streams) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"a line of output\n"
        program.stdout.close()
        assert program.stderr is None or program.stderr.read() == b""
        assert program.wait(60) == sparsedict.cli.UNREAD


def test_help_that_nobody_reads_ends_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(1)\nfrom sparsedict.cli import main; main(['--help'])"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == b""


def test_another_broken_pipe_is_an_error(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: argparse.Namespace) -> None:
        raise BrokenPipeError("a process of a tracker ended")

    monkeypatch.setattr("sparsedict.cli.demo.run", broken)
    status, _, err = command("demo", "--out", "nowhere")
    assert (status, err) == (2, "sparsedict: error: a process of a tracker ended\n")
