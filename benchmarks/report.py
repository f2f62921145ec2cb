"""Facts about the machine, and writing of results, for all benchmarks."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.contenders import versions

RESULTS = Path(__file__).parent / "results"

COLOURS = {"sparsedict": "#0072b2", "SAELens": "#d55e00", "dictionary_learning": "#009e73", "sparsify": "#cc79a7"}
"""Okabe and Ito's, by library."""


def machine(threads: int | None, device: str) -> dict[str, Any]:
    """Returns processor, accelerator, thread count and versions."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
        "threads": threads or torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "versions": versions(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in facts.items()}
    name = named.get("model name", platform.processor())
    return f"{name} (family {named.get('cpu family')}, model {named.get('model')})"


def write(name: str, folder: Path, content: dict[str, Any], table: str) -> None:
    """Writes a benchmark's JSON and its table, and prints the table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.txt").write_text(table + "\n", encoding="utf-8")
    print(f"\n{table}\n\nwritten to {folder / name}.json, .txt and .png", flush=True)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Formats rows as a table. The first row is the heading; all columns except the first are right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def save_plot(figure: Any, folder: Path, name: str) -> None:
    """Writes a figure as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")


def figure(n_panels: int, *, width: float = 5.0, height: float = 4.0, columns: int = 3) -> tuple[Any, list[Any]]:
    """Returns a matplotlib figure that needs no display, and its panels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    n_columns = min(n_panels, columns)
    n_rows = -(-n_panels // n_columns)
    drawn, axes = pyplot.subplots(
        n_rows, n_columns, figsize=(width * n_columns, height * n_rows), squeeze=False, layout="constrained"
    )
    panels = list(axes.flat)
    for spare in panels[n_panels:]:
        spare.set_axis_off()
    return drawn, panels[:n_panels]


def colour(label: str) -> str:
    """Returns a library's colour."""
    return COLOURS[label.split(",")[0]]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--device", default="cpu", help="cpu or cuda; on CUDA products are computed in bfloat16")
    made.add_argument("--threads", type=int, default=None, help="threads of torch (default: torch's own number)")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    made.add_argument("--name", default=None, help="name of the result files (default: that of the benchmark)")
    return made
