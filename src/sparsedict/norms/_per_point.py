"""`PerPoint`, a constraint on the part of a decoder row for each point."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.norms._norm import DecoderNorm


@dataclass(frozen=True)
class PerPoint(DecoderNorm):
    """Applies a constraint to the part of a decoder row for each point, instead of the whole row.

    Args:
        norm: The constraint, such as ``UnitNorm()``.
        widths: Widths of the points in a row. Dictionaries that write several points, such as `CrossLayerDistiller` or
            `Crosscoder`, set the widths. By default, a row is one point.

    Example:
        >>> import torch
        >>> from sparsedict.norms import UnitNorm
        >>> decoder = torch.tensor([[3.0, 4.0, 0.5]])
        >>> PerPoint(UnitNorm(), widths=(2, 1)).constrain_(decoder)
        >>> decoder
        tensor([[0.6000, 0.8000, 1.0000]])
    """

    norm: DecoderNorm
    widths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.norm, DecoderNorm) or isinstance(self.norm, PerPoint):
            raise TypeError(f"`norm` must be a DecoderNorm such as `sd.UnitNorm()`, got {self.norm!r}.")
        if self.widths is not None:
            widths = tuple(checks.at_least("widths", width, 1) for width in self.widths)
            object.__setattr__(self, "widths", widths)

    @property
    def bounded(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.norm.bounded

    def at_points(self, widths: tuple[int, ...]) -> DecoderNorm:
        return replace(self, widths=widths) if self.widths is None else self

    def constrain_(self, decoder: Float[Tensor, "n_latents d_out"]) -> None:
        for part in self._parts(decoder):
            self.norm.constrain_(part)

    def project_gradient_(
        self, decoder: Float[Tensor, "n_latents d_out"], gradient: Float[Tensor, "n_latents d_out"]
    ) -> None:
        for rows, slopes in zip(self._parts(decoder), self._parts(gradient), strict=True):
            self.norm.project_gradient_(rows, slopes)

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Returns views of the columns of each point."""
        width = rows.shape[-1]
        widths = (width,) if self.widths is None else self.widths
        if sum(widths) != width:
            raise ValueError(f"`widths` of {self!r} must add up to the width of a decoder row, {width}.")
        # Slices, since the views that `split` returns can't be modified in place.
        ends = [sum(widths[: i + 1]) for i in range(len(widths))]
        return tuple(rows.detach()[:, end - own : end] for end, own in zip(ends, widths, strict=True))
