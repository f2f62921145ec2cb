"""`WeightUpdate`, which changes the weights of a dictionary by their gradients: rate, clipping, optimiser, norms."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from sparsedict.training._trainee import Trainee
from sparsedict.training._units import Units


class WeightUpdate:
    """Updates the weights of a dictionary by an optimiser under its learning-rate schedule and its decoder norm.

    Args:
        trainee: The dictionary and its training options.
        optimizer: A new optimiser of its parameters.
        units: Units of the parameters if the learning rate is relative, or ``None``.
        n_steps: Planned number of steps.
    """

    def __init__(
        self, trainee: Trainee, optimizer: torch.optim.Optimizer, *, units: Units | None, n_steps: int
    ) -> None:
        self._trainee = trainee
        self._dictionary = trainee.dictionary
        self._optimizer = optimizer
        self._units = units
        self._n_steps = n_steps
        if units is not None:
            units.scale_(optimizer, trainee.dictionary)
        self._peaks = [group["lr"] for group in optimizer.param_groups]

    def set_rate(self, step: int) -> None:
        """Sets the learning rate of a step."""
        factor = self._trainee.schedule.factor(step, self._n_steps)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor

    def rate(self, step: int) -> float:
        """Returns the learning rate that was set for a step. A relative rate is in units of the data."""
        if self._units is None:
            return self._optimizer.param_groups[0]["lr"]
        return self._trainee.peak_lr * self._trainee.schedule.factor(step, self._n_steps)

    def apply_(self) -> None:
        """Performs the optimiser step with projected and clipped gradients, and applies the decoder norm."""
        self._dictionary.project_decoder_gradient_()
        clip_norm = self._trainee.clip_norm
        if clip_norm is not None:
            if self._units is None and self._dictionary.shard is None:
                torch.nn.utils.clip_grad_norm_(self._dictionary.parameters(), clip_norm)
            else:
                units = Units({}, 1.0) if self._units is None else self._units
                units.clip_gradients_(self._dictionary, clip_norm)
        self._optimizer.step()
        self._dictionary.constrain_decoder_()

    def units_state(self) -> dict[str, Any] | None:
        """Returns the units as plain values, for a checkpoint."""
        return None if self._units is None else asdict(self._units)
