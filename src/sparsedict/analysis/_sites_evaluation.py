"""`SitesEvaluation`, the result of evaluating dictionaries over several sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsedict.analysis._firing import DeadLatents
from sparsedict.analysis._recovered import LossRecovered
from sparsedict.display import Displayed, finite, short, shown

UNNAMED = "dictionary"
"""Key of a single dictionary that was passed without a mapping."""


@dataclass(frozen=True, eq=False, repr=False)
class SiteEvaluation(Displayed):
    """The evaluation of the dictionaries that write to one site.

    Attributes:
        fvu: Fraction of variance unexplained, over all tokens.
        squared_error: Squared error, summed over the width, mean over tokens.
        l0: Number of non-zero latents that read at this site, mean over tokens. NaN if there are none.
        losses: Losses of the model with only this site replaced. ``None`` if the model has no loss.
    """

    fvu: float
    squared_error: float
    l0: float
    losses: LossRecovered | None

    def to_dict(self) -> dict[str, float | None]:
        """Returns the numbers by name. A missing number is None."""
        numbers = {"fvu": self.fvu, "squared_error": self.squared_error, "l0": self.l0}
        return finite(numbers | loss_numbers(self.losses))


@dataclass(frozen=True, eq=False, repr=False)
class DictionaryUse(Displayed):
    """The sparsity of one of several dictionaries.

    Attributes:
        reads: The points that it reads.
        writes: The points that it writes.
        l0: Number of non-zero latents, mean over tokens.
        dead: Latents that never fired on these tokens.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    l0: float
    dead: DeadLatents

    @property
    def n_latents(self) -> int:
        return len(self.dead.mask)

    def to_dict(self) -> dict[str, float | int | None]:
        """Returns the numbers by name."""
        return finite({"l0": self.l0, "n_latents": self.n_latents, "n_dead": self.dead.n_dead})


@dataclass(frozen=True, eq=False, repr=False)
class SitesEvaluation(Displayed):
    """The evaluation of dictionaries over several sites on tokens that they weren't trained on.

    Attributes:
        sites: Evaluation of each replaced site, by name. If several points of a site are replaced, by the names of the
            points.
        dictionaries: Sparsity of each dictionary, by key or index. A single dictionary is named ``"dictionary"``.
        losses: Losses of the model with all sites replaced at the same time. ``None`` if the model has no loss, NaN if
            the loss can't be measured.
        n_tokens: Number of tokens.
        note: Reason why there are no losses, or why a number is NaN.
    """

    sites: Mapping[str, SiteEvaluation]
    dictionaries: Mapping[str, DictionaryUse]
    losses: LossRecovered | None
    n_tokens: int
    note: str | None = None

    @property
    def l0(self) -> float:
        """Total number of non-zero latents of all dictionaries, mean over tokens."""
        return sum(own.l0 for own in self.dictionaries.values())

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers by name, for tables and JSON. A missing number is None; ``note`` gives the reason.

        Losses are those with all sites replaced at the same time. ``sites`` and ``dictionaries`` are mappings.
        """
        numbers = {"l0": self.l0, "n_tokens": self.n_tokens} | loss_numbers(self.losses)
        parts = {"sites": self.sites, "dictionaries": self.dictionaries}
        return finite(numbers) | {
            key: {name: own.to_dict() for name, own in values.items()} for key, values in parts.items()
        }

    def __repr__(self) -> str:
        fvu = ", ".join(f"{name}: {short(own.fvu)}" for name, own in list(self.sites.items())[:4])
        more = f", ... {len(self.sites)} sites" if len(self.sites) > 4 else ""
        parts = [f"fvu={{{fvu}{more}}}", f"l0={short(self.l0)}"]
        if self.losses is not None:
            parts += [f"{name}={short(getattr(self.losses, name))}" for name in ("zero", "mean", "kl")]
        return f"SitesEvaluation({', '.join(parts)}, n_tokens={self.n_tokens})"

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns a heading, rows for each site, for all sites at once and for each dictionary, and the note."""
        heading = (
            "site",
            "FVU",
            "L0",
            "loss recovered, zero",
            "loss recovered, mean",
            "KL",
            "same token",
            "loss replaced",
        )
        rows: list[tuple[str, ...]] = [heading]
        for name, own in self.sites.items():
            rows.append((name, shown(own.fvu, ".4f"), shown(own.l0, ".1f"), *_loss_cells(own.losses)))
        rows.append(("all at once", "", shown(self.l0, ".1f"), *_loss_cells(self.losses)))
        for name, own in self.dictionaries.items():
            dead = f"{own.dead.n_dead:,} of {own.n_latents:,} latents never fired"
            label = name if name == UNNAMED else f"dictionary {name!r}"
            rows.append((label, "", shown(own.l0, ".1f"), dead))
        rows.append(("tokens", f"{self.n_tokens:,}"))
        return rows if self.note is None else [*rows, ("note", self.note)]

    def __str__(self) -> str:
        rows = self.display_rows()
        table = [row for row in rows if len(row) == len(rows[0])]
        widths = [max(len(row[column]) for row in table) for column in range(len(rows[0]))]
        lines = []
        for row in rows:
            if len(row) == len(rows[0]):
                cells = [f"{row[0]:<{widths[0]}}", *(f"{v:>{w}}" for v, w in zip(row[1:], widths[1:], strict=True))]
                lines.append("  ".join(cells).rstrip())
            else:
                lines.append("  ".join(cell for cell in row if cell))
        return "\n".join(lines)


def loss_numbers(losses: LossRecovered | None) -> dict[str, float | None]:
    """Returns the losses by the names of `Evaluation.to_dict`."""
    names = {
        "loss_recovered_zero": "zero",
        "loss_recovered_mean": "mean",
        "kl": "kl",
        "agreement": "agreement",
        "loss_base": "base",
        "loss_replaced": "replaced",
        "loss_zero_ablated": "zero_ablated",
        "loss_mean_ablated": "mean_ablated",
    }
    return {key: None if losses is None else getattr(losses, name) for key, name in names.items()}


def _loss_cells(losses: LossRecovered | None) -> tuple[str, ...]:
    names = ("zero", "mean", "kl", "agreement", "replaced")
    return tuple(shown(None if losses is None else getattr(losses, name), ".4f") for name in names)
