from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparsedict.activations._activation import Activation, State
from sparsedict.latents import Support


@dataclass(frozen=True)
class ReLU(Activation):
    """``max(p, 0)``.

    Example:
        >>> import torch
        >>> ReLU().values(torch.tensor([-1.0, 2.0]), {})
        tensor([0., 2.])
    """

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return pre.relu()

    def support(self, pre: Float[Tensor, "n_tokens n_latents"], state: State, *, training: bool) -> Support:
        # Written so that NaN counts as active: left out, it would turn into silence that nobody notices.
        return Support.from_mask(~(pre <= 0))
