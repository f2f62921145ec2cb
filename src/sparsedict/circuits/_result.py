"""`Check`: predicted and measured effects of interventions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.display import Displayed, shown


@dataclass(frozen=True, eq=False, repr=False)
class Check(Displayed):
    """Changes of targets by interventions on single latents: predicted by a graph, and measured in the model.

    Attributes:
        nodes: The latents, as nodes of the graph.
        factor: Factor of what a latent writes: 0 for ablation.
        predicted: Changes that the graph predicts, ``[n_interventions, n_targets]``.
        frozen: Changes of the model with held attention patterns, norms and active latents.
        unfrozen: Changes of the model itself.
    """

    nodes: tuple[int, ...]
    factor: float
    predicted: Float[Tensor, "n_interventions n_targets"]
    frozen: Float[Tensor, "n_interventions n_targets"]
    unfrozen: Float[Tensor, "n_interventions n_targets"]

    @property
    def frozen_error(self) -> float:
        """Median relative error of the prediction for the frozen model. It is due to rounding."""
        return _median_error(self.predicted, self.frozen)

    @property
    def correlation(self) -> float:
        """Correlation of the predicted changes with those of the model itself; NaN for fewer than two."""
        pairs = torch.stack([self.predicted.flatten(), self.unfrozen.flatten()]).double()
        return float(torch.corrcoef(pairs)[0, 1]) if pairs.shape[1] > 1 else float("nan")

    @property
    def median_relative_error(self) -> float:
        """Median of ``|predicted - measured| / |measured|`` in the model itself."""
        return _median_error(self.predicted, self.unfrozen)

    def display_rows(self) -> list[tuple[str, ...]]:
        what = "ablations" if self.factor == 0 else f"interventions (times {self.factor:g})"
        honest = (
            f"correlation {shown(self.correlation, '.3f')}, median relative error "
            f"{shown(self.median_relative_error, '.1%')}"
        )
        return [
            (f"{len(self.nodes)} {what}", honest),
            ("with attention held", f"median relative error {shown(self.frozen_error, '.1e')}"),
        ]

    def __repr__(self) -> str:
        return "Check(" + "; ".join(f"{name}: {value}" for name, value in self.display_rows()) + ")"


def _median_error(predicted: Tensor, measured: Tensor) -> float:
    predicted, measured = predicted.double(), measured.double()
    size = measured.abs()
    relative = (predicted - measured).abs()[size > 0] / size[size > 0]
    return float(relative.median()) if len(relative) else float("nan")
