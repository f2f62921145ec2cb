"""Traffic and time of a step with the latents divided among 1, 2 and 4 gloo ranks of this machine.

    python -m benchmarks.parallel

The traffic is counted by operation, and compared with that of ``benchmarks.plan``. Ranks share the cores of the
machine, so the time of a step on n ranks, relative to one process with one thread, contains the overhead of messages
and of smaller products.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

import sparsedict as sd
from benchmarks.plan import RULES, Job, Plan
from benchmarks.report import RESULTS, machine, table
from sparsedict.dictionaries import shard_
from sparsedict.sharding import Peers, Traffic


def activation_of(rule: str, k: int) -> sd.Activation:
    return {"topk": sd.TopK(k), "batch_topk": sd.BatchTopK(k), "threshold": sd.JumpReLU(2.0)}[rule]


def measure(rank: int, n_ranks: int, folder: str, args: argparse.Namespace) -> None:
    """Writes the traffic and the median time of a step of each rule on this rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=n_ranks)
    found = {rule: step(rule, Peers(), args) for rule in args.rules}
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def step(rule: str, peers: Peers, args: argparse.Namespace) -> dict[str, float]:
    """Returns the bytes of the collectives of a step, and its median time in seconds."""
    generator = torch.Generator().manual_seed(0)
    parts = {"activation": activation_of(rule, args.k), "decoder_norm": sd.UnitNorm(), "generator": generator}
    sae = sd.SparseAutoencoder(args.d, args.n_latents, **parts)
    if peers.size > 1:
        shard_(sae, peers)
    optimizer = torch.optim.Adam(sae.train().parameters(), lr=1e-6, fused=True)
    x = torch.randn(args.n_tokens, args.d, generator=generator)
    seconds, n_bytes = [], 0
    for index in range(args.steps + 1):
        begin = time.perf_counter()
        with Traffic() as traffic:
            optimizer.zero_grad()
            out = sae.forward_pass(x, x)
            sd.SquaredError()(out).backward()
            if sae.shard is not None:
                sae.shard.finish_gradients_()
        sae.project_decoder_gradient_()
        optimizer.step()
        sae.constrain_decoder_()
        n_bytes = traffic.n_bytes
        if index:  # the first step allocates memory
            seconds.append(time.perf_counter() - begin)
    return {"bytes": n_bytes, "seconds": float(torch.tensor(seconds).median())}


def rows(results: dict[int, dict[str, Any]], args: argparse.Namespace) -> list[tuple[str, ...]]:
    found = [("rule", "ranks", "bytes per step", "of the plan", "ms per step", "of one process")]
    for rule in args.rules:
        for n_ranks, by_rule in results.items():
            own, alone = by_rule[rule], results[min(results)][rule]
            job = Job(args.d, args.d, args.n_latents, args.k, args.n_tokens, rule)
            planned = sum(Plan(job, 1, n_ranks).collectives().values())
            ratio = f"{own['bytes'] / planned:.3f}" if planned else "-"
            time_ratio = f"{own['seconds'] / alone['seconds']:.2f}"
            values = (f"{own['bytes']:,.0f}", ratio, f"{1e3 * own['seconds']:.1f}", time_ratio)
            found.append((rule, str(n_ranks), *values))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4], help="numbers of ranks (default: 1 2 4)")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), help="rules (default: all)")
    parser.add_argument("--d", type=int, default=256, help="width (default: 256)")
    parser.add_argument("--n-latents", type=int, default=4096, help="number of latents (default: 4,096)")
    parser.add_argument("--k", type=int, default=32, help="active latents per token (default: 32)")
    parser.add_argument("--n-tokens", type=int, default=1024, help="tokens of a step (default: 1,024)")
    parser.add_argument("--steps", type=int, default=5, help="measured steps (default: 5)")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder of parallel.json (default: {RESULTS})")
    args = parser.parse_args()
    results: dict[int, dict[str, Any]] = {}
    for n_ranks in sorted(args.ranks):
        with tempfile.TemporaryDirectory() as folder:
            spawn(measure, (n_ranks, folder, args), n_ranks)
            results[n_ranks] = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
    print(table(rows(results, args)))
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    args.out.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(None, "cpu"), "settings": settings, "results": results}
    (args.out / "parallel.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
