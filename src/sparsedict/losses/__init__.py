"""Losses, which measure the distance between reconstruction and target."""

from sparsedict.losses._balanced_error import BalancedError
from sparsedict.losses._divergence import KL, Divergence
from sparsedict.losses._end_to_end import EndToEnd
from sparsedict.losses._loss import Loss
from sparsedict.losses._nested import Nested
from sparsedict.losses._squared_error import SquaredError

__all__ = ["KL", "BalancedError", "Divergence", "EndToEnd", "Loss", "Nested", "SquaredError"]
