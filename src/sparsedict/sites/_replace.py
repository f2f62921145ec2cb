"""Running a model with a dictionary in an MLP's place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter, as_role
from sparsedict.batches import ROLES
from sparsedict.display import Displayed
from sparsedict.sites._passes import Passes, uncompiled
from sparsedict.sites._points import Point, Removable
from sparsedict.sites._watch import Watch, watched
from sparsedict.types import Role

if TYPE_CHECKING:
    from sparsedict.sites._site import Site

Intervention = Callable[[Tensor], Tensor]
"""From dense latents ``[*batch, n_latents]`` to dense latents, such as `Ablation`, `Clamp` and `Steer`."""


@dataclass(frozen=True, eq=False, repr=False)
class Constant(Displayed):
    """A vector in an activation's place, whatever the input: zero and mean ablation.

    It encodes into no latents at all and decodes into the vector.

    Args:
        value: ``[d]``.
        writes: Which activation it takes the place of.

    Example:
        >>> import torch
        >>> constant = Constant(torch.tensor([1.0, 2.0]))
        >>> constant.decode(constant.encode(torch.zeros(3, 2))).shape
        torch.Size([3, 2])
    """

    value: Float[Tensor, " d"]
    writes: Role = "outputs"

    def __post_init__(self) -> None:
        if not isinstance(self.value, Tensor) or self.value.ndim != 1 or not self.value.is_floating_point():
            got = tuple(self.value.shape) if isinstance(self.value, Tensor) else type(self.value).__name__
            raise ValueError(f"`value` must be a floating-point vector [d], got {got}.")
        checks.one_of("writes", self.writes, ROLES)

    @property
    def reads(self) -> Role:
        """It reads where it writes, and disregards what it reads."""
        return self.writes

    def encode(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch 0"]:
        """Returns no latents."""
        return x[..., :0]

    def decode(self, latents: Float[Tensor, "*batch 0"]) -> Float[Tensor, "*batch d"]:
        """Returns the vector for every position."""
        return self.value.to(latents.device).expand(*latents.shape[:-1], -1)


@contextmanager
def replaced(
    site: Site, x: Any, ablate: Intervention | None, error_term: bool, reads: Role | None, writes: Role | None
) -> Iterator[None]:
    """See `Site.replaced`."""
    adapter = Adapter(x, reads, writes, argument="x")
    adapter.require("decode")
    source, target = map(as_role, adapter.points)
    if ablate is not None and not callable(ablate):
        raise TypeError(f"`ablate` must be callable on dense latents, got {type(ablate).__name__}.")
    swap = _Swap(site, site.point(source), site.point(target), adapter, ablate, error_term)
    points = swap.source, swap.target
    with watched(site.model, [swap.target.module]) as watch, uncompiled(site.model, points):
        assert isinstance(watch, Watch)
        passes = Passes(site.model, points)
        handles: list[Removable] = []
        try:
            handles.append(swap.source.attach(lambda value: swap.read(value, passes)))
            handles.append(swap.target.attach(lambda original: swap.write(original, passes, watch)))
            yield
        finally:
            passes.close(handles)
            swap.held = None
    if not swap.n_written:
        warnings.warn(_unused(swap), RuntimeWarning, stacklevel=3)


@dataclass(eq=False)
class _Swap:
    """What happens at the two points of a replacement."""

    site: Site
    source: Point
    target: Point
    x: Adapter
    ablate: Intervention | None
    error_term: bool
    n_written: int = 0
    n_passed: int = 0
    held: tuple[Tensor, bool] | None = None

    def read(self, value: Tensor, passes: Passes) -> None:
        found = passes.at()
        if found is not None and (found[1] or found[0].reaches("source", self.source, self.site.model)):
            self.held = value, torch.is_grad_enabled()

    def write(self, original: Tensor, passes: Passes, watch: Watch) -> Tensor | None:
        found = passes.at()
        if found is None:
            return None
        this, recomputed = found
        if not recomputed:
            self.n_passed += 1
            if not this.reaches("target", self.target, self.site.model):
                return None
            self.n_written += 1
        elif (n_calls := this.n_calls["target"]) > 1:
            raise RuntimeError(
                f"`{self.target.path}` was called {n_calls} times in the forward pass, so gradient checkpointing can't "
                "tell which call it recomputes. Turn checkpointing off while the site is replaced."
            )
        new = _reconstruction(self.x, self._taken(recomputed), original, self.ablate, self.error_term)
        if not recomputed:
            context = watch.context(self.target.module)
            this.kept = context.kept(original.shape[:-1], self.site.exclusion, original.device)
        return new if this.kept is None else torch.where(this.kept.unsqueeze(-1), new, original)

    def _taken(self, recomputed: bool) -> Tensor:
        held, self.held = self.held, None
        if (held is None and recomputed) or (held is not None and torch.is_grad_enabled() > held[1]):
            raise RuntimeError(
                f"Gradient checkpointing must recompute `{self.source}` together with `{self.target}`, or gradients "
                "between them would be lost. Turn checkpointing off while the site is replaced."
            )
        if held is None:
            raise RuntimeError(
                f"The replacement reads at `{self.source}`, which this forward pass must reach before `{self.target}`."
            )
        return held[0]


def _unused(swap: _Swap) -> str:
    if swap.n_passed:
        what = f"its call {swap.target.call} was never reached: there were {swap.n_passed} calls in all"
    elif not swap.target.is_in(swap.site.model):
        what = "another module has been put at its path since"
    else:
        what = (
            "the module wasn't called. Was the model run inside the context, and this model rather than a copy or a "
            "compiled one?"
        )
    return f"Nothing was replaced at `{swap.target}`, for {what}"


def _reconstruction(
    x: Adapter, source: Tensor, original: Tensor, ablate: Intervention | None, error_term: bool
) -> Float[Tensor, "*batch d"]:
    # Where a model is split over devices, the MLP may be given what another one computed.
    inputs = _fitted(x, source.to(original.device))
    # Interventions are written for all latents; without one the active latents suffice.
    latents = x.encode_sparse(inputs) if ablate is None else x.encode(inputs)
    plain = x.reconstruct(latents, inputs) if ablate is None or error_term else None
    result = plain
    if ablate is not None:
        assert isinstance(latents, Tensor)
        changed = ablate(latents)
        checks.same_shape("ablate(latents)", changed, "latents", latents)
        result = x.reconstruct(changed, inputs)
    assert result is not None
    if result.ndim == source.ndim and result.shape[:-1].numel() == original.shape[:-1].numel():
        # Some models flatten sequences between the two points.
        result = result.reshape(*original.shape[:-1], -1)
        plain = None if plain is None else plain.reshape(result.shape)
    if result.shape != original.shape:
        raise ValueError(
            f"`x` must give activations {tuple(original.shape)} at this site, got {tuple(result.shape)} from "
            f"{type(x.source).__name__}."
        )
    if error_term:
        assert plain is not None
        # Written as the original plus a difference, so that it is exact where nothing is ablated.
        result = original.detach() + (result - plain.detach()).to(original.dtype)
    return result.to(original)


def _fitted(x: Adapter, source: Tensor) -> Tensor:
    """The activations in the dictionary's own precision."""
    if x.d_in is not None and x.d_in != source.shape[-1]:
        raise ValueError(f"`x` takes activations of width {x.d_in}, but the site gives {tuple(source.shape)}.")
    if x.weight is not None and x.weight.device != source.device:
        raise ValueError(
            f"`x` must be on the site's device {source.device}, got {x.weight.device}. Move it with `.to`."
        )
    return x.fit(source)
