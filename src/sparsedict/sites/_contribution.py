"""Contributions of a dictionary to the points that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.sites._parts import Part


@dataclass(frozen=True, eq=False)
class Contribution:
    """Contribution of a dictionary to the activations at one point.

    Attributes:
        value: Contribution with the intervention.
        plain: Contribution without the intervention; ``None`` if not needed.
    """

    value: Tensor
    plain: Tensor | None

    def __add__(self, other: Contribution) -> Contribution:
        plain = None if self.plain is None or other.plain is None else self.plain + other.plain
        return Contribution(self.value + other.value, plain)

    def shaped(self, like: Tensor, name: str) -> Contribution:
        """Returns the contribution in the shape and on the device of the activations that it replaces.

        Raises:
            ValueError: If the shapes are incompatible.
        """
        return Contribution(
            _shaped(self.value, like, name), None if self.plain is None else _shaped(self.plain, like, name)
        )


def contribute(part: Part, inputs: Sequence[Tensor], device: torch.device, plain: bool) -> list[Contribution]:
    """Runs a dictionary and splits its output by point.

    Args:
        part: The dictionary.
        inputs: The activations at each point that it reads.
        device: Device of the activations that are replaced.
        plain: Whether to also compute the contributions without the intervention.

    Returns:
        One contribution for each point that the dictionary writes.

    Raises:
        ValueError: If widths or devices are incompatible.
    """
    adapter, change = part.adapter, part.intervention
    x = _joined(adapter, inputs, device)
    # Interventions take dense latents. Without one, sparse latents suffice.
    latents = adapter.encode_sparse(x) if change is None else adapter.encode(x)
    unchanged = adapter.reconstruct(latents, x) if change is None or plain else None
    value = unchanged
    if change is not None:
        assert isinstance(latents, Tensor)
        changed = change(latents)
        checks.same_shape("intervention(latents)", changed, "latents", latents)
        value = adapter.reconstruct(changed, x)
    assert value is not None
    if part.widths is None:
        return [Contribution(value, unchanged)]
    if value.shape[-1] != sum(part.widths):
        raise ValueError(
            f"`{adapter.argument}` must return activations of width {sum(part.widths)}, the sum of "
            f"{list(part.widths)}, got {value.shape[-1]} from {type(adapter.source).__name__}."
        )
    values = value.split(part.widths, -1)
    plains = [None] * len(values) if unchanged is None else unchanged.split(part.widths, -1)
    return [Contribution(own, other) for own, other in zip(values, plains, strict=True)]


def _joined(adapter: Adapter, inputs: Sequence[Tensor], device: torch.device) -> Tensor:
    """Concatenates the activations, in the dictionary's dtype and on its device."""
    weight = adapter.weight
    # In a model that is split over devices, the input may be on another device than the MLP.
    if weight is not None and weight.device not in {device, *(value.device for value in inputs)}:
        raise ValueError(
            f"`{adapter.argument}` must be on the site's device {device}, got {weight.device}. Move it with `.to`."
        )
    own = device if weight is None else weight.device
    lead = inputs[0].shape[:-1]
    if any(value.shape[:-1].numel() != lead.numel() for value in inputs):
        raise ValueError(
            f"The points that `{adapter.argument}` reads must have the same positions, got activations of shapes "
            f"{', '.join(str(tuple(value.shape)) for value in inputs)}."
        )
    # Some models flatten sequences at one of the points.
    values = [value.to(own).reshape(*lead, value.shape[-1]) for value in inputs]
    x = values[0] if len(values) == 1 else torch.cat(values, -1)
    if adapter.d_in is not None and adapter.d_in != x.shape[-1]:
        sites = "the site's activations have" if len(inputs) == 1 else "the sites' activations together have"
        raise ValueError(
            f"`{adapter.argument}` reads activations of width {adapter.d_in}, but {sites} shape {tuple(x.shape)}."
        )
    return adapter.fit(x)


def _shaped(value: Tensor, like: Tensor, name: str) -> Tensor:
    if value.ndim > 0 and value.shape[:-1].numel() == like.shape[:-1].numel():
        value = value.reshape(*like.shape[:-1], value.shape[-1])
    if value.shape != like.shape:
        raise ValueError(
            f"{name} must return activations of shape {tuple(like.shape)} at this site, got {tuple(value.shape)}."
        )
    return value.to(like.device)
