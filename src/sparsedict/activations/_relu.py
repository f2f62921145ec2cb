"""`ReLU`, the rectifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.activations._activation import Activation, State
from sparsedict.selections import Above, Selection


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

    def selection(self, state: State, *, training: bool) -> Selection:
        return Above(torch.zeros((), device="cpu", dtype=torch.float32))
