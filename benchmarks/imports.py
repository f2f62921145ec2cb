"""Time of ``import sparsedict`` compared with ``import torch``: ``python -m benchmarks.imports``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median


def seconds(module: str) -> float:
    """Returns the time to import a module in a new interpreter, including the start of the interpreter."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="number of alternating imports")
    args = parser.parse_args()
    for module in ("torch", "sparsedict"):
        seconds(module)
    pairs = [(seconds("sparsedict"), seconds("torch")) for _ in range(args.rounds)]
    ratios = sorted(ours / torch for ours, torch in pairs)
    ours, torch = (median(column) for column in zip(*pairs, strict=True))
    print(f"import sparsedict {ours:.2f} s, import torch {torch:.2f} s (medians)")
    print(f"ratio: minimum {ratios[0]:.2f}, median {median(ratios):.2f}, maximum {ratios[-1]:.2f}")


if __name__ == "__main__":
    main()
