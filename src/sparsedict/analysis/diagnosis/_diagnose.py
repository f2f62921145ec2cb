"""`diagnose`, the numbers that decide how to train at a site, and why a trained dictionary fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.analysis._blocks import evaluation_mode
from sparsedict.analysis._token_batches import token_batches
from sparsedict.analysis.diagnosis._advice import Advice, advise
from sparsedict.analysis.diagnosis._dead_causes import DeadCauses, dead_causes
from sparsedict.analysis.diagnosis._error_tokens import ErrorTokens, error_tokens
from sparsedict.analysis.diagnosis._huge_tokens import HugeTokens, huge_tokens
from sparsedict.analysis.diagnosis._point_statistics import PointStatistics, linear_share, point_statistics
from sparsedict.batches import Activations
from sparsedict.data import as_batches
from sparsedict.dictionaries import Dictionary
from sparsedict.display import Displayed, listed, shown
from sparsedict.latents import firing_counts
from sparsedict.sites import Site

POINTS = ("inputs", "outputs")


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis(Displayed):
    """The diagnosis of a site, and of a dictionary if one was given.

    Attributes:
        statistics: Statistics of each point without the huge tokens, by name: ``"inputs"`` and ``"outputs"``, or the
            only point of the data.
        huge: The huge tokens at each point.
        linear_share: Share of the outputs' variance that a linear map of the inputs explains, without the huge tokens;
            NaN if there is one point only, or too few tokens.
        advice: Options of a training run that follow.
        dead: Why latents of the dictionary never fired; ``None`` without a dictionary.
        errors: Which tokens carry the dictionary's error; ``None`` without a dictionary.
        n_tokens: Number of tokens.
    """

    statistics: Mapping[str, PointStatistics]
    huge: Mapping[str, HugeTokens]
    linear_share: float
    advice: Advice
    dead: DeadCauses | None
    errors: ErrorTokens | None
    n_tokens: int

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the name and value of each number, and the advice."""
        rows: list[tuple[str, ...]] = [("tokens", f"{self.n_tokens:,}")]
        for name, own in self.statistics.items():
            rows += [(f"{name}: {row}", value) for row, value in (*self.huge[name].display_rows(), *own.display_rows())]
        if len(self.statistics) > 1:
            rows.append(("outputs that are linear in the inputs", shown(self.linear_share, ".1%")))
        rows += self.advice.display_rows()
        for part in (self.dead, self.errors):
            rows += [] if part is None else part.display_rows()
        return rows

    def __str__(self) -> str:
        return listed(self.display_rows())


def diagnose(
    data: Any,
    tokens: Any = None,
    dictionary: Dictionary | None = None,
    *,
    n_tokens: int = 16_384,
    batch_size: int = 16,
) -> Diagnosis:
    """Measures how activations are distributed, and derives how to train on them. It takes seconds.

    Statistics are of the positions that the site keeps, so pass a site without exclusions to see all tokens. Huge
    tokens are counted first and left out of the other statistics. Given a dictionary, the diagnosis also says why
    latents never fire and which tokens carry the error.

    Args:
        data: A `Site`, whose model runs on ``tokens``; or activations in a form that ``fit`` accepts.
        tokens: Token ids for a site, in any form that an `ActivationStream` accepts; ``None`` for activations.
        dictionary: A trained dictionary of the site.
        n_tokens: Number of tokens after which to stop, rounded up to whole batches for a site. A few thousand more than
            the widths are needed.
        batch_size: Number of sequences in a forward pass.

    Raises:
        TypeError: If a site has no tokens, or the dictionary isn't a `Dictionary`.
        ValueError: If there are too few tokens, or activations aren't finite.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> inputs = torch.randn(2000, 8, generator=generator) + 100
        >>> found = diagnose((inputs, inputs.relu()))
        >>> found.advice.distiller["input_norm"]
        InputCentre()
    """
    n_tokens = checks.at_least("n_tokens", n_tokens, 1)
    if dictionary is not None and not isinstance(dictionary, Dictionary):
        raise TypeError(f"`dictionary` must be a Dictionary or None, got {type(dictionary).__name__}.")
    if isinstance(data, Site):
        rows = _captured(data, tokens, n_tokens, checks.at_least("batch_size", batch_size, 1))
    elif tokens is not None:
        raise TypeError(
            f"`tokens` must be omitted for activations, got {type(tokens).__name__}. Pass a Site as `data`."
        )
    else:
        rows = _given(data, n_tokens)
    points = _points(rows)
    huge = {name: huge_tokens(value, rows.tokens, rows.positions) for name, value in points.items()}
    masks = [own.mask for own in huge.values()]
    left_out: Bool[Tensor, " n_tokens"] = torch.stack(masks).any(0)
    ordinary = {name: value[~left_out.to(value.device)] for name, value in points.items()}
    statistics = {name: point_statistics(value) for name, value in ordinary.items()}
    share = linear_share(ordinary["inputs"], ordinary["outputs"]) if len(points) == 2 else torch.nan
    found = Diagnosis(statistics, huge, share, advise(statistics, huge, share), None, None, rows.n_tokens)
    return found if dictionary is None else _with_dictionary(found, dictionary, rows, left_out)


