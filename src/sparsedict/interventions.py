"""Interventions on latents inside a running model: ablation, clamping and steering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict import checks
from sparsedict.display import Displayed

Intervention = Callable[[Tensor], Tensor]
"""A function from dense latents ``[*batch, n_latents]`` to dense latents, such as `Ablation`, `Clamp` and `Steer`."""


@dataclass(frozen=True, eq=False, repr=False)
class Ablation(Displayed):
    """Sets the chosen latents to their means, or to zero if no means are given.

    Args:
        latents: Mask of the latents to ablate, ``[n_latents]``.
        means: Mean of every latent over the data, ``[n_latents]``; ``None`` for zero.

    Example:
        >>> import torch
        >>> Ablation(torch.tensor([True, False]), torch.tensor([0.5, 9.0]))(torch.tensor([3.0, 4.0]))
        tensor([0.5000, 4.0000])
    """

    latents: Bool[Tensor, " n_latents"]
    means: Float[Tensor, " n_latents"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.latents, Tensor):
            raise TypeError(f"`latents` must be a mask, a tensor of dtype bool, got {type(self.latents).__name__}.")
        if self.latents.dtype != torch.bool or self.latents.ndim != 1:
            raise ValueError(
                "`latents` must be a mask of dtype bool and shape [n_latents], "
                f"got {self.latents.dtype} {tuple(self.latents.shape)}."
            )
        if self.means is not None and self.means.shape != self.latents.shape:
            raise ValueError(
                f"`means` must have the mask's shape {tuple(self.latents.shape)}, got {tuple(self.means.shape)}."
            )

    def __call__(self, latents: Float[Tensor, "*batch n_latents"]) -> Float[Tensor, "*batch n_latents"]:
        _check_width(latents, len(self.latents))
        mask = self.latents.to(latents.device)
        means = latents.new_zeros(()) if self.means is None else self.means.to(latents)
        return torch.where(mask, means, latents)


@dataclass(frozen=True)
class Clamp:
    """Sets each given latent to a fixed value on every token.

    Args:
        values: Value by index of the latent.

    Example:
        >>> import torch
        >>> Clamp({1: 5.0})(torch.tensor([3.0, 4.0]))
        tensor([3., 5.])
    """

    values: Mapping[int, float]

    def __post_init__(self) -> None:
        _set_by_latent(self, "values")

    def __call__(self, latents: Float[Tensor, "*batch n_latents"]) -> Float[Tensor, "*batch n_latents"]:
        changed = latents.clone()
        for latent, value in self.values.items():
            _check_index(latents, latent)
            changed[..., latent] = value
        return changed


@dataclass(frozen=True)
class Steer:
    """Adds a fixed amount to each given latent on every token.

    Args:
        amounts: Amount by index of the latent, in units of the latent's activation.
    """

    amounts: Mapping[int, float]

    def __post_init__(self) -> None:
        _set_by_latent(self, "amounts")

    def __call__(self, latents: Float[Tensor, "*batch n_latents"]) -> Float[Tensor, "*batch n_latents"]:
        changed = latents.clone()
        for latent, amount in self.amounts.items():
            _check_index(latents, latent)
            changed[..., latent] += amount
        return changed


def _check_width(latents: Tensor, n_latents: int) -> None:
    if latents.shape[-1] != n_latents:
        raise ValueError(
            f"`latents` must have {n_latents} entries in the last dimension, the number that the intervention was made "
            f"for, got {latents.shape[-1]}."
        )


def _check_index(latents: Tensor, latent: int) -> None:
    if not 0 <= latent < latents.shape[-1]:
        raise IndexError(f"`latent` must lie in [0, {latents.shape[-1]}), got {latent}.")


def _set_by_latent(part: object, name: str) -> None:
    """Checks a mapping attribute of a frozen dataclass, and converts its keys and values to plain numbers."""
    value = getattr(part, name)
    if not isinstance(value, Mapping):
        raise TypeError(f"`{name}` must map indices of latents to numbers, such as {{17: 5.0}}, got {value!r}.")
    plain = {checks.at_least(name, key, 0): checks.number(f"{name}[{key}]", value[key]) for key in value}
    object.__setattr__(part, name, plain)
