"""How good a reconstruction is and how sparse the latents are: functions of tensors, and their running forms.

A function takes the whole set and returns a number. A running form takes batches, keeps float64 sums on their device,
and reads from it only when a value is asked for; over any split into batches its values agree to rounding.
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
