"""`Setting` and `Training`, the sizes and hyperparameters of a replication."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import torch

import sparsedict as sd
from sparsedict import checks
from sparsedict.training import Cosine, OptimizerFactory, Schedule

Start = Literal["random", "data"]
COSINE = Cosine(warm_up=0.1, final=0.01)
ADAM = partial(torch.optim.Adam, betas=(0.9, 0.99), fused=True)
"""Adam with the report's second moment."""


@dataclass(frozen=True)
class Training:
    """The duration, initialisation and shared options of the training of dictionaries.

    Attributes:
        n_tokens: Total number of training tokens.
        batch_size: Number of tokens per step.
        lr: Learning rate, see `Trainee`.
        schedule: Learning-rate schedule, see `Trainee`.
        optimizer: Optimiser, see `Trainee`. By default Adam with the betas of the report.
        start: Initialisation: ``"random"`` as in the report, or ``"data"`` as in `fit`.
    """

    n_tokens: int
    batch_size: int
    lr: float
    schedule: Schedule = COSINE
    optimizer: OptimizerFactory | None = ADAM
    start: Start = "random"

    def __post_init__(self) -> None:
        checks.set_at_least(self, "n_tokens", 1)
        checks.set_at_least(self, "batch_size", 1)
        checks.one_of("start", self.start, ("random", "data"))
        sd.Recipe(sd.SparseDistiller, **self.options)  # checks them

    @property
    def options(self) -> dict[str, Any]:
        """The options of `Trainee`."""
        return {"lr": self.lr, "schedule": self.schedule, "optimizer": self.optimizer}


@dataclass(frozen=True)
class Setting:
    """The sizes and hyperparameters of a replication.

    Attributes:
        layer: Index of the main MLP. A negative index counts from the last layer.
        other_layer: Index of the second MLP.
        n_harvested: Number of distinct training tokens.
        n_held_out: Number of held-out tokens for errors and firing frequencies.
        n_loss_tokens: Number of held-out tokens for the losses of the model, rounded up to whole sequences.
        expansion: Number of latents per neuron.
        expansions: Numbers of latents per neuron of the wider students.
        report: Training of the students of the report: ReLU, L1, decoder rows of norm at most 1.
        modern: Training of students and autoencoders with TopK and JumpReLU.
        wide: Training of the wider students.
        coefficient: L1 coefficient of the main student, per token.
        coefficients: L1 coefficients of the sweep. In other layers they are scaled with the standard deviation of the
            outputs.
        autoencoder_coefficient: Square-root coefficient of the autoencoder of the report.
        counts: Numbers of active latents per token (L0) at which distillers and autoencoders are compared.
        n_toy_steps: Number of optimiser steps of the one-neuron toy model.
        n_seeds: Number of repetitions of each training that determines a claim, with other weights and another order of
            the data. One repetition gives no interval.
    """

    layer: int
    other_layer: int
    n_harvested: int
    n_held_out: int
    n_loss_tokens: int
    expansion: int
    expansions: tuple[int, ...]
    report: Training
    modern: Training
    wide: Training
    coefficient: float
    coefficients: tuple[float, ...]
    autoencoder_coefficient: float
    counts: tuple[int, ...]
    n_toy_steps: int
    n_seeds: int = 3

    def __post_init__(self) -> None:
        for name in ("n_harvested", "n_held_out", "n_loss_tokens", "expansion", "n_toy_steps", "n_seeds"):
            checks.at_least(name, getattr(self, name), 1)
        if len(self.coefficients) < 2 or list(self.coefficients) != sorted(set(self.coefficients)):
            raise ValueError(f"`coefficients` must be two or more in ascending order, got {self.coefficients}.")

    @property
    def count(self) -> int:
        """The middle number of active latents per token."""
        return self.counts[len(self.counts) // 2]

    def scaled(self, factor: float) -> Setting:
        """Returns the setting for a model whose MLP outputs are larger by a factor.

        The squared error is proportional to the square of the factor, the L1 penalty to the factor, and the square-root
        penalty to its square root. The coefficients are scaled such that the balance doesn't change.
        """

        def times(coefficient: float, power: float = 1.0) -> float:
            return float(f"{coefficient * factor**power:.3g}")

        return replace(
            self,
            coefficient=times(self.coefficient),
            coefficients=tuple(times(c) for c in self.coefficients),
            autoencoder_coefficient=times(self.autoencoder_coefficient, 1.5),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns all values by name, with parts in the form of code."""
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Training):
                parts = {part.name: getattr(value, part.name) for part in fields(value)}
                found |= {f"{field.name}: {name}": _plain(part) for name, part in parts.items()}
            else:
                found[field.name] = _plain(value)
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, partial):
        return f"{value.func.__name__}({', '.join(f'{name}={part!r}' for name, part in value.keywords.items())})"
    if value is None or isinstance(value, type):  # optimisers: `Trainee` has Adam where none is named
        return "Adam" if value is None else value.__name__
    return value if isinstance(value, bool | int | float | str) else repr(value)
