"""Metrics of reconstruction and sparsity, as functions of tensors and as running metrics over batches.

A running metric accumulates float64 sums on the device of the batches. Only reading a value synchronises with the
device. The value doesn't depend on the split into batches, up to rounding.
"""

from sparsedict.metrics._correlation import RunningCorrelation, correlation
from sparsedict.metrics._error import RunningError, cosine, fvu, fvu_by_dimension, squared_error
from sparsedict.metrics._l0 import RunningL0, l0

__all__ = [
    "RunningCorrelation",
    "RunningError",
    "RunningL0",
    "correlation",
    "cosine",
    "fvu",
    "fvu_by_dimension",
    "l0",
    "squared_error",
]
