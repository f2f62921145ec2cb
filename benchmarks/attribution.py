"""Time and memory of attribution graphs, by length of the prompt and number of latents.

``python -m benchmarks.attribution`` uses a GPT-2 of random weights (12 layers, width 768) with 12 random distillers of
12,288 latents, of which 32 are active per token. Each measurement runs in a process of its own, whose peak memory it
reports. The model and the dictionaries take about 1.4 GiB of it.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import sparsedict as sd

RESULTS = Path(__file__).parent / "results" / "attribution.json"
N_LAYERS, N_LATENTS, K = 12, 12_288, 32
N_TOKENS, MAX_LATENTS = 64, 2048


def measure(n_tokens: int, max_latents: int, n_layers: int, n_latents: int, device: str) -> dict[str, Any]:
    """Returns the time of one graph and the peak memory of the process."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=n_layers, n_positions=max(1024, n_tokens))
    model = GPT2LMHeadModel(config).eval()
    model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
    sites = sd.Sites(model, {str(i): f"transformer.h.{i}.mlp" for i in range(n_layers)})
    width = config.n_embd
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
    begin = time.perf_counter()
    graph = graph.with_check()
    assert graph.checked is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "n_tokens": n_tokens,
        "max_latents": max_latents,
        "n_nodes": len(graph),
        "n_active": graph.n_active,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "seconds_of_check": time.perf_counter() - begin,
        "peak_gib": peak,
        "gpu_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
        "completeness_error": graph.completeness_error,
        "frozen_error": graph.checked.frozen_error,
        "threads": torch.get_num_threads(),
    }


def in_process(**arguments: Any) -> dict[str, Any]:
    """Measures in a new process, so that the peak memory is that of one graph."""
    given = json.dumps(arguments)
    command = [sys.executable, "-m", "benchmarks.attribution", "--one", given]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.strip().splitlines()[-1])


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Draws time and memory by length of the prompt and by number of latents."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for axis, name, fixed, label in (
        (axes[0], "n_tokens", "max_latents", "tokens of the prompt"),
        (axes[1], "max_latents", "n_tokens", "latents of the graph"),
    ):
        common = max({row[fixed] for row in rows}, key=[row[fixed] for row in rows].count)
        chosen = sorted((row for row in rows if row[fixed] == common), key=lambda row: row[name])
        axis.plot([row[name] for row in chosen], [row["seconds"] for row in chosen], "o-", label="seconds")
        axis.plot([row[name] for row in chosen], [row["peak_gib"] for row in chosen], "s--", label="peak memory, GiB")
        axis.set(xscale="log", yscale="log", xlabel=f"{label} ({fixed}={common})")
        axis.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--one", help="arguments of one measurement, as JSON")
    parser.add_argument("--n-tokens", type=int, nargs="*", default=[16, 32, 64, 128, 256])
    parser.add_argument("--max-latents", type=int, nargs="*", default=[128, 512, 1024, 2048])
    parser.add_argument("--latents-for-tokens", type=int, default=512, help="latents while the prompt's length varies")
    parser.add_argument("--tokens-for-latents", type=int, default=N_TOKENS, help="tokens while the limit varies")
    parser.add_argument("--n-layers", type=int, default=N_LAYERS)
    parser.add_argument("--n-latents", type=int, default=N_LATENTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(**json.loads(args.one))))
        return
    common = {"n_layers": args.n_layers, "n_latents": args.n_latents, "device": args.device}
    wanted = [(args.tokens_for_latents, n) for n in args.max_latents]
    wanted += [(n, args.latents_for_tokens) for n in args.n_tokens]
    rows = []
    for n_tokens, max_latents in dict.fromkeys(wanted):
        rows.append(in_process(n_tokens=n_tokens, max_latents=max_latents, **common))
        print(json.dumps(rows[-1]), flush=True)
    machine = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    args.out.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    plot(rows, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
