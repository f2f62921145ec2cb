"""`Check`: predicted and measured effects of interventions."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.display import Displayed, listed, shown


@dataclass(frozen=True, eq=False, repr=False)
class Check(Displayed):
    """Changes of targets by interventions on single nodes: predicted by a graph, and measured in the model.

    A graph assumes that attention patterns, the denominators of norms, and the slopes of the MLPs' units don't change.
    The interventions are repeated with each of these assumptions, so that the errors say which one fails.

    Attributes:
        nodes: Indices of the nodes in the graph.
        factor: Factor of the contribution of a node: 0 for ablation.
        predicted: Changes that the graph predicts, ``[n_interventions, n_targets]``.
        unfrozen: Changes of the model itself.
        norms_held: Changes with held denominators of norms. Attention patterns and MLPs respond.
        attention_held: Changes with held attention patterns. Norms and MLPs respond.
        both_held: Changes with held attention patterns and norms. MLPs respond as they are.
        frozen: Changes with everything held. The active latents respond linearly, as in the graph.
        is_pruned: Whether the graph is pruned. Its predictions leave out the effects through removed nodes and edges.
    """

    nodes: tuple[int, ...]
    factor: float
    predicted: Float[Tensor, "n_interventions n_targets"]
    unfrozen: Float[Tensor, "n_interventions n_targets"]
    norms_held: Float[Tensor, "n_interventions n_targets"]
    attention_held: Float[Tensor, "n_interventions n_targets"]
    both_held: Float[Tensor, "n_interventions n_targets"]
    frozen: Float[Tensor, "n_interventions n_targets"]
    is_pruned: bool = False

    @property
    def frozen_error(self) -> float:
        """Median relative error of the prediction with everything held.

        It is due to rounding, and in a pruned graph to the removed nodes and edges.
        """
        return median_error(self.predicted, self.frozen)

    @property
    def correlation(self) -> float:
        """Correlation of the predicted changes with those of the model itself; NaN for fewer than two."""
        return correlation(self.predicted, self.unfrozen)

    @property
    def median_relative_error(self) -> float:
        """Median of ``|predicted - measured| / |measured|`` in the model itself."""
        return median_error(self.predicted, self.unfrozen)

    def rows(self) -> list[tuple[str, float, float]]:
        """Returns the held values in the model itself, the correlation, and the median relative error."""
        measured = {
            "nothing": self.unfrozen,
            "norms": self.norms_held,
            "attention": self.attention_held,
            "attention, norms": self.both_held,
        }
        return [
            (held, correlation(self.predicted, own), median_error(self.predicted, own))
            for held, own in measured.items()
        ]

    def display_rows(self) -> list[tuple[str, ...]]:
        what = "ablations" if self.factor == 0 else f"interventions (times {self.factor:g})"
        return [
            *(
                (
                    f"{len(self.nodes)} {what}" if held == "nothing" else f"{held} held",
                    f"correlation {shown(own, '.3f')}, median relative error {shown(error, '.1%')}",
                )
                for held, own, error in self.rows()
            ),
            (
                "everything held",
                f"median relative error {shown(self.frozen_error, '.1e')}"
                + (", due to removed nodes and edges" if self.is_pruned else ""),
            ),
        ]

    def __repr__(self) -> str:
        return "Check\n" + indent(listed(self.display_rows()), "  ")


def correlation(predicted: Tensor, measured: Tensor) -> float:
    """Returns the correlation of predicted with measured changes; NaN for fewer than two."""
    pairs = torch.stack([predicted.flatten(), measured.flatten()]).double()
    return float(torch.corrcoef(pairs)[0, 1]) if pairs.shape[1] > 1 else float("nan")


def median_error(predicted: Tensor, measured: Tensor) -> float:
    """Returns the median of ``|predicted - measured| / |measured|``."""
    predicted, measured = predicted.double(), measured.double()
    size = measured.abs()
    relative = (predicted - measured).abs()[size > 0] / size[size > 0]
    return float(relative.median()) if len(relative) else float("nan")
