"""Speed of harvesting relative to the forward pass up to the same layer: ``python -m benchmarks.harvest``.

Both run alternately on the embedded model in float32, with the same sequences in each forward pass, so that other load
of the machine affects both. The bare pass stops at the MLP's output and discards it. For each size of the forward pass,
the benchmark prints the ratio of tokens per second and the ratio of processor time, which depends less on other load.
The result is that of the size with the fastest bare pass.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from sparsedict import zoo
from sparsedict.data import ActivationStream
from sparsedict.sites import Site


class _ArrivedError(Exception):
    pass


def _arrive(*_: object) -> None:
    raise _ArrivedError


@torch.no_grad()
def bare(model: nn.Module, path: str, tokens: Tensor, n_sequences: int) -> None:
    """Runs the model up to the end of one module."""
    handle = model.get_submodule(path).register_forward_hook(_arrive)
    try:
        for block in tokens.split(n_sequences):
            try:
                model(block, use_cache=False)
            except _ArrivedError:
                continue
    finally:
        handle.remove()


def harvest(site: Site, tokens: Tensor, n_sequences: int, batch_size: int, buffer_size: int) -> None:
    """Iterates over one pass of a stream."""
    stream = ActivationStream(
        site, tokens, batch_size=batch_size, model_batch_size=n_sequences, buffer_size=buffer_size
    )
    n_tokens_yielded = sum(batch.n_tokens for batch in stream)
    assert n_tokens_yielded == stream.n_tokens


def seconds(run: Callable[[], None]) -> tuple[float, float]:
    """Returns the wall time and the processor time of a call."""
    start, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - used


def measure(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Returns tokens per second and their ratio, for each size of forward pass."""
    model = zoo.load_model()
    path = f"transformer.h.{arguments.layer}.mlp"
    site = Site(model, path, exclude_first=1)
    all_tokens = zoo.tokens("train")[: arguments.n_sequences]
    pieces = all_tokens.split(len(all_tokens) // arguments.rounds)[: arguments.rounds]
    results: list[dict[str, float]] = []
    for n_sequences in arguments.model_batch_size:
        # The buffer is filled several times a round, and never cuts a forward pass short.
        buffer_size = max(arguments.batch_size, pieces[0].numel() // 2, n_sequences * all_tokens.shape[1])
        bare(model, path, pieces[0][: 2 * n_sequences], n_sequences)
        times: list[tuple[tuple[float, float], tuple[float, float]]] = []
        for index, piece in enumerate(pieces):
            runs = (
                partial(bare, model, path, piece, n_sequences),
                partial(harvest, site, piece, n_sequences, arguments.batch_size, buffer_size),
            )
            # Each goes first half of the time.
            first = index % 2
            spent = {first: seconds(runs[first])}
            spent[1 - first] = seconds(runs[1 - first])
            times.append((spent[0], spent[1]))
        ratios = sorted(forward / whole for (forward, _), (whole, _) in times)
        used = [forward / whole for (_, forward), (_, whole) in times]
        results.append(
            {
                "model_batch_size": n_sequences,
                "bare_tokens_per_s": round(pieces[0].numel() / median(forward for (forward, _), _ in times)),
                "harvest_tokens_per_s": round(pieces[0].numel() / median(whole for _, (whole, _) in times)),
                "ratio_min": round(ratios[0], 3),
                "ratio_median": round(median(ratios), 3),
                "ratio_max": round(ratios[-1], 3),
                "processor_ratio_median": round(median(used), 3),
            }
        )
        print(json.dumps(results[-1]), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", type=int, default=1, help="layer of the MLP (default 1)")
    parser.add_argument("--rounds", type=int, default=8, help="number of measurements (default 8)")
    parser.add_argument("--n-sequences", type=int, default=8192, help="sequences of all rounds together (default 8192)")
    parser.add_argument("--batch-size", type=int, default=4096, help="tokens per batch (default 4096)")
    parser.add_argument(
        "--model-batch-size", type=int, nargs="+", default=[2, 4, 8, 16], help="sequences per forward pass"
    )
    parser.add_argument("--threads", type=int, default=None, help="threads of torch (default: torch's own)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    results = measure(arguments)
    best = max(results, key=lambda result: result["bare_tokens_per_s"])
    print(
        f"best forward pass: {best['model_batch_size']} sequences, ratio {best['ratio_median']} (median; "
        f"{best['processor_ratio_median']} in processor time)"
    )


if __name__ == "__main__":
    main()
