"""Time of the sparse products on a GPU, relative to its memory bandwidth: ``python -m benchmarks.gpu``.

For each shape, the benchmark reports the bandwidth of every kernel relative to that of a plain copy, the time of the
forward and backward pass relative to the encoder's product in bfloat16, and the time of the optimiser relative to that
of copying its bytes. Times are medians of ``--rounds`` runs. With ``--device cpu``, the embedding bag replaces the
kernels. This tests the benchmark and has no meaning for a GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import sparsedict as sd
from sparsedict import kernels
from sparsedict.kernels import Capacity, select_within
from sparsedict.selections import Above, Largest

RESULT = Path(__file__).parent / "results" / "gpu.json"
ADAM_BYTES = 28
"""Bytes that Adam moves for a parameter in float32: it reads weight, gradient and two moments, writes all but one."""


@dataclass(frozen=True)
class Shape:
    d: int
    n_latents: int
    n_tokens: int
    k: int

    def __str__(self) -> str:
        return f"d {self.d:,}, {self.n_latents:,} latents, {self.n_tokens:,} tokens, k {self.k}"


SHAPES = {
    "large": Shape(4096, 65_536, 4096, 64),
    "report": Shape(1024, 16_384, 1024, 32),
    "toy": Shape(8, 64, 16, 2),
}


class Clock:
    """Measures the seconds of calls with the events of the device."""

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device = device
        self._rounds = rounds

    def __call__(self, call: Callable[[], object]) -> float:
        call()  # kernels are compiled, memory is there
        return median(self._once(call) for _ in range(self._rounds))

    def _once(self, call: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000

    def bandwidth(self) -> float:
        """Returns the bytes per second of a copy, read and written."""
        n = 2**28 if self.device.type == "cuda" else 2**22
        source = torch.zeros(n, device=self.device)
        target = torch.empty_like(source)
        return 2 * source.nbytes / self(lambda: target.copy_(source))


def kernel_figures(shape: Shape, dtype: torch.dtype, clock: Clock) -> dict[str, dict[str, float]]:
    """Returns, for each kernel, the seconds and the bytes divided by the bandwidth.

    ``gathered`` counts a row for each entry, as if there were no cache; ``least`` every array once.
    """
    device, size, d = clock.device, dtype.itemsize, shape.d
    inputs = torch.randn(shape.n_tokens, d, device=device, dtype=dtype)
    rows = torch.nn.functional.normalize(torch.randn(shape.n_latents, d, device=device), dim=-1).to(dtype)
    bias = torch.zeros(shape.n_latents, device=device, dtype=dtype)
    picked = kernels.select(inputs, rows, bias, Largest(shape.k))
    assert picked is not None
    support, values = picked
    rule = Above(values.view(shape.n_tokens, -1).amin(1).median())
    block = torch.empty(shape.n_tokens, shape.n_latents, device=device, dtype=dtype)

    def transposed() -> object:
        return sd.Support(support.latents, support.offsets, shape.n_latents).by_latent

    def within_capacity() -> object:
        return select_within(Capacity(shape.k / shape.n_latents), inputs, rows, bias, rule)

    token_bytes, row_bytes, gathered = inputs.nbytes, rows.nbytes, support.n_entries * (d * size + 16)
    calls: dict[str, tuple[Callable[[], object], int, int]] = {
        "product": (lambda: torch.mm(inputs, rows.T, out=block), token_bytes + row_bytes + block.nbytes, 0),
        "select, largest": (lambda: kernels.select(inputs, rows, bias, Largest(shape.k)), token_bytes + row_bytes, 0),
        "weighted_rows": (
            lambda: kernels.weighted_rows(values, support, rows),
            row_bytes + token_bytes,
            gathered + token_bytes,
        ),
        "sampled_product": (
            lambda: kernels.sampled_product(inputs, rows, support),
            row_bytes + token_bytes,
            2 * gathered,
        ),
        "weighted_tokens": (
            lambda: kernels.weighted_tokens(values, support, inputs),
            row_bytes + token_bytes,
            gathered + row_bytes,
        ),
        "sum_by_latent": (lambda: kernels.sum_by_latent(values, support), values.nbytes + bias.nbytes, 0),
        "by_latent": (transposed, 16 * support.n_entries, 0),
    }
    if kernels.compacts(device):
        calls["select within capacity, above"] = (within_capacity, token_bytes + row_bytes, 0)
    bandwidth, figures = clock.bandwidth(), {}
    for name, (call, least, moved) in calls.items():
        seconds = clock(call)
        figures[name] = {"seconds": seconds, "least": least / bandwidth / seconds}
        if moved:
            figures[name]["gathered"] = moved / bandwidth / seconds
    return figures


def step_figures(shape: Shape, clock: Clock) -> dict[str, float]:
    """Returns the times of a pass relative to the product in bfloat16, and of Adam relative to a copy of its bytes."""
    device = clock.device
    parts: dict[str, Any] = {"activation": sd.TopK(shape.k), "decoder_norm": sd.UnitNorm(), "device": device}
    sae = sd.SparseAutoencoder(shape.d, shape.n_latents, **parts).train()
    x = torch.randn(shape.n_tokens, shape.d, device=device)
    low, rows = x.bfloat16(), sae.encoder.detach().bfloat16()
    block = torch.empty(shape.n_tokens, shape.n_latents, device=device, dtype=torch.bfloat16)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-7, fused=True)

    def passes() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            loss = sd.SquaredError()(sae.forward_pass(x, x))
        loss.backward()
        return loss

    product, both, bandwidth = clock(lambda: torch.mm(low, rows.T, out=block)), clock(passes), clock.bandwidth()
    adam = clock(optimizer.step)
    n_parameters = sum(parameter.numel() for parameter in sae.parameters())
    return {
        "product_seconds": product,
        "forward_and_backward_over_product": both / product,
        "adam_over_product": adam / product,
        "adam_over_its_bytes": adam / (ADAM_BYTES * n_parameters / bandwidth),
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def measure(names: list[str], device: torch.device, rounds: int) -> dict[str, Any]:
    clock, found = Clock(device, rounds), {}
    for name in names:
        shape = SHAPES[name]
        print(shape)
        found[name] = {"shape": vars(shape), "kernels": {}, "step": step_figures(shape, clock)}
        for dtype in (torch.bfloat16, torch.float32):
            figures = kernel_figures(shape, dtype, clock)
            found[name]["kernels"][str(dtype)] = figures
            for kernel, numbers in figures.items():
                shares = ", ".join(f"{key} {value:.0%}" for key, value in numbers.items() if key != "seconds")
                print(f"  {dtype!s:15} {kernel:22} {numbers['seconds'] * 1e6:10.0f} µs   of the bandwidth: {shares}")
        for key, value in found[name]["step"].items():
            print(f"  {key:34} {'-' if value is None else f'{value:.4g}'}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["large", "report"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=20, help="measurements of each call")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file of the results")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here. Use `--device cpu --shapes toy` to test the benchmark.")
    torch.manual_seed(0)
    figures = measure(args.shapes, device, args.rounds)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"device": name, "torch": torch.__version__, "shapes": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
