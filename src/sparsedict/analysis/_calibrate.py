"""One threshold instead of a choice among latents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import BatchTopK
from sparsedict.analysis._blocks import evaluation_mode
from sparsedict.data import as_batches
from sparsedict.dictionaries import Dictionary
from sparsedict.display import Displayed, shown
from sparsedict.metrics import RunningError, RunningL0

DEFAULT_TOKENS = 20_000
_ENTRIES = 2**24
"""Pre-activations that are held at once."""


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Displayed):
    """A dictionary with one threshold, and what the change cost on the tokens that it was calibrated on.

    Attributes:
        dictionary: The copy, with `BatchTopK`: each latent fires where its pre-activation exceeds the threshold.
        threshold: The threshold.
        l0_before: Active latents, mean over tokens, of the original.
        l0: Of the copy.
        fvu_before: Fraction of variance unexplained, of the original.
        fvu: Of the copy.
        n_tokens: Tokens that were seen.
    """

    dictionary: Dictionary
    threshold: float
    l0_before: float
    l0: float
    fvu_before: float
    fvu: float
    n_tokens: int

    def __str__(self) -> str:
        return (
            f"threshold {self.threshold:.4g}: L0 {self.l0_before:.2f} -> {self.l0:.2f}, FVU "
            f"{shown(self.fvu_before, '.4f')} -> {shown(self.fvu, '.4f')} ({self.n_tokens:,} tokens)"
        )


@torch.no_grad()
def calibrate_threshold(
    dictionary: Dictionary, data: Any, *, l0: float | None = None, n_tokens: int | None = None
) -> Calibration:
    """Replaces the choice among latents by one threshold for all, and measures what changes.

    The threshold lies where on average ``l0`` latents of a token exceed it, exactly, over all tokens that are taken.
    Libraries that have thresholds but no TopK read the result: `formats.sae_lens.write` for transcoders, and
    `formats.circuit_tracer.write`. The dictionary itself isn't changed.

    Args:
        dictionary: A trained dictionary, such as one with `TopK`.
        data: Activations in any form that `fit` takes: an `ActivationStream`, a tensor, a tuple of inputs and targets.
        l0: Active latents of a token, on average; where left out as many as the dictionary has on these tokens.
        n_tokens: Tokens to take from ``data``; 20,000 where left out, or one pass if that is less. Held in memory.

    Raises:
        TypeError: If ``data`` is of no such form.
        ValueError: If ``l0`` isn't positive, or more latents than have positive pre-activations, or if latents may be
            negative, as those of `AbsTopK`: above a threshold none is.

    Example:
        >>> import torch, sparsedict as sd
        >>> x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
        >>> sae = sd.SparseAutoencoder(8, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
        >>> calibration = sd.calibrate_threshold(sae, x)
        >>> calibration.dictionary.activation, round(calibration.l0, 2)
        (BatchTopK(k=4, momentum=0.99), 4.0)
    """
    if not dictionary.activation.non_negative:
        raise ValueError(
            f"`dictionary` must have latents that are never negative, for a threshold keeps positive ones alone, got "
            f"activation={dictionary.activation}. Train one with TopK, BatchTopK or JumpReLU."
        )
    wanted = None if l0 is None else checks.in_range("l0", l0, 0.0, dictionary.n_latents, open_low=True)
    limit = checks.at_least("n_tokens", DEFAULT_TOKENS if n_tokens is None else n_tokens, 1)
    inputs, targets = _taken(dictionary, data, limit)
    with evaluation_mode(dictionary):
        l0_before, fvu_before = _measured(dictionary, inputs, targets)
        wanted = l0_before if wanted is None else wanted
        threshold = _threshold(dictionary, inputs, wanted)
        activation = BatchTopK(min(dictionary.n_latents, max(1, round(wanted))))
        made = dictionary.with_activation(activation, {"threshold": threshold}).eval()
        l0_after, fvu_after = _measured(made, inputs, targets)
    # Half precision rounds the threshold.
    stored = float(made.activation_state.get_buffer("threshold"))
    noted = {"from": repr(dictionary.activation), "threshold": stored, "l0": l0_after, "n_tokens": len(inputs)}
    made.trained_on = {**made.trained_on, "calibrated": noted}
    return Calibration(made, stored, l0_before, l0_after, fvu_before, fvu_after, len(inputs))


def _taken(dictionary: Dictionary, data: Any, limit: int) -> tuple[Tensor, Tensor]:
    """Returns inputs and targets of up to so many tokens."""
    batches = as_batches(data, repeat=False)
    batches.expect(limit)
    device = dictionary.encoder.device
    inputs, targets, n_taken = [], [], 0
    for batch in batches:
        x, y = dictionary.select(batch.site(None))
        checks.activations("data", x, dictionary.d_in)
        checks.activations("data", y, dictionary.d_out)
        inputs.append(x[: limit - n_taken].to(device))
        targets.append(y[: limit - n_taken].to(device))
        n_taken += len(inputs[-1])
        if n_taken >= limit:
            break
    return torch.cat(inputs), torch.cat(targets)


def _chunks(dictionary: Dictionary, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    size = max(1, _ENTRIES // dictionary.n_latents)
    yield from zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _measured(dictionary: Dictionary, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Returns L0 and FVU."""
    active, error = RunningL0(), RunningError()
    for x, y in _chunks(dictionary, inputs, targets):
        latents = dictionary.encode_sparse(x)
        active.update_(latents)
        error.update_(dictionary.reconstruct(latents, x.to(dictionary.encoder.dtype)), y)
    return active.value, error.fvu


def _threshold(dictionary: Dictionary, inputs: Tensor, l0: float) -> float:
    """Returns the number that ``l0 * n_tokens`` of all pre-activations exceed."""
    n_active = round(l0 * len(inputs))
    largest = inputs.new_empty(0)
    for (x,) in _chunks(dictionary, inputs):
        pre = dictionary.pre_activations(x.to(dictionary.encoder.dtype)).flatten()
        joined = torch.cat([largest.to(pre.dtype), pre[pre > 0]])
        # One more than fire, for the threshold lies between the two.
        largest = joined.topk(min(len(joined), n_active + 1)).values
    if len(largest) < n_active:
        raise ValueError(
            f"`l0` must be at most {len(largest) / len(inputs):.4g}, the positive pre-activations of a token, "
            f"got {l0:.4g}."
        )
    if len(largest) == n_active:
        return 0.0
    # Exceeded by those above it alone: the largest that doesn't fire.
    threshold = float(largest[-1])
    return threshold if math.isfinite(threshold) else 0.0
