"""Measures the deviation of a model with held values from an affine function, and finds the module that causes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sparsedict.circuits._cut import CutModel, Pass, Watch

SCALE = 13.0
"""Factor of the last probe. Saturating functions, such as a soft cap, are far from affine at large values."""
VALUES_AT_ONCE = 2**22
"""Number of values that are compared at once."""


class NotAffineError(ValueError):
    """A model isn't affine in the contributions to its residual stream. The message names the module."""


def tolerance(dtype: torch.dtype) -> float:
    """Returns the relative deviation that rounding may cause. Some models compute their norms in single precision."""
    return 1e-4 if dtype in (torch.float32, torch.float64) else 0.1


@dataclass(frozen=True)
class Probe:
    """Token embeddings and MLP outputs ``a * prompt + b * other``, where ``other`` is drawn at random.

    Values along the direction of the prompt alone don't suffice. ReLU and absolute values of sums without a bias are
    linear along each ray from the origin.
    """

    prompt: float
    other: float

    @torch.no_grad()
    def run(self, cut: CutModel, first: Pass, watch: Watch | None = None) -> Pass:
        """Runs the model on these embeddings and outputs."""
        generator = torch.Generator("cpu").manual_seed(0)
        # The hooks of the embedding and of the sites run in a fixed order, so each probe draws the same values.
        return cut.run(
            embed=lambda _: self._at(first.embedded, generator),
            write=lambda name, *_: self._at(first.outputs[name], generator),
            watch=watch,
        )

    def _at(self, value: Tensor, generator: torch.Generator) -> Tensor:
        size = value.float().square().mean().sqrt()
        drawn = torch.randn(value.shape, generator=generator, device="cpu", dtype=torch.float32).to(value.device)
        return self.prompt * value + self.other * (size * drawn).to(value)


PROBES = (Probe(0.0, 0.0), Probe(1.0, 0.0), Probe(0.0, 1.0), Probe(SCALE, -SCALE))
"""The last probe is a combination of the others. An affine function has the same combination of values."""


def deviation(values: Sequence[Tensor]) -> float:
    """Returns the relative deviation of values at `PROBES` from an affine function."""
    wide = torch.promote_types(values[0].dtype, torch.float32)
    error = size = torch.zeros((), dtype=wide, device=values[0].device)
    # Copies of all logits of a long prompt would take gigabytes.
    for parts in zip(*(value.reshape(-1).split(VALUES_AT_ONCE) for value in values), strict=True):
        zero, one, other, far = (part.to(wide) for part in parts)
        change = far - zero
        error = torch.maximum(error, (change - SCALE * (one - zero) + SCALE * (other - zero)).abs().max())
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
        is_constant: Whether the logits don't depend on the residual contributions.
    """

    inputs: float
    logits: float
    head: float
    most: float
    is_constant: bool

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
    passes = [first if own == Probe(1.0, 0.0) else own.run(cut, first) for own in PROBES]
    most = tolerance(first.embedded.dtype)
    worst = 0.0
    for name in cut.sites:
        value = deviation([pass_.inputs[name] for pass_ in passes])
        if not value <= most:
            raise not_affine(cut, first, f"the input of the site {name!r}", value)
        worst = max(worst, value)
    heads = [pass_.head for pass_ in passes if pass_.head is not None]
    head = deviation(heads) if len(heads) == len(passes) else math.nan
    logits = [pass_.logits for pass_ in passes]
    is_constant = bool(torch.equal(logits[0], logits[-1]))
    return Affinity(worst, deviation(logits), head, most, is_constant)


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
    for probe in PROBES:
        values: dict[tuple[str, int], tuple[Tensor | None, Tensor]] = {}
        probe.run(cut, first, partial(_store, values))
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
    """Returns whether values at `PROBES` aren't those of an affine function. Missing values are."""
    found = [value for value in values if value is not None]
    if len(found) < len(PROBES) or len({value.shape for value in found}) > 1:
        return False
    return not deviation(found) <= most


def _store(
    values: dict[tuple[str, int], tuple[Tensor | None, Tensor]], path: str, given: Tensor | None, output: Tensor
) -> None:
    index = sum(key[0] == path for key in values)
    values[path, index] = None if given is None else given.detach().clone(), output.detach().clone()
