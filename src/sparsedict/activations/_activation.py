"""The interface of activations: pre-activations -> latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.latents import Support, fires
from sparsedict.selections import Selection

State = Mapping[str, Tensor]
"""Learned values of an activation by name, each a scalar or one value per latent."""


class Activation(ABC):
    """How pre-activations become latents.

    An activation is an immutable value: make it a frozen dataclass, and it is compared, printed and saved by its
    arguments. What it learns or measures (a threshold) lives in the dictionary: it says what to keep in
    :meth:`initial_state` and receives it back as ``state``.

    A subclass implements :meth:`values`. If its latents are mostly zero, it also says which aren't: by a rule, in
    :meth:`selection`, where one of :mod:`sparsedict.selections` fits, else by overriding :meth:`support`. Training
    then touches the stored entries alone, with the same gradients; for a rule it never even holds all others.
    """

    elementwise: ClassVar[bool] = True
    """Whether a latent depends on its own pre-activation alone (for TopK it doesn't)."""

    non_negative: ClassVar[bool] = True
    """Whether latents are never negative (a square-root penalty needs that)."""

    by_magnitude: ClassVar[bool] = False
    """Whether large pre-activations of either sign fire, as with AbsTopK: AuxK then chooses dead latents likewise."""

    @abstractmethod
    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        """Returns the latents of entries on the support, differentiable.

        Args:
            pre: Pre-activations: of the stored entries, or of all, ``[n_tokens, n_latents]``.
            state: The kept tensors, aligned with ``pre``.
        """

    def selection(self, state: State, *, training: bool) -> Selection | None:
        """Returns the rule that picks the entries to store; ``None`` (the default) where there is no such rule.

        Args:
            state: The kept tensors, as they are in the dictionary.
            training: Whether gradients are wanted (an activation may store more entries then, or select differently).
        """
        return None

    def support(self, pre: Float[Tensor, "n_tokens n_latents"], state: State, *, training: bool) -> Support | None:
        """Returns the entries whose value or gradient may not be zero; ``None`` means all.

        By default they are what :meth:`selection` picks.

        Args:
            pre: All pre-activations of the batch, without history.
            state: See :meth:`selection`.
            training: See :meth:`selection`.
        """
        rule = self.selection(state, training=training)
        return None if rule is None else rule.support(pre)

    def initial_state(self, n_latents: int) -> dict[str, Tensor]:
        """Returns what to keep in a new dictionary: ``nn.Parameter`` for what is learned, else plain tensors."""
        return {}

    def training_state(self, n_latents: int) -> dict[str, Tensor]:
        """Returns what is needed while training alone, with what it is before a run; it isn't saved with a dictionary.

        It is handed to the methods in ``state`` as well, and :meth:`begin_` fills it.
        """
        return {}

    @torch.no_grad()
    def begin_(self, state: State, *, latents: float, is_new: bool) -> None:
        """Prepares the kept tensors, in place, before the first step of a run (default: nothing to prepare).

        Args:
            state: The kept tensors, as they are in the dictionary.
            latents: About how large latents are, in the spread of the data.
            is_new: Whether the dictionary's weights were started from the data of this run.
        """

    def firing(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        """Returns 1 where a latent fires and else 0, with whatever gradient the activation gives this step.

        A latent fires where it is not zero (:func:`sparsedict.latents.fires`).
        """
        return fires(self.values(pre, state)).to(pre.dtype)

    @torch.no_grad()
    def after_step_(self, values: Float[Tensor, "*entries"], state: State) -> None:
        """Updates the kept tensors in place after a training step (default: nothing to update)."""

    @torch.no_grad()
    def move_thresholds_(self, state: State, amount: Float[Tensor, ""]) -> None:
        """Moves all thresholds, in place, so that fewer latents fire: :class:`sparsedict.TargetL0` needs that.

        Args:
            state: The kept tensors, as they are in the dictionary.
            amount: Relative change: 0.1 raises thresholds by about a tenth, -0.1 lowers them so that more latents fire.

        Raises:
            NotImplementedError: If the activation doesn't say how.
        """
        raise NotImplementedError(f"{type(self).__name__} doesn't say how its thresholds are moved.")

    def measure_(self, values: Float[Tensor, "*entries"], state: State, *, step: int) -> None:
        """Updates the kept tensors in place, knowing how far the run is. By default it calls :meth:`after_step_`.

        Override this one where an estimate depends on the number of steps, as a running mean does that must not
        remember its first value for long.

        Args:
            values: Latents of the step: the stored entries, or all, ``[n_tokens, n_latents]``. There may be none.
            state: The kept tensors, as they are in the dictionary.
            step: Steps of this run before this one: 0 at the first.
        """
        self.after_step_(values, state)

    @torch.no_grad()
    def end_(self, values: Float[Tensor, "*entries"], state: State, *, n_steps: int) -> None:
        """Updates the kept tensors in place after the last step of a run (default: nothing to update).

        :meth:`measure_` sees latents from before a step moves the weights; these are of the weights as they stay.

        Args:
            values: Latents of tokens of the last batch, chosen as while training: the stored entries, or all.
            state: The kept tensors, as they are in the dictionary.
            n_steps: Steps of the run.
        """

    def units(self, latents: float) -> dict[str, float]:
        """Returns the units of what is learned, by name, where latents are about ``latents``; 1 where not named.

        With ``fit``'s default learning rate, a step of Adam moves a parameter by about the rate times its unit.
        """
        return {}

    def check(self, n_latents: int) -> None:
        """Raises ``ValueError`` where the activation can't serve a dictionary of ``n_latents``."""

    def among(self, n_latents: int) -> Activation:
        """Returns what to apply where only ``n_latents`` of a dictionary's latents are kept, such as by ``sd.load``.

        An elementwise activation treats them as before; one that chooses among latents says what it does among fewer.

        Raises:
            ValueError: If it can't serve some of the latents.
        """
        if not self.elementwise:
            raise ValueError(f"{self!r} chooses among all latents, so it can't serve some of them: load them all.")
        return self
