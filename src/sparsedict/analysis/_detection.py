"""`Detection`, the precision, recall and F1 of binary detectors from counts, and thresholds with the best F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict.display import Displayed


@dataclass(frozen=True, eq=False, repr=False)
class Detection(Displayed):
    """How well each of several binary detectors finds the tokens on which its feature is present.

    Precision, recall and F1 are 0 for a detector that finds nothing. Recall and F1 are NaN if there is nothing to
    find, and means leave such detectors out.

    Attributes:
        hits: Number of tokens on which the detector fires and should, ``[n]``.
        fired: Number of tokens on which it fires, ``[n]``.
        present: Number of tokens on which it should, ``[n]``.
    """

    hits: Int[Tensor, " n"]
    fired: Int[Tensor, " n"]
    present: Int[Tensor, " n"]

    @classmethod
    def empty(cls, n: int) -> Detection:
        """Returns counts of no tokens."""
        return cls(*(torch.zeros(n, dtype=torch.long, device="cpu") for _ in range(3)))

    @classmethod
    def of(cls, fired: Bool[Tensor, "n_tokens n"], present: Bool[Tensor, "n_tokens n"]) -> Detection:
        """Returns the counts of a batch."""
        return cls((fired & present).sum(0), fired.sum(0), present.sum(0))

    @classmethod
    def cat(cls, parts: Sequence[Detection]) -> Detection:
        """Returns the counts of several lists of detectors as one list."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("hits", "fired", "present")))

    def __add__(self, other: Detection) -> Detection:
        return Detection(self.hits + other.hits, self.fired + other.fired, self.present + other.present)

    @property
    def precision(self) -> Float[Tensor, " n"]:
        """Share of the tokens on which the detector fires where it should."""
        return self.hits.double() / self.fired.clamp_min(1)

    @property
    def recall(self) -> Float[Tensor, " n"]:
        """Share of the tokens on which the detector should fire where it does."""
        return self.hits.double() / torch.where(self.present > 0, self.present.double(), torch.nan)

    @property
    def f1(self) -> Float[Tensor, " n"]:
        """Harmonic mean of precision and recall."""
        total = self.fired + self.present
        return 2 * self.hits.double() / torch.where(self.present > 0, total.double(), torch.nan)

    @property
    def mean_precision(self) -> float:
        """Mean precision over the detectors with something to find."""
        return float(self.precision[self.present > 0].mean())

    @property
    def mean_recall(self) -> float:
        return float(self.recall[self.present > 0].mean())

    @property
    def mean_f1(self) -> float:
        return float(self.f1[self.present > 0].mean())

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the means and the number of detectors."""
        means = {"precision": self.mean_precision, "recall": self.mean_recall, "F1": self.mean_f1}
        return [*((name, f"{value:.3f}") for name, value in means.items()), ("detectors", f"{len(self.hits):,}")]


def best_thresholds(scores: Float[Tensor, "n_tokens n"], present: Bool[Tensor, "n_tokens n"]) -> Float[Tensor, " n"]:
    """Returns the threshold of each column with the best F1, half-way between two scores.

    Example:
        >>> best_thresholds(torch.tensor([[0.1], [0.9], [0.5]]), torch.tensor([[False], [True], [True]]))
        tensor([0.3000])
    """
    ordered, order = scores.sort(dim=0, descending=True)
    hits = present.gather(0, order).cumsum(0)
    fired = torch.arange(1, len(scores) + 1, device=scores.device)[:, None]
    f1 = 2 * hits.double() / (fired + present.sum(0))
    # Equal scores can't be separated: a cut is only possible before a smaller score.
    below = torch.cat([ordered[1:], ordered[-1:] - 1])
    f1[ordered == below] = -1.0
    best = f1.argmax(0, keepdim=True)
    return ((ordered.gather(0, best) + below.gather(0, best)) / 2)[0]
