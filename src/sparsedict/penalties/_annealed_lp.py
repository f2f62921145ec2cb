"""`AnnealedLp`, a penalty that changes from L1 towards L0 during training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import Dictionary, ForwardPass
from sparsedict.penalties._penalty import Penalty
from sparsedict.penalties._per_dictionary import PerDictionary
from sparsedict.penalties._powers import Lp


@dataclass(frozen=True)
class AnnealedLp(Penalty):
    r"""``Lp`` whose power falls during training, from L1 towards a count of active latents (p-annealing).

    The power falls from 1 to ``end`` in ``n_updates`` equal steps, which are equally spaced from ``begin`` to the end
    of the run. L1 finds features and shrinks latents; a small power hardly shrinks large latents. At each step of the
    power from :math:`p` to :math:`q`, the coefficient is multiplied by

    .. math:: \frac{\sum_{ti} ((a_{ti} + \epsilon)^p - \epsilon^p)}{\sum_{ti} ((a_{ti} + \epsilon)^q - \epsilon^q)}

    over the batch, so that the size of the penalty doesn't jump. It requires non-negative latents.

    Args:
        coefficient: Weight of the penalty while the power is 1. It is absolute, in units of the data, like that of
            `L1`: for data multiplied by ``s``, the same balance with the squared error needs ``s`` times the
            coefficient.
        end: The final power.
        begin: Fraction of the steps of the run with the power 1.
        n_updates: Number of steps of the power.
        eps: Bounds the slope at zero. It has the units of the data.

    Source: Karvonen et al., "Measuring Progress in Dictionary Learning for Language Model Interpretability with Board
    Game Models", 2024, arXiv 2408.00113. The source averages the ratio over the last 10 batches.

    Example:
        >>> import sparsedict as sd
        >>> penalties = [sd.WarmUp(sd.AnnealedLp(0.2), n_steps=500)]
    """

    coefficient: float
    end: float = 0.2
    begin: float = 0.2
    n_updates: int = 10
    eps: float = 1e-6

    def __post_init__(self) -> None:
        checks.set_in_range(self, "coefficient", 0.0)
        checks.set_in_range(self, "end", 0.0, 1.0, open_low=True)
        checks.set_in_range(self, "begin", 0.0, 1.0)
        checks.set_at_least(self, "n_updates", 1)
        checks.set_in_range(self, "eps", 0.0, open_low=True)
        object.__setattr__(self, "_factors", PerDictionary(1.0))

    def power(self, step: int, n_steps: int | None) -> float:
        """Returns the power at a step of a run; 1 if the number of steps is unknown."""
        if not n_steps:
            return 1.0
        done = (step / n_steps - self.begin) / max(1 - self.begin, 1e-9)
        n_done = max(0, min(int(done * (self.n_updates + 1) + 1e-9), self.n_updates))
        return 1 - (1 - self.end) * n_done / self.n_updates

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        power, before = self.power(out.step, out.n_steps), self.power(max(out.step - 1, 0), out.n_steps)
        found, factor = self._lp(power)(out), self._factor(out)
        if power != before:
            former = self._lp(before)(out).detach()
            ratio = out.whole.mean(former) / out.whole.mean(found.detach())
            factor.mul_(ratio.nan_to_num(1.0, 1.0, 1.0).to(factor.dtype))
        return found * (factor.to(found.dtype) * self.coefficient)

    def _lp(self, power: float) -> Lp:
        return Lp(1.0, p=power, eps=self.eps)

    def _factor(self, out: ForwardPass) -> Tensor:
        return vars(self)["_factors"].get(out)

    def state_dict(self) -> dict[str, Any]:
        """Returns the factors of the coefficient, in the order in which dictionaries are trained."""
        return {"factors": vars(self)["_factors"].values()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the factors, in the order in which dictionaries will be trained."""
        vars(self)["_factors"].restore(state_dict["factors"])

    def check(self, dictionary: Dictionary) -> None:
        self._lp(1.0).check(dictionary)
