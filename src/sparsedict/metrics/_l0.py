"""L0, the mean number of active latents."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sparsedict.latents import SparseLatents, fires
from sparsedict.metrics._moments import check_some


def l0(latents: Float[Tensor, "*batch n_latents"] | SparseLatents) -> float:
    """Returns the number of latents that fire, i.e. are not zero, mean over tokens.

    Args:
        latents: Dense or sparse latents. Stored zeros don't count. GELU and SiLU are almost never zero; pass
            ``latents.relu()`` to count their positive values only.

    Raises:
        ValueError: If there are no tokens.

    Example:
        >>> import torch
        >>> l0(torch.tensor([[0.0, 2.0, 1.0], [0.0, 3.0, -1.0]]))
        2.0
    """
    running = RunningL0()
    running.update_(latents)
    return running.value


class RunningL0:
    """The running version of `l0`.

    Example:
        >>> import torch
        >>> running = RunningL0()
        >>> running.update_(torch.tensor([[1.0, 2.0]]))
        >>> running.update_(torch.tensor([[0.0, 0.0]]))
        >>> running.value
        1.0
    """

    def __init__(self) -> None:
        self.n_tokens: int = 0
        self._n_active: Tensor | int = 0

    def update_(self, latents: Float[Tensor, "*batch n_latents"] | SparseLatents) -> None:
        """Adds a batch of latents."""
        sparse = isinstance(latents, SparseLatents)
        self.n_tokens += latents.support.n_tokens if sparse else latents.shape[:-1].numel()
        self._n_active = self._n_active + fires(latents.values if sparse else latents).sum()

    @property
    def value(self) -> float:
        """Number of latents that fire, mean over tokens."""
        check_some("latents", self.n_tokens)
        return float(self._n_active) / self.n_tokens
