"""How much of everything a replication takes: its presets."""

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
ADAM = partial(torch.optim.Adam, betas=(0.9, 0.99))
"""Adam with the report's second moment."""


@dataclass(frozen=True)
class Training:
    """How long dictionaries are trained, from which start, and the options of `Trainee` that they share.

    Attributes:
        n_tokens: Tokens in all.
        batch_size: Tokens per step.
        lr: As of `Trainee`.
        schedule: As of `Trainee`.
        optimizer: As of `Trainee`; by default Adam with the report's second moment.
        start: From random weights as the report drew them, or from tokens as `fit` does.
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
    """What a replication runs on, and how much of it.

    Attributes:
        layer: Index of the MLP most results are about; counted from the end where negative.
        other_layer: Index of the second one.
        n_harvested: Distinct tokens to train on.
        n_held_out: Held-out tokens for errors and firing.
        n_loss_tokens: Held-out tokens for the model's losses, rounded up to whole sequences.
        expansion: Latents per neuron.
        expansions: Latents per neuron of the wider students.
        report: How the report's students are trained: ReLU, L1, decoder rows of norm 1 at most.
        modern: How students and autoencoders under TopK and JumpReLU are trained.
        wide: How the wider students are trained.
        coefficient: The L1 coefficient of the student that is looked at most, per token.
        coefficients: Those of the sweep; at other layers they are scaled with the output's standard deviation.
        autoencoder_coefficient: The square-root coefficient of the report's autoencoder.
        counts: Active latents per token (L0) at which distillers and autoencoders are compared.
        n_toy_steps: Optimiser steps of the one-neuron toy.
        n_seeds: Repetitions of each training that a claim is decided by, with other weights and another order of the
            data; fewer than two give no interval.
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
        """The middle one of the numbers of active latents per token."""
        return self.counts[len(self.counts) // 2]

    def scaled(self, factor: float) -> Setting:
        """Returns the setting for a model whose MLPs write outputs that are larger by a factor.

        The squared error grows with the factor's square, L1 with the factor, and the square-root penalty with its root:
        coefficients that grow as these ratios do keep the balance.
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
        """Returns every value, parts as they are written in code."""
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
