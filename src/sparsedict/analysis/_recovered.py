"""`LossRecovered`, the losses of a model with its MLP unchanged, replaced and ablated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsedict.analysis._gaps import unclear_gap
from sparsedict.display import Displayed, short

NAN = float("nan")


@dataclass(frozen=True, repr=False)
class LossRecovered(Displayed):
    """The mean losses of a model with its MLP unchanged, replaced and ablated.

    Attributes:
        base: Loss of the original model, in nats per token for the default loss.
        replaced: Loss with the MLP replaced by the dictionary.
        zero_ablated: Loss with the output of the MLP set to zero.
        mean_ablated: Loss with the output of the MLP set to its mean over the same tokens.
        kl: KL divergence of the predictions, KL(base || replaced), in nats per token. ``None`` for a user-defined loss.
        n_tokens: Number of predicted tokens.
        zero_error: Standard error, over sequences, of ``zero_ablated - base``.
        mean_error: Standard error, over sequences, of ``mean_ablated - base``.
        reason: Reason why all numbers are NaN, or ``None``.
        agreement: Share of the predictions whose most likely token is that of the original model. ``None`` for a
            user-defined loss.
    """

    base: float
    replaced: float
    zero_ablated: float
    mean_ablated: float
    kl: float | None
    n_tokens: int
    zero_error: float = 0.0
    mean_error: float = 0.0
    reason: str | None = None
    agreement: float | None = None

    @classmethod
    def unknown(cls, reason: str) -> LossRecovered:
        """Returns a result without numbers, with the reason why the losses can't be measured."""
        return cls(NAN, NAN, NAN, NAN, NAN, 0, NAN, NAN, reason, NAN)

    @property
    def zero(self) -> float:
        """Loss recovered relative to zero ablation, (zero_ablated - replaced) / (zero_ablated - base).

        It is 1 if the loss doesn't change, and 0 if the loss equals that of zero ablation. It is NaN if zero ablation
        doesn't increase the loss by three standard errors; ``note`` then gives the reason.
        """
        return self._share("writing zero", self.zero_ablated, self.zero_error)

    @property
    def mean(self) -> float:
        """Loss recovered relative to mean ablation, (mean_ablated - replaced) / (mean_ablated - base).

        It is the stricter measure. It is NaN under the same condition as ``zero``.
        """
        return self._share("writing the mean", self.mean_ablated, self.mean_error)

    @property
    def note(self) -> str | None:
        """Reason why a ratio is NaN, or None."""
        if self.reason is not None:
            return self.reason
        gaps = (
            ("writing zero", self.zero_ablated, self.zero_error),
            ("writing the mean", self.mean_ablated, self.mean_error),
        )
        reasons = [unclear_gap(name, self.base, ablated, error) for name, ablated, error in gaps]
        found = dict.fromkeys(reason for reason in reasons if reason is not None)
        return None if not found else f"Loss recovered is NaN because {'; '.join(found)}."

    def _share(self, name: str, ablated: float, error: float) -> float:
        if self.reason is not None or not math.isfinite(self.replaced):
            return NAN
        if unclear_gap(name, self.base, ablated, error) is not None:
            return NAN
        return (ablated - self.replaced) / (ablated - self.base)

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the name and value of each number, and the note."""
        rows = [(name, short(value)) for name, value in self._numbers().items()]
        return [*rows, *([] if self.note is None else [("note", self.note)])]

    def _numbers(self) -> dict[str, float | int | None]:
        return {
            "zero": self.zero,
            "mean": self.mean,
            "kl": self.kl,
            "agreement": self.agreement,
            "base": self.base,
            "replaced": self.replaced,
            "zero_ablated": self.zero_ablated,
            "mean_ablated": self.mean_ablated,
            "n_tokens": self.n_tokens,
        }

    def __repr__(self) -> str:
        parts = [f"{name}={short(value)}" for name, value in self._numbers().items()]
        parts += [] if self.note is None else [f"note={self.note!r}"]
        return f"{type(self).__name__}({', '.join(parts)})"
