"""Finding the MLP's own matrices, and proving that they are the right ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparsedict.sites._capture import record
from sparsedict.sites._devices import loaded
from sparsedict.sites._embedding import token_embedding
from sparsedict.sites._modes import evaluating
from sparsedict.sites._passes import uncompiled
from sparsedict.sites._points import find_module, is_hook_point
from sparsedict.sites._tokens import prepare
from sparsedict.sites.families import Found, candidates
from sparsedict.sites.families._two_layer import between

if TYPE_CHECKING:
    from sparsedict.sites._site import Site

Reading = tuple[Found, bool]
"""One way to read a site, and whether a norm's scale and shift were folded into it."""


def find(site: Site) -> tuple[int | None, int]:
    """Returns which of `readings` reproduces what the model computes at this site, and how many were tried.

    The likeliest reading that was found in the module itself is taken if its output agrees with the model's; else the
    one that agrees best, if any does.
    """
    best: tuple[float, int] | None = None
    first_sure = None
    n_tried = 0
    reference = _Reference(site)
    for index, (found, folded) in enumerate(readings(site)):
        n_tried += 1
        first_sure = index if first_sure is None and found.sure and not folded else first_sure
        error = reference.error(found)
        if error is not None and error <= reference.tolerance(found):
            if found.sure:
                best = (error, index)
                break
            best = min(best or (error, index), (error, index))
    # Without numbers to compare (weights on the meta device, say) only what the module itself holds is taken.
    if best is None and first_sure is not None and not reference.compared:
        return first_sure, n_tried
    if best is None:
        return None, n_tried
    if reading(site, best[1])[1]:
        warnings.warn(
            f"`{site.reads}` lies before the norm's scale and shift, so `neurons` has them folded into its encoder. "
            "Read the MLP itself to have its weights unchanged.",
            stacklevel=4,
        )
    return best[1], n_tried


def reading(site: Site, index: int) -> Reading:
    """Returns one of `readings`."""
    return next(islice(readings(site), index, None))


def readings(site: Site) -> Iterator[Reading]:
    """Yields every way to read the modules of a site as an MLP."""
    for found in _plain_readings(site):
        yield found, False
        for scale, shift in _affines(site, found.neurons.encoder):
            if scale.shape == found.neurons.encoder.shape[1:]:
                yield Found(found.neurons.fold(scale, shift), found.hidden, found.sure), True


def _plain_readings(site: Site) -> Iterator[Found]:
    reads, writes = site.reads, site.writes
    if reads == writes:
        return
    paths = holder_paths(site)
    holders = [module for path in paths if (module := find_module(site.model, path) if path else site.model)]
    for module in holders:
        yield from candidates(module)
    if reads.module is not writes.module and not is_hook_point(reads.module):
        yield from between(reads.module, writes.module, *holders)


def holder_paths(site: Site) -> list[str]:
    """Paths of the modules that may hold the MLP: what both points share, then what lies below it on either side."""
    ends = []
    for point in (site.writes, site.reads):
        parts = point.path.split(".")
        ends.append(parts[:-1] if is_hook_point(point.module) else parts)
    shared = 0
    while shared < min(map(len, ends)) and ends[0][shared] == ends[1][shared]:
        shared += 1
    paths = [".".join(ends[0][:shared])]
    for parts in ends:
        paths += [".".join(parts[:n]) for n in range(shared + 1, len(parts) + 1)]
    return paths


def _affines(site: Site, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    parent, _, hook = site.reads.path.rpartition(".")
    norm = find_module(site.model, parent) if hook == "hook_normalized" else None
    if norm is None:
        return
    weight, bias = (
        next((loaded(norm, n) for n in names if hasattr(norm, n)), None) for names in (("weight", "w"), ("bias", "b"))
    )
    if isinstance(weight, Tensor):
        weight = weight.detach().to(like)
        shift = bias.detach().to(like) if isinstance(bias, Tensor) else None
        yield weight, shift
        # Gemma's norms keep their scale as an offset from one.
        yield 1 + weight, shift


class _Reference:
    """What the model itself computes at a site, for inputs on which readings are compared with it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._alone: dict[int, tuple[Tensor, Tensor] | None] = {}
        self._inside: tuple[Tensor, Tensor] | None = None
        self._probed = False
        self.compared = False

    def tolerance(self, found: Found) -> float:
        """The relative error that rounding explains."""
        return 1e-3 if found.neurons.encoder.dtype in (torch.float32, torch.float64) else 5e-2

    @torch.no_grad()
    def error(self, found: Found) -> float | None:
        """Returns the relative error of a reading's output, or None where it can't be computed."""
        pair = self._pair(found)
        if pair is None or pair[0].shape[-1] != found.neurons.d_in or pair[1].shape[-1] != found.neurons.d_out:
            return None
        # Some models flatten sequences somewhere inside, so only rows are compared.
        inputs, outputs = (activations.flatten(0, -2) for activations in pair)
        try:
            latents = found.neurons.encode(inputs.to(found.neurons.encoder.dtype))
            given = found.neurons.decode(latents)
        except Exception:  # An activation that is tried may not even take a tensor.
            return None
        if given.shape != outputs.shape:
            return None
        error = (given.double() - outputs.double()).norm() / outputs.double().norm().clamp_min(1e-30)
        return float(error)

    def _pair(self, found: Found) -> tuple[Tensor, Tensor] | None:
        site, encoder = self._site, found.neurons.encoder
        if encoder.device.type == "meta":
            return None
        module = site.reads.module
        if module is site.writes.module and not is_hook_point(module) and found.neurons.d_in not in self._alone:
            self._alone[found.neurons.d_in] = _run_alone(module, found)
        pair = self._alone.get(found.neurons.d_in)
        if pair is None:
            if not self._probed:
                self._inside, self._probed = probe(site), True
            pair = self._inside
        self.compared |= pair is not None
        return pair


@torch.no_grad()
def _run_alone(module: nn.Module, found: Found) -> tuple[Tensor, Tensor] | None:
    encoder = found.neurons.encoder
    inputs = torch.randn(1, 4, found.neurons.d_in, generator=torch.Generator("cpu").manual_seed(0), device="cpu").to(
        encoder
    )
    with evaluating(module):
        try:
            # `forward` itself, so that no hook on the module sees this.
            outputs = module.forward(inputs)
        except Exception:  # Whatever a foreign module raises only says that it can't be run like this.
            return None
    return (inputs, outputs) if isinstance(outputs, Tensor) else None


def probe(site: Site) -> tuple[Tensor, Tensor] | None:
    """Returns what the site reads and writes for a few tokens, or None if the model can't be run on bare tokens."""
    reads, writes = site.reads, site.writes
    if token_embedding(site.model) is None:
        return None
    with evaluating(site.model):
        try:
            call = prepare(site.model, torch.tensor([[0, 1, 1, 0]], device="cpu"), cache=False)
            points = {reads: None, writes: None}
            with uncompiled(site.model, points):
                values = record(site.model, call, points)
        except Exception:  # Models that need more than tokens say so in their own ways.
            return None
    return values[reads], values[writes]
