"""The sparse products in Triton. Sums are in float32 (float64 for float64), without atomics, so they are deterministic.

The package is imported only when needed, since Triton is only part of PyTorch's CUDA builds.
"""

from sparsedict.kernels._triton._gather import Compaction, counts_above
from sparsedict.kernels._triton._launch import sampled_product, sum_by_latent, weighted_rows, weighted_tokens

__all__ = ["Compaction", "counts_above", "sampled_product", "sum_by_latent", "weighted_rows", "weighted_tokens"]
