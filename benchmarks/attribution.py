"""Time and memory of attribution graphs, by length of the prompt and number of latents.

``python -m benchmarks.attribution`` uses a GPT-2 of random weights (12 layers, width 768) with 12 random distillers of
12,288 latents, of which 32 are active per token. Each measurement runs in a process of its own, whose peak memory it
reports. The model and the dictionaries take about 1.4 GiB of it.

The benchmark writes its results after each measurement. A second run with the same ``--out`` measures only what is
missing.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import sparsedict as sd
from benchmarks.report import figure, machine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results" / "attribution.json"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "attribution.png"
N_LAYERS, WIDTH, N_LATENTS, K = 12, 768, 12_288, 32


def measure(
    n_tokens: int, max_latents: int, n_layers: int, n_latents: int, width: int, n_checked: int, device: str
) -> dict[str, Any]:
    """Returns the time of one graph and the peak memory of the process."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=n_layers, n_embd=width, n_positions=max(1024, n_tokens))
    model = GPT2LMHeadModel(config).eval()
    model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
    sites = sd.Sites(model, {str(i): f"transformer.h.{i}.mlp" for i in range(n_layers)})
    dictionaries = {
        name: sd.SparseDistiller(
            width, width, n_latents, activation=sd.TopK(K), decoder_norm=sd.UnitNorm(), device=device
        )
        for name in sites
    }
    tokens = torch.randint(config.vocab_size, (1, n_tokens))
    begin, cpu_begin = time.perf_counter(), time.process_time()
    graph = sd.circuits.attribute(sites, dictionaries, tokens, max_latents=max_latents, check=0)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    before_check = peak_gib()
    begin, cpu_begin = time.perf_counter(), time.process_time()
    graph = graph.with_check(n_checked)
    assert graph.checked is not None
    return {
        "n_nodes": len(graph),
        "n_edges": int((graph.edges != 0).sum()),
        "n_active": graph.n_active,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "cpu_seconds_of_check": time.process_time() - cpu_begin,
        "peak_gib": before_check,
        "peak_gib_with_check": peak_gib(),
        "gpu_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
        "completeness_error": graph.completeness_error,
        "frozen_error": graph.checked.frozen_error,
        "threads": torch.get_num_threads(),
    }


def peak_gib() -> float:
    """Returns the peak memory of the process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_process(**arguments: Any) -> dict[str, Any]:
    """Measures in a new process, so that the peak memory is that of one graph."""
    command = [sys.executable, "-m", "benchmarks.attribution", "--one", json.dumps(arguments)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {**arguments, **json.loads(run.stdout.strip().splitlines()[-1])}


def plot(rows: list[dict[str, Any]], n_tokens: int, max_latents: int) -> Figure:
    """Draws time and memory by length of the prompt, at one limit of latents, and by number of nodes, at one length."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    from sparsedict.figures import Curve, curves

    drawn, panels = figure(4, width=3.3, height=2.4, columns=2)
    by_length = sorted((row for row in rows if row["max_latents"] == max_latents), key=lambda row: row["n_tokens"])
    by_nodes = sorted((row for row in rows if row["n_tokens"] == n_tokens), key=lambda row: row["n_nodes"])
    for column, chosen, x, label, name in (
        (0, by_length, "n_tokens", "tokens of the prompt", f"at most {max_latents:,} latents"),
        (1, by_nodes, "n_nodes", "nodes of the graph", f"{n_tokens} tokens"),
    ):
        if not chosen:
            continue
        for line, y, unit in ((0, "cpu_seconds", "CPU time (s)"), (1, "peak_gib", "peak memory (GiB)")):
            curve = Curve([row[x] for row in chosen], [row[y] for row in chosen])
            ax = curves({name: curve}, label, unit, ax=panels[2 * line + column])
            ax.set_xlim(left=0)
            ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            ax.set_ylim(0, 1.1 * max(curve.y))
    return drawn


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as a table in Markdown."""
    lines = ["| tokens | `max_latents` | nodes | edges | CPU seconds | peak memory |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['n_tokens']:,} | {row['max_latents']:,} | {row['n_nodes']:,} | {row['n_edges']:,} | "
        f"{row['cpu_seconds']:.0f} | {row['peak_gib']:.1f} GiB |"
        for row in sorted(rows, key=lambda row: (row["n_tokens"], row["max_latents"]))
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--one", help="arguments of one measurement, as JSON")
    parser.add_argument("--n-tokens", type=int, nargs="*", default=[16, 64, 256, 1024, 2000])
    parser.add_argument("--max-latents", type=int, nargs="*", default=[128, 512, 1024, 2048])
    parser.add_argument("--latents-for-tokens", type=int, default=128, help="latents while the prompt's length varies")
    parser.add_argument("--tokens-for-latents", type=int, default=64, help="tokens while the limit varies")
    parser.add_argument("--n-layers", type=int, default=N_LAYERS)
    parser.add_argument("--n-latents", type=int, default=N_LATENTS)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--n-checked", type=int, default=4, help="interventions after each graph")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=1e9, help="time after which no new measurement starts")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file whose measurements aren't repeated")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    args = parser.parse_args(arguments)
    if args.one is not None:
        print(json.dumps(measure(**json.loads(args.one))))
        return
    begin = time.monotonic()
    common = {name: getattr(args, name) for name in ("n_layers", "n_latents", "width", "n_checked", "device")}
    wanted = [(args.tokens_for_latents, n) for n in args.max_latents]
    wanted += [(n, args.latents_for_tokens) for n in args.n_tokens]
    earlier = json.loads(args.out.read_text(encoding="utf-8"))["rows"] if args.out.is_file() else []
    # Rows of other settings would be other curves.
    rows = [row for row in earlier if all(row.get(name) == value for name, value in common.items())]
    for n_tokens, max_latents in dict.fromkeys(wanted):
        settings = {"n_tokens": n_tokens, "max_latents": max_latents, **common}
        is_known = any(all(row.get(name) == value for name, value in settings.items()) for row in rows)
        if is_known or time.monotonic() - begin > 60 * args.minutes:
            continue
        rows.append(in_process(**settings))
        print(json.dumps(rows[-1]), flush=True)
        content = {"machine": machine(rows[-1]["threads"], args.device), "rows": rows}
        args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    plot(rows, args.tokens_for_latents, args.latents_for_tokens).savefig(args.picture, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
