"""Losses, which measure the distance between reconstruction and target."""

from sparsedict.losses._loss import Loss
from sparsedict.losses._squared_error import SquaredError

__all__ = ["Loss", "SquaredError"]
