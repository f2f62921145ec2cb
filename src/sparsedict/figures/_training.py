"""`training_curves`, plots of training records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparsedict import checks
from sparsedict.figures._axes import finish, own_axes
from sparsedict.figures.palette import Palette
from sparsedict.training import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {
    "fvu": "variance unexplained (FVU)",
    "loss": "squared error per token",
    "objective": "loss with penalties per token",
    "l0": "active latents per token (L0)",
    "dead": "share of dead latents",
    "lr": "learning rate",
    "seconds": "seconds",
}
ON_LOG_SCALE = ("fvu", "loss", "objective")


def training_curves(histories: History | Mapping[str, History], column: str = "fvu", *, ax: Axes | None = None) -> Axes:
    """Draws a column of the training records against the number of tokens, with a curve for each dictionary.

    Args:
        histories: The result of ``fit`` or ``fit_many``.
        column: Name of a number of a record: fvu, loss, objective, l0, dead, lr or seconds.
        ax: Axes to draw on. A new figure by default.

    Raises:
        ValueError: If there are no records, or ``column`` is invalid.
    """
    checks.one_of("column", column, LABELS)
    named = {"": histories} if isinstance(histories, History) else histories
    checks.mapping("histories", named, History, "the result of `fit` or `fit_many`")
    if not named or not all(len(history) for history in named.values()):
        raise ValueError("`histories` must have at least one record each, got none. Train with a smaller `log_every`.")
    ax = own_axes(ax)
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    unit, scale = _unit(max(history.n_tokens for history in named.values()))
    for index, (name, history) in enumerate(named.items()):
        colour = Palette.SERIES[index % len(Palette.SERIES)]
        style = ("-", "--", ":")[index // len(Palette.SERIES) % 3]
        n_tokens = [n / scale for n in history.column("n_tokens")]
        ax.plot(n_tokens, history.column(column), color=colour, linestyle=style, linewidth=1.0, label=name or None)
    if column in ON_LOG_SCALE:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    n_columns = None if list(named) == [""] else min(len(named), 2)
    return finish(ax, f"training tokens{unit}", LABELS[column], n_legend_columns=n_columns)


def _unit(n_tokens: int) -> tuple[str, float]:
    """Returns the unit of an axis label, and the number of tokens in the unit."""
    if n_tokens >= 1_000_000:
        return " (millions)", 1e6
    return (" (thousands)", 1e3) if n_tokens >= 10_000 else ("", 1.0)
