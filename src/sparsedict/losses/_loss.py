from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from sparsedict.dictionaries import Dictionary, ForwardPass


class Loss(ABC):
    """What training minimises besides the penalties."""

    @abstractmethod
    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        """Returns the loss of one step, differentiable."""

    def check(self, dictionary: Dictionary) -> None:
        """Raises ``ValueError``, naming both and the remedy, where the loss can't serve the dictionary."""
