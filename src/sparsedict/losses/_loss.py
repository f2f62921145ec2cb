"""`Loss`, the base class of reconstruction losses."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from sparsedict.dictionaries import Dictionary, ForwardPass


class Loss(ABC):
    """Base class of losses, which training minimises together with the penalties."""

    @abstractmethod
    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        """Returns the loss of one step, differentiable."""

    def check(self, dictionary: Dictionary) -> None:
        """Raises ``ValueError`` if the loss is incompatible with the dictionary. By default it does nothing."""
