"""Finds the weight matrices of an MLP, and verifies them against the MLP's output."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from sparsedict import checks
from sparsedict.sites._capture import record
from sparsedict.sites._devices import loaded
from sparsedict.sites._embedding import token_embedding
from sparsedict.sites._ends import Ends
from sparsedict.sites._modes import evaluating
from sparsedict.sites._passes import uncompiled
from sparsedict.sites._points import find_module, is_hook_point
from sparsedict.sites._tokens import prepare
from sparsedict.sites.families import Candidate, candidates
from sparsedict.sites.families._two_layer import from_layers

Reading = tuple[Candidate, bool]
"""A candidate for the MLP of a site, and whether a norm's scale and shift were folded into its weights."""


def find_neurons(ends: Ends) -> tuple[int | None, int]:
    """Returns the index of the item of `readings` that reproduces the model's output, and the number of items tried.

    The first reading that was found entirely in the module and agrees with the model is taken. Otherwise it is the
    reading with the smallest error, if any agrees.
    """
    best: tuple[float, int] | None = None
    first_sure = None
    n_tried = 0
    reference = _Reference(ends)
    for index, (found, folded) in enumerate(readings(ends)):
        n_tried += 1
        first_sure = index if first_sure is None and found.certain and not folded else first_sure
        error = reference.error(found)
        if error is not None and error <= reference.tolerance(found):
            if found.certain:
                best = (error, index)
                break
            best = min(best or (error, index), (error, index))
    # Without a comparison (such as for weights on the meta device), only readings from the module itself are accepted.
    if best is None and first_sure is not None and not reference.compared:
        return first_sure, n_tried
    if best is None:
        return None, n_tried
    if reading(ends, best[1])[1]:
        checks.warn(
            f"`{ends.reads}` is before the norm's scale and shift, so `neurons` has both folded into its encoder. "
            "For the unchanged weights, let the site read the MLP's input."
        )
    return best[1], n_tried


def reading(ends: Ends, index: int) -> Reading:
    """Returns the item of `readings` at an index."""
    return next(islice(readings(ends), index, None))


def readings(ends: Ends) -> Iterator[Reading]:
    """Yields every interpretation of a site's modules as an MLP."""
    for found in _plain_readings(ends):
        yield found, False
        for scale, shift in _affines(ends, found.neurons.encoder):
            if scale.shape == found.neurons.encoder.shape[1:]:
                yield Candidate(found.neurons.fold(scale, shift), found.hidden, found.certain), True


def _plain_readings(ends: Ends) -> Iterator[Candidate]:
    reads, writes = ends.reads, ends.writes
    if reads == writes:
        return
    paths = holder_paths(ends)
    found = [find_module(ends.model, path) if path else ends.model for path in paths]
    # A compiled module has no truth value, since its length is that of the module inside.
    holders = [module for module in found if module is not None]
    for module in holders:
        yield from candidates(module)
    if reads.module is not writes.module and not is_hook_point(reads.module):
        yield from from_layers(reads.module, writes.module, *holders)


def holder_paths(ends: Ends) -> list[str]:
    """Returns paths of modules that may contain the MLP: the common parent of both points, then its descendants."""
    split = []
    for point in (ends.writes, ends.reads):
        parts = point.path.split(".")
        split.append(parts[:-1] if is_hook_point(point.module) else parts)
    shared = 0
    while shared < min(map(len, split)) and split[0][shared] == split[1][shared]:
        shared += 1
    paths = [".".join(split[0][:shared])]
    for parts in split:
        paths += [".".join(parts[:n]) for n in range(shared + 1, len(parts) + 1)]
    return paths


def _affines(ends: Ends, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    parent, _, hook = ends.reads.path.rpartition(".")
    norm = find_module(ends.model, parent) if hook == "hook_normalized" else None
    if norm is None:
        return
    weight, bias = (
        next((loaded(norm, n) for n in names if hasattr(norm, n)), None) for names in (("weight", "w"), ("bias", "b"))
    )
    if isinstance(weight, Tensor):
        weight = weight.detach().to(like)
        shift = bias.detach().to(like) if isinstance(bias, Tensor) else None
        yield weight, shift
        # Gemma's norms store their scale as an offset from one.
        yield 1 + weight, shift


class _Reference:
    """The model's input and output at a site, with which candidates are compared."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self._alone: dict[int, tuple[Tensor, Tensor] | None] = {}
        self._inside: tuple[Tensor, Tensor] | None = None
        self._probed = False
        self.compared = False

    def tolerance(self, found: Candidate) -> float:
        """Returns the relative error that rounding can cause."""
        return 1e-3 if found.neurons.encoder.dtype in (torch.float32, torch.float64) else 5e-2

    @torch.no_grad()
    def error(self, found: Candidate) -> float | None:
        """Returns the relative error of a candidate's output, or None if it can't be computed."""
        pair = self._pair(found)
        if pair is None or pair[0].shape[-1] != found.neurons.d_in or pair[1].shape[-1] != found.neurons.d_out:
            return None
        # Some models flatten sequences inside, so only rows are compared.
        inputs, outputs = (activations.flatten(0, -2) for activations in pair)
        try:
            latents = found.neurons.encode(inputs.to(found.neurons.encoder.dtype))
            result = found.neurons.decode(latents)
        except Exception:  # A tried activation may not accept a tensor at all.
            return None
        if result.shape != outputs.shape:
            return None
        error = (result.double() - outputs.double()).norm() / outputs.double().norm().clamp_min(1e-30)
        return float(error)

    def _pair(self, found: Candidate) -> tuple[Tensor, Tensor] | None:
        ends, encoder = self._ends, found.neurons.encoder
        if encoder.device.type == "meta":
            return None
        module = ends.reads.module
        if module is ends.writes.module and not is_hook_point(module) and found.neurons.d_in not in self._alone:
            self._alone[found.neurons.d_in] = _run_alone(module, found)
        pair = self._alone.get(found.neurons.d_in)
        if pair is None:
            if not self._probed:
                self._inside, self._probed = probe(ends), True
            pair = self._inside
        self.compared |= pair is not None
        return pair


@torch.no_grad()
def _run_alone(module: nn.Module, found: Candidate) -> tuple[Tensor, Tensor] | None:
    encoder = found.neurons.encoder
    generator = torch.Generator("cpu").manual_seed(0)
    inputs = torch.randn(1, 4, found.neurons.d_in, generator=generator, device="cpu", dtype=torch.float32).to(encoder)
    with evaluating(module):
        try:
            # Calling `forward` directly bypasses the hooks of the module.
            outputs = module.forward(inputs)
        except Exception:  # Any error means that the module can't be run on its own.
            return None
    return (inputs, outputs) if isinstance(outputs, Tensor) else None


def probe(ends: Ends) -> tuple[Tensor, Tensor] | None:
    """Returns the site's input and output for a few tokens, or None if the model needs more than token ids."""
    reads, writes = ends.reads, ends.writes
    if token_embedding(ends.model) is None:
        return None
    with evaluating(ends.model):
        try:
            call = prepare(ends.model, torch.tensor([[0, 1, 1, 0]], device="cpu"), cache=False)
            points = {reads: None, writes: None}
            with uncompiled(ends.model, points):
                values = record(ends.model, call, points)
        except Exception:  # Models that need more than token ids raise various errors.
            return None
    return values[reads], values[writes]
