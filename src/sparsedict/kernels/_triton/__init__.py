"""The sparse products in Triton: no float atomics, so the same bits each time; sums in float32 (float64 for float64).

Imported where it is needed only, for Triton comes with PyTorch's CUDA builds alone.
"""

from sparsedict.kernels._triton._gather import Compaction, counts_above
from sparsedict.kernels._triton._launch import sampled_product, sum_by_latent, weighted_rows, weighted_tokens

__all__ = ["Compaction", "counts_above", "sampled_product", "sum_by_latent", "weighted_rows", "weighted_tokens"]
