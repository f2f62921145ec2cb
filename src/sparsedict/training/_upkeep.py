from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from sparsedict.dictionaries import Dictionary, ForwardPass


class Upkeep(ABC):
    """What is done to a dictionary between training steps, besides the optimiser."""

    @abstractmethod
    def __call__(self, passed: ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        """Changes ``passed.dictionary`` in place, after the step that ``passed`` describes.

        Gradients are those of the step. Those that you keep stay as they are.
        """

    def check(self, dictionary: Dictionary) -> None:
        """Raises ``ValueError`` where this upkeep can't serve the dictionary."""
