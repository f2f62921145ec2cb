"""Losses, which measure the distance between reconstruction and target."""

from sparsedict.losses._balanced_error import BalancedError
from sparsedict.losses._loss import Loss
from sparsedict.losses._squared_error import SquaredError

__all__ = ["BalancedError", "Loss", "SquaredError"]
