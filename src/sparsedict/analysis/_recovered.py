"""The losses of a model with its MLP as it is, replaced and ablated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsedict.analysis._gaps import unclear_gap
from sparsedict.display import Displayed, short

NAN = float("nan")


@dataclass(frozen=True, repr=False)
class LossRecovered(Displayed):
    """Mean losses of a model with its MLP as it is, replaced, and ablated.

    Attributes:
        base: As it is, in nats per token for the default loss.
        replaced: With the dictionary in the MLP's place.
        zero_ablated: With zero there.
        mean_ablated: With the mean over the same tokens there.
        kl: Divergence of the replaced model's predictions from the base's, KL(base || replaced), in nats per token;
            ``None`` for a loss of one's own.
        n_tokens: Losses averaged.
        zero_error: Standard error, over sequences, of ``zero_ablated - base``.
        mean_error: Standard error, over sequences, of ``mean_ablated - base``.
        reason: Why nothing could be measured, where all numbers are NaN.
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

    @classmethod
    def unknown(cls, reason: str) -> LossRecovered:
        """Returns losses that couldn't be measured."""
        return cls(NAN, NAN, NAN, NAN, NAN, 0, NAN, NAN, reason)

    @property
    def zero(self) -> float:
        """(zero-ablated - replaced) / (zero-ablated - base). 1 is all, 0 no better than zero.

        NaN, with a reason in ``note``, where writing zero doesn't raise the loss by three standard errors.
        """
        return self._share("writing zero", self.zero_ablated, self.zero_error)

    @property
    def mean(self) -> float:
        """(mean-ablated - replaced) / (mean-ablated - base), the stricter measure; NaN as for ``zero``."""
        return self._share("writing the mean", self.mean_ablated, self.mean_error)

    @property
    def note(self) -> str | None:
        """Why a ratio is NaN; None if none is."""
        if self.reason is not None:
            return self.reason
        gaps = (
            ("writing zero", self.zero_ablated, self.zero_error),
            ("writing the mean", self.mean_ablated, self.mean_error),
        )
        reasons = [unclear_gap(name, self.base, ablated, error) for name, ablated, error in gaps]
        found = dict.fromkeys(reason for reason in reasons if reason is not None)
        return None if not found else f"Loss recovered is NaN where {'; '.join(found)}."

    def _share(self, name: str, ablated: float, error: float) -> float:
        if self.reason is not None or not math.isfinite(self.replaced):
            return NAN
        if unclear_gap(name, self.base, ablated, error) is not None:
            return NAN
        return (ablated - self.replaced) / (ablated - self.base)

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the name and the value of each number, and the note."""
        rows = [(name, short(value)) for name, value in self._numbers().items()]
        return [*rows, *([] if self.note is None else [("note", self.note)])]

    def _numbers(self) -> dict[str, float | int | None]:
        return {
            "zero": self.zero,
            "mean": self.mean,
            "kl": self.kl,
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
