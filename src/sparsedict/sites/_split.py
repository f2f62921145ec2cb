"""Splits a dictionary of several layers by the points that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from sparsedict.adapters import Adapter
from sparsedict.batches import names_of
from sparsedict.interventions import Intervention


def split_sources(adapter: Adapter, intervention: Intervention | None) -> list[tuple[Adapter, Intervention | None]]:
    """Splits a dictionary with ``split_sources()`` by source, each with its part of the intervention.

    Raises:
        ValueError: If a part reads or writes a point that the whole dictionary doesn't.
    """
    split = getattr(adapter.source, "split_sources", None)
    if not callable(split) or len(names_of(adapter.points[0])) == 1:
        return [(adapter, intervention)]
    found: Any = split()
    if len(found) == 1 and found[0] is adapter.source:
        return [(adapter, intervention)]
    parts = [Adapter(part, argument=f"{adapter.argument}.split_sources()[{i}]") for i, part in enumerate(found)]
    for part in parts:
        part.require("decode")
        if not all(
            set(names_of(own)) <= set(names_of(of)) for own, of in zip(part.points, adapter.points, strict=True)
        ):
            raise ValueError(
                f"`{part.argument}` must only read and write points of the whole dictionary, {adapter.points}, got "
                f"{part.points}."
            )
    if intervention is None:
        return [(part, None) for part in parts]
    counts = [part.n_latents for part in parts]
    if None in counts:
        raise ValueError(
            f"`{adapter.argument}.split_sources()` must return dictionaries with an attribute `n_latents` to be used "
            "with an `intervention`."
        )
    ends = list(accumulate(count or 0 for count in counts))
    starts = [0, *ends[:-1]]
    return [
        (part, _SourceIntervention(intervention, start, end, ends[-1]))
        for part, start, end in zip(parts, starts, ends, strict=True)
    ]


@dataclass(frozen=True)
class _SourceIntervention:
    """An intervention on all latents, applied to the latents of one source while the others are zero."""

    intervention: Intervention
    start: int
    end: int
    n_latents: int

    def __call__(self, latents: Tensor) -> Tensor:
        whole = pad(latents, (self.start, self.n_latents - self.end))
        return self.intervention(whole)[..., self.start : self.end]
