"""The base class of activations, which are functions from pre-activations to latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.latents import Encoding, Support, fires
from sparsedict.selections import Selection

State = Mapping[str, Tensor]
"""Tensors of an activation by name, each a scalar or one value per latent."""


class Activation(ABC):
    """Base class of activations, which compute latents from pre-activations.

    An activation is immutable. Declare it as a frozen dataclass, so that it is compared, printed and saved by its
    arguments. Learned or measured tensors, such as a threshold, are stored in the dictionary: :meth:`initial_state`
    creates them, and the other methods receive them as ``state``.

    A subclass implements :meth:`values`. If most latents are zero, it also defines their support: by a rule from
    :mod:`sparsedict.selections` that :meth:`selection` returns, or else by overriding :meth:`support`. Training then
    computes only the stored entries, with the same gradients. With a rule, it doesn't store all pre-activations.
    """

    elementwise: ClassVar[bool] = True
    """Whether a latent depends only on its own pre-activation, unlike with TopK."""

    non_negative: ClassVar[bool] = True
    """Whether latents are never negative, as `Sqrt` and `Lp` require."""

    by_magnitude: ClassVar[bool] = False
    """Whether large pre-activations of either sign fire, as with AbsTopK. AuxK selects dead latents in the same way."""

    @property
    def gives_state(self) -> bool:
        """Whether the arguments determine the state, so that `from_weights` doesn't require ``activation_state``.

        By default they don't: without it, given weights would silently get the state of a new dictionary.
        """
        return False

    @abstractmethod
    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        """Returns the latents of entries on the support, differentiable.

        Args:
            pre: Pre-activations of the stored entries, or of all, ``[n_tokens, n_latents]``.
            state: The state, aligned with ``pre``.
        """

    def selection(self, state: State, *, training: bool) -> Selection | None:
        """Returns the rule that selects the entries to store; ``None`` (the default) if there is no such rule.

        Args:
            state: The state in the dictionary.
            training: Whether gradients are needed. An activation may then store more or other entries.
        """
        return None

    def competition(self, state: State, *, training: bool) -> Selection | None:
        """Returns the rule that selects among the latents of several processes, given the candidates of each.

        The rule applies to pre-activations, or to their magnitudes with :attr:`by_magnitude`. By default it is that of
        :meth:`selection`. ``None`` means that latents of different processes don't affect each other.

        Args:
            state: See :meth:`selection`.
            training: See :meth:`selection`.
        """
        return self.selection(state, training=training)

    def for_shard(self, n_ranks: int, n_latents: tuple[int, ...]) -> Activation:
        """Returns the activation for the latents of one of several processes, which :meth:`competition` relates.

        Args:
            n_ranks: Number of processes that share the latents of each block evenly.
            n_latents: Number of latents of each block of this process.

        Raises:
            ValueError: If the latents can't be divided among processes.
        """
        if not self.elementwise and type(self).competition is Activation.competition:
            overridden = type(self).support is not Activation.support
            if overridden or type(self).selection is Activation.selection:
                raise ValueError(
                    f"`activation` must define `competition` if latents are divided among processes, got {self!r}. "
                    "Override `Activation.competition`, or train with `sd.DataParallel`."
                )
        return self

    def support(self, pre: Float[Tensor, "n_tokens n_latents"], state: State, *, training: bool) -> Support | None:
        """Returns the entries whose value or gradient may be non-zero; ``None`` for all entries.

        By default they are those that :meth:`selection` selects.

        Args:
            pre: All pre-activations of the batch, detached.
            state: See :meth:`selection`.
            training: See :meth:`selection`.
        """
        rule = self.selection(state, training=training)
        return None if rule is None else rule.support(pre)

    def initial_state(self, n_latents: int) -> dict[str, Tensor]:
        """Returns the state of a new dictionary: ``nn.Parameter`` for learned values, and tensors for other values."""
        return {}

    def training_state(self, n_latents: int) -> dict[str, Tensor]:
        """Returns additional state for training, with its initial values. It isn't saved with a dictionary.

        The methods receive it in ``state`` too, and :meth:`begin_` initialises it.
        """
        return {}

    @torch.no_grad()
    def begin_(self, state: State, *, latents: float, is_new: bool) -> None:
        """Initialises the state in place before the first step of a run. By default it does nothing.

        Args:
            state: The state in the dictionary.
            latents: Approximate magnitude of latents, derived from the spread of the data.
            is_new: Whether the dictionary's weights were initialised from the data of this run.
        """

    def firing(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        """Returns 1 where a latent fires and 0 elsewhere, with the gradient that the activation defines for this step.

        A latent fires if it isn't zero (:func:`sparsedict.latents.fires`).
        """
        return fires(self.values(pre, state)).to(pre.dtype)

    def thresholds(self, state: State) -> Float[Tensor, "*entries"] | None:
        """Returns the threshold that a pre-activation must exceed to fire, differentiable; ``None`` without thresholds.

        Args:
            state: See :meth:`values`.
        """
        return None

    @torch.no_grad()
    def after_step_(self, values: Float[Tensor, "*entries"], state: State) -> None:
        """Updates the state in place after a training step. By default it does nothing."""

    @torch.no_grad()
    def move_thresholds_(self, state: State, amount: Float[Tensor, ""]) -> None:
        """Moves all thresholds in place. :class:`sparsedict.TargetL0` requires this method.

        Args:
            state: The state in the dictionary.
            amount: Relative change. 0.1 raises thresholds by about a tenth, so that fewer latents fire; -0.1 lowers
                them.

        Raises:
            NotImplementedError: If the activation doesn't implement it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `move_thresholds_` to be trained with TargetL0."
        )

    def measure_(self, values: Float[Tensor, "*entries"], state: State, *, step: int) -> None:
        """Updates the state in place after a training step, given its number. By default it calls :meth:`after_step_`.

        Override this method instead if an estimate depends on the number of steps, such as a running mean whose first
        value should have little weight.

        Args:
            values: Latents of the step: the stored entries, or all, ``[n_tokens, n_latents]``. There may be none.
            state: The state in the dictionary.
            step: Number of the step in this run, from 0.
        """
        self.after_step_(values, state)

    @torch.no_grad()
    def end_(self, values: Float[Tensor, "*entries"], state: State, *, n_steps: int) -> None:
        """Updates the state in place after the last step of a run. By default it does nothing.

        :meth:`measure_` receives latents that were computed before the weights changed. These are computed with the
        final weights.

        Args:
            values: Latents of tokens of the last batch, selected as in training: the stored entries, or all.
            state: The state in the dictionary.
            n_steps: Number of steps of the run.
        """

    def measure_encoding_(self, encoding: Encoding, state: State, *, step: int) -> None:
        """Calls :meth:`measure_` with the latents of a step. Override it if the index of each latent is needed too.

        Args:
            encoding: The latents, with their support.
            state: See :meth:`measure_`.
            step: See :meth:`measure_`.
        """
        values = encoding.values.detach()
        if encoding.gather is not None:
            values = encoding.gather(self.measured(values))
        self.measure_(values, state, step=step)

    def measured(self, values: Float[Tensor, "*entries"]) -> Float[Tensor, " n_values"]:
        """Returns the values of a rank that :meth:`measure_` needs of a batch over several ranks: all by default.

        Override it to send fewer values, if :meth:`measure_` depends on a few of them only.

        Args:
            values: Latents of this rank: the stored entries, or all, ``[n_tokens, n_latents]``.
        """
        return values.flatten()

    def end_encoding_(self, encoding: Encoding, state: State, *, n_steps: int) -> None:
        """Calls :meth:`end_` with the latents after the last step, as :meth:`measure_encoding_` does in a step."""
        values = encoding.values.detach()
        if encoding.gather is not None:
            values = encoding.gather(self.measured(values))
        self.end_(values, state, n_steps=n_steps)

    @property
    def is_measured(self) -> bool:
        """Whether training measures part of the state."""
        names = ("after_step_", "measure_", "measure_encoding_", "end_", "end_encoding_")
        return any(getattr(type(self), name) is not getattr(Activation, name) for name in names)

    def at_layers(self, n_latents: tuple[int, ...]) -> Activation:
        """Returns the activation for the latents of several layers. By default it is the same activation.

        Args:
            n_latents: Number of latents of each layer.
        """
        return self

    def for_subset_of_layers(self, n_latents: tuple[int, ...]) -> Activation:
        """Returns the activation for a subset of the latents of each layer. See :meth:`for_subset`."""
        return self.for_subset(sum(n_latents))

    def of_layer(self, index: int) -> Activation:
        """Returns the activation for the latents of one layer."""
        return self

    def state_of_layer(self, state: State, index: int) -> State:
        """Returns the state of :meth:`of_layer`. Its tensors aren't restricted to the layer's latents."""
        return state

    def units(self, latents: float) -> dict[str, float]:
        """Returns the scales of learned values by name, for latents of magnitude ``latents``. The default is 1.

        With ``fit``'s default learning rate, a step of Adam changes a parameter by about the rate times its scale.
        """
        return {}

    def check(self, n_latents: int) -> None:
        """Raises ``ValueError`` if the activation is incompatible with ``n_latents`` latents."""

    def for_subset(self, n_latents: int) -> Activation:
        """Returns the activation for a dictionary with a subset of the latents.

        ``sd.load(..., latents=...)`` calls this method. Elementwise activations don't change. Activations that select
        among latents must override this method.

        Args:
            n_latents: Size of the subset.

        Raises:
            ValueError: If the activation isn't defined for a subset of the latents.
        """
        if not self.elementwise:
            raise ValueError(
                f"`latents` must be None for the activation {self!r}, which depends on all latents. Load all latents."
            )
        return self
