"""`Divergence` and `KL`, distances between the predictions of a model with and without dictionaries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from sparsedict import checks


class Divergence(ABC):
    """Base class of distances between two predictions of the next token."""

    @abstractmethod
    def __call__(
        self, logits: Float[Tensor, "n_positions n_vocabulary"], original: Float[Tensor, "n_positions n_vocabulary"]
    ) -> Float[Tensor, ""]:
        """Returns the mean distance over positions, differentiable.

        Args:
            logits: Logits of the model with the dictionary.
            original: Logits of the unchanged model, without gradients.
        """


@dataclass(frozen=True)
class KL(Divergence):
    """``KL(original || with the dictionary)``, in nats, mean over positions.

    Args:
        temperature: Logits are divided by this number.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.0, 1.0]])
        >>> KL()(logits, logits)
        tensor(0.)
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        checks.set_in_range(self, "temperature", 0.0, open_low=True)

    def __call__(
        self, logits: Float[Tensor, "n_positions n_vocabulary"], original: Float[Tensor, "n_positions n_vocabulary"]
    ) -> Float[Tensor, ""]:
        found, wanted = (log_softmax(part.float() / self.temperature, dim=-1) for part in (logits, original))
        return kl_div(found, wanted, reduction="batchmean", log_target=True)