def _captured(site: Site, tokens: Any, n_tokens: int, batch_size: int) -> Activations:
    """Returns the activations of a site on tokens."""
    if tokens is None:
        raise TypeError("`tokens` must be token ids for a Site, got None.")
    parts: list[Activations] = []
    with evaluation_mode(site.model):
        for batch in token_batches(tokens, batch_size, site):
            parts.append(site.capture(batch).batch())
            n_tokens -= parts[-1].n_tokens
            if n_tokens <= 0:
                break
    return Activations.cat(parts)


def _given(data: Any, n_tokens: int) -> Activations:
    """Returns activations of any form."""
    batches = as_batches(data, repeat=False)
    batches.expect(n_tokens)
    parts: list[Activations] = []
    for batch in batches:
        parts.append(batch)
        n_tokens -= batch.n_tokens
        if n_tokens <= 0:
            break
    return Activations.cat(parts)


def _points(rows: Activations) -> dict[str, Tensor]:
    """Returns the points to measure, after checking them."""
    names = POINTS if all(name in rows for name in POINTS) else tuple(rows)
    if len(names) != 2 and len(names) != 1:
        raise ValueError(f"`data` must be of one site, got the points {', '.join(rows)}. Diagnose one site at a time.")
    found = {name: checks.finite("data", rows[name], "Leave out the tokens with such values.") for name in names}
    if found.get("inputs") is found.get("outputs") and len(found) == 2:
        del found["inputs"]
    if rows.n_tokens < 16:
        raise ValueError(f"`tokens` must have at least 16 tokens that aren't excluded, got {rows.n_tokens}.")
    return found


def _with_dictionary(
    found: Diagnosis, dictionary: Dictionary, rows: Activations, huge: Bool[Tensor, " n_tokens"]
) -> Diagnosis:
    """Returns the diagnosis with the numbers of a dictionary."""
    adapter = Adapter(dictionary)
    only = len(rows) == 1
    inputs = adapter.fit(next(iter(rows.values())) if only else adapter.inputs(rows))
    targets = adapter.fit(next(iter(rows.values())) if only else adapter.targets(rows))
    errors, counts = [], torch.zeros((), device="cpu", dtype=torch.float32)
    with evaluation_mode(dictionary):
        for x, y in zip(inputs.split(adapter.n_rows), targets.split(adapter.n_rows), strict=True):
            latents = adapter.encode_sparse(x)
            counts = counts + firing_counts(latents).sum().cpu()
            errors.append((y - adapter.reconstruct(latents, x)).double().square().sum(1))
        dead = dead_causes(dictionary, inputs)
    l0 = float(counts) / rows.n_tokens
    carried = error_tokens(torch.cat(errors), targets, l0, huge, rows.tokens, rows.positions)
    return replace(found, dead=dead, errors=carried)
