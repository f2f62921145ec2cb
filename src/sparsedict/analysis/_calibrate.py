"""`calibrate_threshold`, which replaces TopK by a threshold."""

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
"""Number of pre-activations that are in memory at the same time."""


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Displayed):
    """A dictionary with a common threshold, and its L0 and FVU before and after the calibration.

    Attributes:
        dictionary: A copy of the dictionary with `BatchTopK`, whose latents fire if their pre-activation exceeds the
            threshold.
        threshold: The threshold.
        l0_before: L0 of the original dictionary, mean over tokens.
        l0: L0 of the copy.
        fvu_before: Fraction of variance unexplained of the original dictionary.
        fvu: Fraction of variance unexplained of the copy.
        n_tokens: Number of tokens used.
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
    """Replaces the activation by a threshold that is common to all latents, and measures L0 and FVU before and after.

    The threshold is chosen such that, on the tokens used, exactly ``l0`` latents per token exceed it on average. The
    result can be written for libraries that support thresholds but not TopK: `formats.sae_lens.write` (transcoders) and
    `formats.circuit_tracer.write`. The original dictionary isn't changed.

    Args:
        dictionary: A trained dictionary, for example with `TopK`.
        data: Data that `fit` accepts: an `ActivationStream`, a tensor, or a tuple of inputs and targets.
        l0: Mean number of active latents per token. By default the L0 of the dictionary on these tokens.
        n_tokens: Number of tokens to use, at most one pass over the data; 20,000 by default. They are held in memory.

    Raises:
        TypeError: If ``data`` has an unsupported type.
        ValueError: If ``l0`` isn't positive or exceeds the mean number of positive pre-activations, or if latents may
            be negative, as with `AbsTopK`.

    Example:
        >>> import torch, sparsedict as sd
        >>> x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
        >>> sae = sd.SparseAutoencoder(8, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
        >>> calibration = sd.calibrate_threshold(sae, x)
        >>> calibration.dictionary.activation, round(calibration.l0, 2)
        (BatchTopK(k=4, momentum=0.99), 4.0)
    """
    checks.instance("dictionary", dictionary, Dictionary, "a dictionary of this library")
    if not dictionary.activation.non_negative:
        raise ValueError(
            "`dictionary` must have non-negative latents, because a threshold gives positive latents only, got "
            f"activation={dictionary.activation}. Train a dictionary with TopK, BatchTopK or JumpReLU."
        )
    wanted = None if l0 is None else checks.in_range("l0", l0, 0.0, dictionary.n_latents, open_low=True)
    limit = checks.at_least("n_tokens", DEFAULT_TOKENS if n_tokens is None else n_tokens, 1)
    inputs, targets = _collect(dictionary, data, limit)
    with evaluation_mode(dictionary):
        l0_before, fvu_before = _measure(dictionary, inputs, targets)
        wanted = l0_before if wanted is None else wanted
        threshold = _threshold(dictionary, inputs, wanted)
        activation = BatchTopK(min(dictionary.n_latents, max(1, round(wanted))))
        calibrated = dictionary.with_activation(activation, {"threshold": threshold}).eval()
        l0_after, fvu_after = _measure(calibrated, inputs, targets)
    # Half precision rounds the threshold.
    stored = float(calibrated.activation_state.get_buffer("threshold"))
    metadata = {"from": repr(dictionary.activation), "threshold": stored, "l0": l0_after, "n_tokens": len(inputs)}
    calibrated.trained_on = {**calibrated.trained_on, "calibrated": metadata}
    return Calibration(calibrated, stored, l0_before, l0_after, fvu_before, fvu_after, len(inputs))


def _collect(dictionary: Dictionary, data: Any, limit: int) -> tuple[Tensor, Tensor]:
    """Returns the inputs and targets of up to ``limit`` tokens."""
    batches = as_batches(data, repeat=False)
    batches.expect(limit)
    device = dictionary.encoder_bias.device
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


def _measure(dictionary: Dictionary, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Returns L0 and FVU of a dictionary."""
    active, error = RunningL0(), RunningError("data")
    for x, y in _chunks(dictionary, inputs, targets):
        latents = dictionary.encode_sparse(x)
        active.update_(latents)
        error.update_(dictionary.reconstruct(latents, x.to(dictionary.encoder_bias.dtype)), y)
    return active.value, error.fvu


def _threshold(dictionary: Dictionary, inputs: Tensor, l0: float) -> float:
    """Returns the threshold that exactly ``l0 * n_tokens`` pre-activations exceed."""
    n_active = round(l0 * len(inputs))
    largest = inputs.new_empty(0)
    for (x,) in _chunks(dictionary, inputs):
        pre = dictionary.pre_activations(x.to(dictionary.encoder_bias.dtype)).flatten()
        joined = torch.cat([largest.to(pre.dtype), pre[pre > 0]])
        # One more than the active ones, because the threshold is the largest inactive pre-activation.
        largest = joined.topk(min(len(joined), n_active + 1)).values
    if len(largest) < n_active:
        raise ValueError(
            f"`l0` must be at most {len(largest) / len(inputs):.4g}, the mean number of positive pre-activations per "
            f"token, got {l0:.4g}."
        )
    if len(largest) == n_active:
        return 0.0
    # The largest inactive pre-activation. Exactly the active ones exceed it.
    threshold = float(largest[-1])
    return threshold if math.isfinite(threshold) else 0.0
