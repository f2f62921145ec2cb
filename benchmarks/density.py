"""Share of active latents above which dense products are faster: ``python -m benchmarks.density``.

Times a forward and backward pass of a ReLU distiller alternately by the sparse and the dense path at several shares of
active entries, and prints sparse over dense.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

import sparsedict as sd
from sparsedict.dictionaries import _encode


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--d", type=int, default=256, help="width of inputs and outputs")
    parser.add_argument("--n-latents", type=int, default=4096, help="number of latents")
    parser.add_argument("--n-tokens", type=int, default=1024, help="tokens per step")
    parser.add_argument("--rounds", type=int, default=7, help="number of measurements of each path")
    args = parser.parse_args()
    torch.manual_seed(0)
    parts = {"activation": sd.ReLU(), "decoder_norm": sd.UnitNorm()}
    transcoder = sd.SparseDistiller(args.d, args.d, args.n_latents, **parts).train()
    x, y = torch.randn(args.n_tokens, args.d), torch.randn(args.n_tokens, args.d)
    pre = transcoder.pre_activations(x).detach().flatten()

    def step(share: float) -> None:
        _encode.DENSE_SHARE = share
        sd.SquaredError()(transcoder.forward_pass(x, y)).backward()

    for density in (1 / 256, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4):
        bound = pre.kthvalue(round(len(pre) * (1 - density))).values
        with torch.no_grad():
            transcoder.encoder_bias.fill_(-bound)
        step(1.0), step(0.0)
        ratios = [seconds(lambda: step(1.0)) / seconds(lambda: step(0.0)) for _ in range(args.rounds)]
        print(f"active {density:7.2%}: sparse / dense {median(ratios):.2f}")


if __name__ == "__main__":
    main()
