"""Translates every kernel for an H100, with and without what Triton knows of small integers."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sparsedict.kernels._triton import _programs

TARGET = GPUTarget("cuda", 90, 32)
INTEGERS = ("d", "n_latents", "n_entries", "capacity", "step")
INDICES = (
    "latents",
    "tokens",
    "order",
    "offsets",
    "n_stored",
    "counts",
    "ends",
    "piece_latents",
    "piece_starts",
    "slot_latents",
    "slot_starts",
)


def translate(kernel: Any, dtype: str, **constants: Any) -> None:
    exact = "fp64" if dtype == "fp64" else "fp32"
    signature = {name: f"*{exact}" if name == "parts" else f"*{dtype}" for name in kernel.arg_names}
    signature |= {name: "*i64" for name in INDICES if name in signature}
    signature |= {name: "i32" for name in INTEGERS if name in signature}
    signature |= dict.fromkeys(constants, "constexpr")
    made = triton.compile(ASTSource(kernel, signature, constants), target=TARGET)
    assert len(made.asm["cubin"])
    print("compiled", kernel.__name__, dtype)


for dtype in ("bf16", "fp64"):
    sums = {"ACC": tl.float64 if dtype == "fp64" else tl.float32, "BLOCK_E": 4, "BLOCK_D": 512}
    translate(_programs.weighted_rows, dtype, **sums)
    translate(_programs.sampled_product, dtype, **sums)
    translate(_programs.weighted_tokens, dtype, **sums, PIECE=128)
    # A number that is 1 is a constant to Triton.
    translate(_programs.add_parts, dtype, d=1, BLOCK_D=16)
    translate(_programs.count_above, dtype, step=1, BLOCK=1024)
    translate(_programs.gather_above, dtype, step=0, BLOCK=1024)
