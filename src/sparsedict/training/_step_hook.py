"""`StepHook`, the base class of hooks that change a dictionary after each training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch

from sparsedict.dictionaries import Dictionary, ForwardPass


class StepHook(ABC):
    """A callable that changes a dictionary after each training step, or for the duration of each step."""

    @abstractmethod
    def __call__(self, out: ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        """Changes ``out.dictionary`` in place after an optimiser step.

        The parameters still have the gradients of this step. Later steps don't overwrite gradients that you store.

        Args:
            out: The forward pass of the step.
            optimizer: The optimiser of the dictionary.
        """

    def during(self, dictionary: Dictionary, *, step: int, n_steps: int) -> AbstractContextManager[None]:
        """Returns a context in which the training step runs. By default it does nothing.

        Override it to change the dictionary in each step, and to undo the change after the step. Records, checkpoints
        and callbacks never see the change, also if the step raises an error.

        Args:
            dictionary: The dictionary.
            step: Number of optimiser steps before this one.
            n_steps: Planned number of steps of the run.
        """
        return nullcontext()

    def check(self, dictionary: Dictionary) -> None:
        """Raises ``ValueError`` if the hook is incompatible with the dictionary."""
