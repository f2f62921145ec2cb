"""Measures the deviation of a model with held values from an affine function, and finds the module that causes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sparsedict.circuits._cut import CutModel, Pass

SCALE = 13.0
"""Factor of the second probe. Saturating functions, such as a soft cap, are far from affine at large values."""
VALUES_AT_ONCE = 2**22
"""Number of values that are compared at once."""


class NotAffineError(ValueError):
    """A model isn't affine in the contributions to its residual stream. The message names the module."""


def tolerance(dtype: torch.dtype) -> float:
    """Returns the relative deviation that rounding may cause. Some models compute their norms in single precision."""
    return 1e-4 if dtype in (torch.float32, torch.float64) else 0.1


@torch.no_grad()
def scaled(cut: CutModel, first: Pass, factor: float, **options: object) -> Pass:
    """Runs the model with all token embeddings and MLP outputs multiplied by a factor."""
    return cut.run(
        embed=lambda _: factor * first.embedded,
        write=lambda name, *_: factor * first.outputs[name],
        **options,  # pyright: ignore[reportArgumentType]
    )


def deviation(zero: Tensor, one: Tensor, far: Tensor) -> float:
    """Returns the relative deviation of values at the factors 0, 1 and `SCALE` from an affine function."""
    wide = torch.promote_types(one.dtype, torch.float32)
    error = size = torch.zeros((), dtype=wide, device=one.device)
    # Copies of all logits of a long prompt would take gigabytes.
    for parts in zip(*(value.reshape(-1).split(VALUES_AT_ONCE) for value in (zero, one, far)), strict=True):
        at_zero, at_one, at_far = (part.to(wide) for part in parts)
        change = at_far - at_zero
        error = torch.maximum(error, (change - SCALE * (at_one - at_zero)).abs().max())
        size = torch.maximum(size, change.abs().max())
    return float(error / size.clamp_min(torch.finfo(wide).tiny))


@dataclass(frozen=True)
class Affinity:
    """How far the parts of a model with held values are from affine functions.

    Attributes:
        inputs: Largest relative deviation of the inputs of the sites.
        logits: Relative deviation of the logits.
        head: Relative deviation of the output of the unembedding's module; NaN if there is none.
        most: Largest deviation that rounding may cause.
    """

    inputs: float
    logits: float
    head: float
    most: float

    @property
    def before_cap(self) -> bool:
        """Whether only the output of the unembedding's module is affine, as with a soft cap of the logits."""
        return not self.logits <= self.most and self.head <= self.most

    @property
    def has_logits(self) -> bool:
        """Whether the logits in one of both forms are affine."""
        return self.logits <= self.most or self.head <= self.most


def measure_affinity(cut: CutModel, first: Pass) -> Affinity:
    """Measures the deviation of the sites' inputs and the logits from affine functions of the residual contributions.

    Args:
        cut: The model.
        first: Its recorded pass.

    Raises:
        NotAffineError: If the input of a site isn't affine.
    """
    zero, one, far = scaled(cut, first, 0.0), first, scaled(cut, first, SCALE)
    most = tolerance(first.embedded.dtype)
    worst = 0.0
    for name in cut.sites:
        value = deviation(zero.inputs[name], one.inputs[name], far.inputs[name])
        if not value <= most:
            raise not_affine(cut, first, f"the input of the site {name!r}", value)
        worst = max(worst, value)
    heads = [pass_.head for pass_ in (zero, one, far)]
    head = math.nan if any(value is None for value in heads) else deviation(*heads)  # pyright: ignore[reportArgumentType]
    return Affinity(worst, deviation(zero.logits, one.logits, far.logits), head, most)


def not_affine(cut: CutModel, first: Pass, what: str, value: float) -> NotAffineError:
    """Returns the error that names the first module whose output isn't affine."""
    culprit = _culprit(cut, first)
    where = "the model itself" if culprit is None else culprit
    return NotAffineError(
        "The model must be affine in the contributions to the residual stream once its attention patterns and norms "
        f"are held, but {what} deviates by {value:.1g} in relative terms. The nonlinearity is in {where}. Add a site "
        "for an MLP. Load a model whose attention kernel bypasses PyTorch's functions with "
        "`attn_implementation='eager'`. Attribute to the logits before a soft cap."
    )


def _culprit(cut: CutModel, first: Pass) -> str | None:
    """Returns the innermost module that is reached first and whose output isn't affine.

    If the input of the module isn't affine either, the nonlinearity is between the modules inside of its parent.
    """
    probes: list[dict[tuple[str, int], tuple[Tensor | None, Tensor]]] = []
    for factor in (0.0, 1.0, SCALE):
        values: dict[tuple[str, int], tuple[Tensor | None, Tensor]] = {}
        scaled(cut, first, factor, watch=partial(_store, values))
        probes.append(values)
    most = tolerance(first.embedded.dtype)
    modules: Mapping[str, nn.Module] = dict(cut.model.named_modules())
    for key in probes[1]:
        if not all(key in values for values in probes):
            continue
        inputs, outputs = zip(*(values[key] for values in probes), strict=True)
        if not _deviates(outputs, most):
            continue
        path = key[0].rpartition(".")[0] if _deviates(inputs, most) else key[0]
        return f"`{path or 'the model'}` ({type(modules[path]).__name__})"
    return None


def _deviates(values: Sequence[Tensor | None], most: float) -> bool:
    """Returns whether values at the three factors aren't those of an affine function. Missing values are."""
    found = [value for value in values if value is not None]
    if len(found) < 3 or len({value.shape for value in found}) > 1:
        return False
    return not deviation(*found) <= most


def _store(
    values: dict[tuple[str, int], tuple[Tensor | None, Tensor]], path: str, given: Tensor | None, output: Tensor
) -> None:
    index = sum(key[0] == path for key in values)
    values[path, index] = None if given is None else given.detach().clone(), output.detach().clone()
