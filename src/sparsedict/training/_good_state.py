"""The last finite state of a dictionary, to which a run that diverged is restored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sparsedict.dictionaries import Dictionary
from sparsedict.training._state_copy import StateCopy
from sparsedict.training._weights import is_finite


class NonFiniteLossError(ArithmeticError):
    """Raised if the loss became NaN or infinite. The dictionary was restored to the last state with finite values.

    Attributes:
        found: Description of the failure, without the remedy.
        lr: Peak learning rate of the run, or None if it is unknown.

    Args:
        found: See the attribute.
        lr: See the attribute.
    """

    def __init__(self, found: str, lr: float | None = None) -> None:
        remedy = ", set `clip_norm`, or look for outliers in the activations."
        super().__init__(found if lr is None else f"{found} Lower `lr` (it was {lr:g}){remedy}")
        self.found = found
        self.lr = lr


class GoodState:
    """A copy of the last weights that were verified to be finite.

    Args:
        dictionary: The dictionary in training.
    """

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self._step = 0
        self._copy = StateCopy()
        self.save(0)

    def save(self, step: int) -> None:
        """Copies the weights after a step."""
        self._copy.write(self._dictionary.state_dict())
        self._step = step

    def check(self, first_bad: int | None, step: int, label: str, lr: float) -> None:
        """Restores the last finite weights if the loss or a weight isn't finite.

        Args:
            first_bad: First step whose loss wasn't finite, if any.
            step: Number of steps done.
            label: Name of the dictionary in messages.
            lr: Peak learning rate of the run.

        Raises:
            NonFiniteLossError: If the loss or a weight isn't finite.
        """
        is_bad = first_bad is not None or not self._is_finite()
        if self._dictionary.shard is not None:
            # Ranks that share the latents decide alike.
            is_bad = bool(self._dictionary.total(torch.tensor(float(is_bad), device="cpu")))
        if not is_bad:
            return
        self._dictionary.load_state_dict(self._copy.read())
        value = "A weight" if first_bad is None else "The loss"
        where = f"between steps {self._step} and {step}" if first_bad is None else f"at step {first_bad}"
        raise NonFiniteLossError(
            f"{value} of {label} became NaN or infinite {where}. The dictionary was restored to its "
            f"state after step {self._step}, the last one that was verified to be finite.",
            lr,
        )

    def _is_finite(self) -> bool:
        return all(map(is_finite, self._dictionary.parameters()))

    def state_dict(self, step: int) -> dict[str, Any]:
        """Returns the step and the weights. The weights are ``None`` directly after :meth:`save`.

        Args:
            step: Number of steps done.
        """
        return {"step": self._step, "dictionary": None if self._step == step else self._copy.read()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the copy. The dictionary must already have the weights of the checkpoint."""
        self._copy.write(self._dictionary.state_dict() if state["dictionary"] is None else state["dictionary"])
        self._step = state["step"]
