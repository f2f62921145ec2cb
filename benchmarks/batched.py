"""Speed of joint encoder products of several dictionaries: ``python -m benchmarks.batched``.

Times the encoder products of dictionaries of one shape on the same inputs in three ways: one by one into a reused
buffer, as one product of the concatenated encoders, and as one batched product. Prints the times relative to the first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
from torch import Tensor

SHAPES = ((6, 1024, 128, 2048), (6, 256, 128, 512), (4, 1024, 512, 8192))
"""Dictionaries, tokens, width of inputs, latents."""


def ways(inputs: Tensor, encoders: Tensor) -> dict[str, Callable[[], object]]:
    """Returns functions for the products of ``[n_tokens, d]`` with each of ``[n_dictionaries, n_latents, d]``."""
    n_dictionaries, n_latents, _ = encoders.shape
    one = inputs.new_empty(len(inputs), n_latents)
    wide = inputs.new_empty(len(inputs), n_dictionaries * n_latents)
    stack = inputs.new_empty(n_dictionaries, len(inputs), n_latents)
    joined, turned = encoders.flatten(0, 1), encoders.transpose(1, 2)
    repeated = inputs.expand(n_dictionaries, -1, -1)
    return {
        "in turn": lambda: [torch.mm(inputs, encoder.T, out=one) for encoder in encoders],
        "joined": lambda: torch.mm(inputs, joined.T, out=wide),
        "batched": lambda: torch.bmm(repeated, turned, out=stack),
    }


def timed(ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Returns the seconds of each function, measured alternately after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=11, help="number of alternating measurements")
    args = parser.parse_args()
    for n_dictionaries, n_tokens, d, n_latents in SHAPES:
        generator = torch.Generator(args.device).manual_seed(0)
        inputs = torch.randn(n_tokens, d, generator=generator, device=args.device)
        encoders = torch.randn(n_dictionaries, n_latents, d, generator=generator, device=args.device)
        seconds = timed(ways(inputs, encoders), args.rounds, inputs.device)
        over = (
            f"{name} {median(a / b for a, b in zip(seconds[name], seconds['in turn'], strict=True)):.2f}"
            for name in ("joined", "batched")
        )
        print(f"{n_dictionaries} x {n_latents:,} latents, d {d}, {n_tokens:,} tokens: over {', '.join(over)}")


if __name__ == "__main__":
    main()
