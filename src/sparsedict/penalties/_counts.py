from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.penalties._penalty import Penalty, set_coefficient

if TYPE_CHECKING:
    from sparsedict.dictionaries import Dictionary
    from sparsedict.forward_pass import ForwardPass


@dataclass(frozen=True)
class L0(Penalty):
    """``coefficient * (number of latents that fire)``, mean over tokens, by the activation's own estimator.

    Only an activation that gives the step a gradient can be trained by it: JumpReLU, or one of your own that
    overrides :meth:`Activation.firing`.

    Args:
        coefficient: Cost of one active latent, in units of the squared error.

    Source: Rajamanoharan et al., "Jumping Ahead", 2024.
    """

    coefficient: float

    def __post_init__(self) -> None:
        set_coefficient(self)

    def __call__(self, passed: ForwardPass) -> Float[Tensor, ""]:
        return _count(passed) * self.coefficient

    def check(self, dictionary: Dictionary) -> None:
        _need_firing_gradient(self, dictionary)


@dataclass(frozen=True)
class TargetL0(Penalty):
    """``coefficient * (l0 / target - 1)^2``: holds the number of active latents near a target.

    Args:
        target: Latents that should fire on a token, on average.
        coefficient: Weight, in units of the squared error.

    Source: Rajamanoharan et al., "Jumping Ahead", 2024, appendix on training to a fixed sparsity.
    """

    target: float
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        checks.set_in_range(self, "target", 0.0, open_low=True)
        set_coefficient(self)

    def __call__(self, passed: ForwardPass) -> Float[Tensor, ""]:
        return (_count(passed) / self.target - 1) ** 2 * self.coefficient

    def check(self, dictionary: Dictionary) -> None:
        _need_firing_gradient(self, dictionary)
        if self.target > dictionary.n_latents:
            raise ValueError(f"`target` must be at most n_latents={dictionary.n_latents}, got {self.target}.")


def _count(passed: ForwardPass) -> Tensor:
    return passed.activation.firing(passed.pre_activations, passed.state).sum() / passed.n_tokens


def _need_firing_gradient(penalty: Penalty, dictionary: Dictionary) -> None:
    if type(dictionary.activation).firing is Activation.firing:
        raise ValueError(
            f"{type(penalty).__name__} needs an activation that gives firing a gradient, but "
            f"activation={dictionary.activation} doesn't. Use JumpReLU(), or L1 with this activation."
        )
