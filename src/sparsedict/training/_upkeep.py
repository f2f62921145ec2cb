from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from sparsedict.dictionaries import Dictionary, ForwardPass


class Upkeep(ABC):
    """What is done to a dictionary between training steps, besides the optimiser."""

    @abstractmethod
    def __call__(self, passed: ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        """Changes ``passed.dictionary`` in place, after the step that ``passed`` describes.

        Gradients are those of the step; clone what is to be kept, for the next step's may lie in the same memory.
        """

    def check(self, dictionary: Dictionary) -> None:
        """Raises ``ValueError`` where this upkeep can't serve the dictionary."""
