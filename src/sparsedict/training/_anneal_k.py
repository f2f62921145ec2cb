"""`AnnealK`, the step hook that lowers k during training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch

from sparsedict import checks
from sparsedict.activations import Activation, PerLayer
from sparsedict.dictionaries import Dictionary, ForwardPass
from sparsedict.training._step_hook import StepHook


@dataclass(frozen=True)
class AnnealK(StepHook):
    """Trains with a larger ``k``, which falls linearly to that of the dictionary's activation.

    The activation is constructed with the final ``k``, such as ``TopK(32)``. Only training steps use the larger number.
    Records in evaluation mode, checkpoints, callbacks and saved dictionaries have the final one. In the first steps,
    many latents are active on each token, so more latents are trained before they compete.

    Args:
        start: ``k`` in the first step, at least the final ``k``. ``None`` is twice the final ``k``, or the number of
            latents if that is smaller.
        until: Fraction of the steps of the run after which ``k`` is final.

    Source: the schedule of K in He et al., "Llama Scope", 2024, arXiv 2410.20526, which lowers K from the width of the
    activations in the first tenth of the run.

    Example:
        >>> import torch, sparsedict as sd
        >>> sae = sd.SparseAutoencoder(8, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
        >>> hooks = [sd.AnnealK(start=8, until=0.5)]
        >>> history = sd.fit(
        ...     sae, torch.randn(512, 8), n_tokens=1024, batch_size=256, step_hooks=hooks, log_every=1, progress=False
        ... )
        >>> history.column("l0")
        [8.0, 6.0, 4.0, 4.0]
    """

    start: float | None = None
    until: float = 0.1

    def __post_init__(self) -> None:
        if self.start is not None:
            checks.set_in_range(self, "start", 0.0, open_low=True)
        checks.set_in_range(self, "until", 0.0, 1.0)

    def __call__(self, out: ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        pass

    def during(self, dictionary: Dictionary, *, step: int, n_steps: int) -> AbstractContextManager[None]:
        share = step / max(self.until * n_steps, 1e-9)
        return nullcontext() if share >= 1 else self._larger(dictionary, share)

    @contextmanager
    def _larger(self, dictionary: Dictionary, share: float) -> Iterator[None]:
        final = dictionary.activation
        dictionary.activation = self._at(final, share, dictionary.n_latents)
        try:
            yield
        finally:
            dictionary.activation = final

    def check(self, dictionary: Dictionary) -> None:
        activation = dictionary.activation
        for own in _with_k(activation):
            if self.start is not None and self.start < own.k:
                raise ValueError(
                    f"`start` of AnnealK must be at least the final k, {own.k}, of {own!r}, got {self.start}."
                )
        # Raises an error if the activation is invalid with the first k.
        try:
            self._at(activation, 0.0, dictionary.n_latents).check(dictionary.n_latents)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`start` of AnnealK must be a valid k of {activation!r}, got {self.start}: {error}"
            ) from error

    def _at(self, activation: Activation, share: float, n_latents: int) -> Activation:
        """Returns the activation with the k after a share of the descent."""
        if isinstance(activation, PerLayer):
            sizes = activation.n_latents or ()
            layers = (self._at(activation.of_layer(index), share, size) for index, size in enumerate(sizes))
            return replace(activation, activation=tuple(layers))
        final: Any = activation
        start = min(2 * final.k, n_latents) if self.start is None else self.start
        k = final.k + (start - final.k) * (1 - share)
        return replace(final, k=round(k) if isinstance(final.k, int) else k)


def _with_k(activation: Activation) -> list[Any]:
    """Returns the activation of each layer.

    Raises:
        ValueError: If an activation has no number ``k``.
    """
    is_split = isinstance(activation, PerLayer)
    layers = [activation.of_layer(i) for i in range(len(activation.n_latents or ()))] if is_split else [activation]
    for own in layers:
        if not is_dataclass(own) or not isinstance(getattr(own, "k", None), int | float):
            raise ValueError(f"`activation` must have a number k for AnnealK, such as TopK or BatchTopK, got {own!r}.")
    return layers
