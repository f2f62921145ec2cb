"""One dictionary and how it is to be trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import Dictionary
from sparsedict.losses import Loss, SquaredError
from sparsedict.penalties import Penalty
from sparsedict.training._step_hook import StepHook
from sparsedict.training._units import RelativeLR
from sparsedict.training.schedules import Cosine, Schedule

OptimizerFactory = Callable[..., torch.optim.Optimizer]
"""An optimiser class or a ``functools.partial`` of one, called as ``factory(parameters, lr=lr)``."""

HIGHEST_LR = 2e-2
"""Of :func:`default_lr`, for the smallest dictionaries."""


def default_lr(dictionary: Dictionary) -> float:
    """Returns the peak learning rate of Adam where none is given: ``5.12 / sqrt(d_in * n_latents)``, at most 0.02.

    It is in units of the data (:class:`RelativeLR`), so the scale of activations doesn't matter. Adam moves every
    weight of a row by about the rate, so a row of norm 1 turns by ``lr * sqrt(d_in)``; and the more latents there are,
    the fewer tokens each is trained on. Measured at widths of 64 to 512 with 512 to 8,192 latents, in runs of 300,000
    tokens (``python -m benchmarks.rates``); the fall with ``d_in`` is a caution that these runs don't show. With an
    optimiser that doesn't normalise gradients give a rate.

    Source: the fall with the number of latents is that of Gao et al., "Scaling and evaluating sparse autoencoders",
    2024.
    """
    return min(HIGHEST_LR, 5.12 / math.sqrt(dictionary.d_in * dictionary.n_latents))


@dataclass(frozen=True)
class Trainee:
    """One dictionary and how it is to be trained.

    Args:
        dictionary: Trained in place.
        penalties: What presses its latents to be sparse, added to the loss.
        loss: How far its reconstruction is from the target.
        step_hooks: Called after each step to change the dictionary.
        lr: Peak learning rate of the optimiser, or a :class:`RelativeLR`, in units of the data. ``None`` is
            ``RelativeLR(default_lr(dictionary))``, which is made for Adam.
        schedule: The learning rate's course over the run.
        optimizer: An optimiser class or a partial of one, called with the parameters and ``lr``; Adam by default.
        clip_norm: Largest norm of all gradients together; longer ones are shortened. ``None`` leaves them. With a
            relative rate each gradient is measured in units of the loss over the parameter's.
        site: Name of the site whose activations it is trained on, where the data has several and the dictionary's
            points don't name theirs; a tuple of names for a dictionary that reads the same points of several sites.
    """

    dictionary: Dictionary
    penalties: Sequence[Penalty] = ()
    loss: Loss = field(default_factory=SquaredError)
    step_hooks: Sequence[StepHook] = ()
    lr: float | RelativeLR | None = None
    schedule: Schedule = field(default_factory=partial(Cosine, warm_up=0.2))
    optimizer: OptimizerFactory | None = None
    clip_norm: float | None = None
    site: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dictionary, Dictionary):
            raise TypeError(
                "`dictionary` must be a sparsedict.Dictionary such as SparseDistiller(...), "
                f"got {type(self.dictionary).__name__}."
            )
        check_options(self)
        for part in (*self.penalties, *self.step_hooks, self.loss):
            part.check(self.dictionary)

    @property
    def peak_lr(self) -> float:
        """The peak learning rate, given or not."""
        if self.lr is None:
            return default_lr(self.dictionary)
        return self.lr.lr if isinstance(self.lr, RelativeLR) else self.lr

    @property
    def has_relative_lr(self) -> bool:
        """Whether the learning rate is in units of the data."""
        return self.lr is None or isinstance(self.lr, RelativeLR)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Returns a new optimiser over all parameters that are to be trained."""
        parameters = [p for p in self.dictionary.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("`dictionary` has no parameter to train: every one has requires_grad=False.")
        factory = self.optimizer or partial(torch.optim.Adam, fused=_can_fuse(parameters))
        optimizer = factory(parameters, lr=self.peak_lr)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"`optimizer` must make a torch.optim.Optimizer, it made {type(optimizer).__name__}.")
        return optimizer


def check_options(options: Any) -> None:
    """Checks the attributes of a `Trainee` that don't need its dictionary, in place.

    Raises:
        TypeError: If one is of another type.
        ValueError: If a number is out of range.
    """
    _set_parts(options, "penalties", Penalty, "[sd.L1(0.2)]")
    _set_parts(options, "step_hooks", StepHook, "[sd.Resample(every=1000)]")
    if not isinstance(options.loss, Loss):
        raise TypeError(f"`loss` must be a Loss such as sd.SquaredError(), got {options.loss!r}.")
    if not isinstance(options.schedule, Schedule):
        raise TypeError(f"`schedule` must be a Schedule such as sd.Cosine(), got {options.schedule!r}.")
    if options.lr is not None and not isinstance(options.lr, RelativeLR):
        checks.set_in_range(options, "lr", 0.0, open_low=True)
    if options.clip_norm is not None:
        checks.set_in_range(options, "clip_norm", 0.0, open_low=True)
    if options.optimizer is not None and not callable(options.optimizer):
        raise TypeError(
            "`optimizer` must be a class or partial such as torch.optim.AdamW, called with the parameters and "
            f"`lr`, got {type(options.optimizer).__name__}."
        )


def _set_parts(options: Any, name: str, kind: type, example: str) -> None:
    """Checks parts, and makes them a tuple: a generator could be gone through once."""
    value = getattr(options, name)
    if isinstance(value, kind) or not isinstance(value, Iterable):
        raise TypeError(f"`{name}` must be a list such as {example}, got {value!r}.")
    parts = tuple(value)
    for part in parts:
        if not isinstance(part, kind):
            raise TypeError(f"`{name}` must hold {kind.__name__} objects such as {example}, got {part!r}.")
    object.__setattr__(options, name, parts)


def _can_fuse(parameters: Sequence[Tensor]) -> bool:
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
