"""`Trainee`, a dictionary together with its training options, and the default learning rate."""

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

MAX_LR = 2e-2
"""Upper limit of :func:`default_lr`, which applies to very small dictionaries."""


def default_lr(dictionary: Dictionary) -> float:
    """Returns the default peak learning rate of Adam: ``5.12 / sqrt(d_in * n_latents)``, at most 0.02.

    The rate is in units of the data (:class:`RelativeLR`), so it doesn't depend on the scale of the activations. Adam
    moves every weight of a row by about the rate, so a row of norm 1 turns by about ``lr * sqrt(d_in)``. With more
    latents, each latent is trained on fewer tokens. The constant was measured at widths of 64 to 512 with 512 to 8,192
    latents, in runs of 300,000 tokens (``python -m benchmarks.rates``). The decrease with ``d_in`` is a precaution that
    these measurements don't require. Pass an explicit rate for an optimiser that doesn't normalise gradients.

    For a dictionary over several layers, ``d_in * n_latents`` is that of a layer, mean over layers.

    Source: the decrease with the number of latents follows Gao et al., "Scaling and evaluating sparse autoencoders",
    2024.
    """
    checks.instance("dictionary", dictionary, Dictionary, "a dictionary of this library")
    encoders = [block.encoder.numel() for block in dictionary.blocks()]
    n_weights = sum(encoders) / len(encoders)
    return min(MAX_LR, 5.12 / math.sqrt(n_weights))


@dataclass(frozen=True)
class DefaultLR:
    """A multiple of the default learning rate of the dictionary that is trained, in units of the data.

    ``DefaultLR(1.5)`` equals ``RelativeLR(1.5 * default_lr(dictionary))``. A `Recipe` needs it, because its dictionary
    doesn't exist yet.

    Args:
        factor: The learning rate, relative to :func:`default_lr`.

    Example:
        >>> import sparsedict as sd
        >>> sae = sd.SparseAutoencoder(64, 1024, activation=sd.TopK(8), decoder_norm=sd.UnitNorm())
        >>> sd.Trainee(sae).peak_lr, sd.Trainee(sae, lr=DefaultLR(0.5)).peak_lr
        (0.02, 0.01)
    """

    factor: float

    def __post_init__(self) -> None:
        checks.set_in_range(self, "factor", 0.0, open_low=True)


@dataclass(frozen=True)
class Trainee:
    """A dictionary and its training options.

    Args:
        dictionary: The dictionary, which is trained in place.
        penalties: Sparsity penalties, which are added to the loss.
        loss: Reconstruction loss.
        step_hooks: Hooks that change the dictionary after each step.
        lr: Peak learning rate of the optimiser, or a :class:`RelativeLR` or :class:`DefaultLR`, in units of the data.
            ``None`` is ``DefaultLR(1.0)``, which is suitable for Adam.
        schedule: Learning-rate schedule of the run.
        optimizer: An optimiser class or a partial of a class, called with the parameters and ``lr``. Adam by default.
        clip_norm: Maximum norm of all gradients together. ``None`` disables clipping. With a relative rate, each
            gradient is measured in units of the loss divided by the unit of its parameter.
        site: Name of the training site. Required if the data has several sites and the points of the dictionary don't
            name a site. A tuple of names for a dictionary that reads the same points of several sites.
    """

    dictionary: Dictionary
    penalties: Sequence[Penalty] = ()
    loss: Loss = field(default_factory=SquaredError)
    step_hooks: Sequence[StepHook] = ()
    lr: float | RelativeLR | DefaultLR | None = None
    schedule: Schedule = field(default_factory=partial(Cosine, warm_up=0.2))
    optimizer: OptimizerFactory | None = None
    clip_norm: float | None = None
    site: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dictionary, Dictionary):
            raise TypeError(
                "`dictionary` must be a sparsedict.Dictionary such as SparseDistiller(...), "
                f"got {type(self.dictionary).__name__}.{checks.unwrapped(self.dictionary)}"
            )
        check_options(self)
        for part in (*self.penalties, *self.step_hooks, self.loss):
            part.check(self.dictionary)

    @property
    def peak_lr(self) -> float:
        """The peak learning rate, explicit or default."""
        if self.lr is None:
            return default_lr(self.dictionary)
        if isinstance(self.lr, DefaultLR):
            return self.lr.factor * default_lr(self.dictionary)
        return self.lr.lr if isinstance(self.lr, RelativeLR) else self.lr

    @property
    def has_relative_lr(self) -> bool:
        """Whether the learning rate is in units of the data."""
        return self.lr is None or isinstance(self.lr, RelativeLR | DefaultLR)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Returns a new optimiser of all parameters that require a gradient."""
        parameters = [p for p in self.dictionary.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(
                "`dictionary` has no parameter to train, because every parameter has requires_grad=False. Call "
                "`dictionary.requires_grad_(True)`."
            )
        factory = self.optimizer or partial(torch.optim.Adam, fused=_can_fuse(parameters))
        optimizer = factory(parameters, lr=self.peak_lr)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"`optimizer` must return a torch.optim.Optimizer, got {type(optimizer).__name__}.")
        return optimizer


def check_options(options: Any) -> None:
    """Checks and converts, in place, the attributes of a `Trainee` that don't depend on its dictionary.

    Raises:
        TypeError: If an attribute has the wrong type.
        ValueError: If a number is out of range.
    """
    _set_parts(options, "penalties", Penalty, "[sd.L1(0.2)]")
    _set_parts(options, "step_hooks", StepHook, "[sd.Resample(every=1000)]")
    if not isinstance(options.loss, Loss):
        raise TypeError(f"`loss` must be a Loss such as sd.SquaredError(), got {options.loss!r}.")
    if not isinstance(options.schedule, Schedule):
        raise TypeError(f"`schedule` must be a Schedule such as sd.Cosine(), got {options.schedule!r}.")
    if options.lr is not None and not isinstance(options.lr, RelativeLR | DefaultLR):
        checks.set_in_range(options, "lr", 0.0, open_low=True)
    if options.clip_norm is not None:
        checks.set_in_range(options, "clip_norm", 0.0, open_low=True)
    if options.optimizer is not None and not callable(options.optimizer):
        raise TypeError(
            "`optimizer` must be a class or partial such as torch.optim.AdamW, called with the parameters and "
            f"`lr`, got {type(options.optimizer).__name__}."
        )


def _set_parts(options: Any, name: str, kind: type, example: str) -> None:
    """Checks parts and stores them as a tuple, because a generator can be iterated only once."""
    value = getattr(options, name)
    if isinstance(value, kind) or not isinstance(value, Iterable):
        raise TypeError(f"`{name}` must be a list such as {example}, got {value!r}.")
    parts = tuple(value)
    for part in parts:
        if not isinstance(part, kind):
            raise TypeError(f"`{name}` must contain {kind.__name__} objects such as {example}, got {part!r}.")
    object.__setattr__(options, name, parts)


def _can_fuse(parameters: Sequence[Tensor]) -> bool:
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
