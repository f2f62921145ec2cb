from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from sparsedict.dictionaries import Dictionary, ForwardPass


class StepHook(ABC):
    """Changes a dictionary after each training step."""

    @abstractmethod
    def __call__(self, out: ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        """Changes ``out.dictionary`` in place, after the step that ``out`` describes.

        Gradients are those of the step. Those that you keep stay as they are.
        """

    def check(self, dictionary: Dictionary) -> None:
        """Raises ``ValueError`` where the hook can't be used with the dictionary."""
