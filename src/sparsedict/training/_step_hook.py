"""`StepHook`, the base class of hooks that change a dictionary after each training step."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from sparsedict.dictionaries import Dictionary, ForwardPass


class StepHook(ABC):
    """A callable that changes a dictionary after each training step."""

    @abstractmethod
    def __call__(self, out: ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        """Changes ``out.dictionary`` in place after an optimiser step.

        The parameters still have the gradients of this step. Later steps don't overwrite gradients that you store.

        Args:
            out: The forward pass of the step.
            optimizer: The optimiser of the dictionary.
        """

    def check(self, dictionary: Dictionary) -> None:
        """Raises ``ValueError`` if the hook is incompatible with the dictionary."""
