"""The evaluation of dictionaries over several sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis._blocks import evaluation_mode
from sparsedict.analysis._firing import DeadLatents
from sparsedict.analysis._measure_losses import (
    Conditions,
    ModelLoss,
    RunningMean,
    losses_or_reason,
    measure_losses,
)
from sparsedict.analysis._recovered import LossRecovered
from sparsedict.analysis._sites_evaluation import UNNAMED, DictionaryUse, SiteEvaluation, SitesEvaluation
from sparsedict.analysis._token_batches import Tokens, token_batches
from sparsedict.batches import Activations, Points
from sparsedict.dictionaries import Dictionary
from sparsedict.latents import firing_counts
from sparsedict.metrics import RunningError, RunningL0
from sparsedict.sites import Constant, ResolvedDictionary, Sites
from sparsedict.types import Role

ALL = ""
"""Name of the losses with all sites replaced. Losses with one site replaced have the name of the site."""


@dataclass(eq=False)
class _Use:
    """Running L0 and firing counts of one resolved dictionary."""

    resolved: ResolvedDictionary
    sparsity: RunningL0 = field(default_factory=RunningL0)
    fired: Tensor | None = None
    widths: Sequence[int] = ()
    """Width of each point that the dictionary reads."""

    def update_(self, latents: Any, widths: Sequence[int]) -> None:
        self.sparsity.update_(latents)
        counts = firing_counts(latents)
        self.fired = counts if self.fired is None else self.fired + counts
        self.widths = widths

    def l0_at(self, site: str) -> float:
        """Returns L0 of the latents that read at a site. Without blocks, all latents read all points."""
        source = self.resolved.adapter.source
        if not isinstance(source, Dictionary) or self.fired is None:
            return self.sparsity.value
        starts = accumulate(self.widths, initial=0)
        columns = {
            column
            for name, start, width in zip(self.resolved.reads, starts, self.widths, strict=False)
            for column in range(start, start + width)
            if _site(name) == site
        }
        own = [
            block.latents
            for block in source.blocks()
            if not columns.isdisjoint(range(*block.reads.indices(sum(self.widths))))
        ]
        return sum(int(self.fired[latents].sum()) for latents in own) / self.sparsity.n_tokens


class _Measures:
    """Running reconstruction errors and sparsity of several dictionaries."""

    def __init__(self, sites: Sites, resolved: Sequence[ResolvedDictionary]) -> None:
        self.uses = [_Use(own) for own in resolved]
        names = dict.fromkeys(name for own in resolved for name in own.writes)
        # In the order of the sites.
        self.written: list[str] = sorted(names, key=lambda name: list(sites).index(_site(name)))
        self.errors = {name: RunningError("tokens") for name in self.written}
        self.means = {name: RunningMean() for name in self.written}
        self._size = min(own.adapter.n_rows for own in resolved)
        self.n_tokens = 0

    def update_(self, batch: Activations) -> None:
        """Adds a batch of rows."""
        for name, mean in self.means.items():
            mean.update_(batch[name])
        for start in range(0, batch.n_tokens, self._size):
            self._update_block(batch.rows(slice(start, start + self._size)))
        self.n_tokens += batch.n_tokens

    def _update_block(self, batch: Activations) -> None:
        sums: dict[str, Tensor] = {}
        for use in self.uses:
            adapter, resolved = use.resolved.adapter, use.resolved
            inputs, widths = batch.at(resolved.reads), [batch[name].shape[-1] for name in resolved.writes]
            adapter.check_widths(inputs, batch.at(resolved.writes))
            x = adapter.fit(inputs)
            latents = adapter.encode_sparse(x)
            use.update_(latents, [batch[name].shape[-1] for name in resolved.reads])
            output = adapter.reconstruct(latents, x)
            checks.activations(f"the reconstruction of `{adapter.argument}`", output, sum(widths))
            for name, own in zip(resolved.writes, output.split(widths, -1), strict=True):
                sums[name] = own if name not in sums else sums[name] + own.to(sums[name].device)
        for name, own in sums.items():
            self.errors[name].update_(own, batch[name].to(own.device))

    def l0_at(self, site: str) -> float:
        """Returns the total L0 of the latents that read at a site."""
        found = [use.l0_at(site) for use in self.uses if site in map(_site, use.resolved.reads)]
        return sum(found) if found else float("nan")

    def dictionaries(self) -> dict[str, DictionaryUse]:
        """Returns the use of each dictionary. Parts of a split dictionary are combined."""
        by_key: dict[str, list[_Use]] = {}
        for use in self.uses:
            by_key.setdefault(use.resolved.key or UNNAMED, []).append(use)
        return {key: self._dictionary(own) for key, own in by_key.items()}

    def _dictionary(self, uses: Sequence[_Use]) -> DictionaryUse:
        reads = dict.fromkeys(name for use in uses for name in use.resolved.reads)
        writes = dict.fromkeys(name for use in uses for name in use.resolved.writes)
        fired = torch.cat([use.fired.cpu() for use in uses if use.fired is not None])
        dead = DeadLatents(fired == 0, self.n_tokens)
        return DictionaryUse(tuple(reads), tuple(writes), sum(use.sparsity.value for use in uses), dead)


def evaluate_sites(
    sites: Sites,
    x: Any,
    tokens: Any,
    *,
    batch_size: int,
    n_tokens: int | None,
    loss: ModelLoss | None,
    mask_token: int | None,
    reads: Points | None,
    writes: Points | None,
) -> SitesEvaluation:
    """Evaluates dictionaries over several sites, see `evaluate`."""
    resolved = sites.resolve(x, reads=reads, writes=writes, argument="dictionary")
    if not resolved:
        raise ValueError("`dictionary` must contain at least one dictionary, got none.")
    measures = _Measures(sites, resolved)
    points = [name for own in resolved for name in (*own.reads, *own.writes)]
    neurons = sorted({_site(name) for name in points if name.endswith(".neurons")})
    n_left = 2**62 if n_tokens is None else checks.at_least("n_tokens", n_tokens, 1)
    batches: list[tuple[Tokens, Tensor]] = []
    with evaluation_mode(*sites.models, *(own.adapter for own in resolved)):
        for batch in token_batches(tokens, batch_size, sites):
            seen = sites.capture(batch, neurons=neurons)
            batches.append((batch, seen.kept))
            measures.update_(seen.batch())
            n_left -= int(seen.kept.sum())
            if n_left <= 0:
                break
        found, note = _losses(sites, x, measures, batches, loss, mask_token, reads, writes)
    keys = _keys(measures.written)
    losses = None if found is None else found[ALL]
    notes = {} if found is None else {name: own.note for name, own in found.items() if own.note is not None}
    note = note if note is not None else _join_notes(notes)
    return SitesEvaluation(
        {
            key: SiteEvaluation(
                measures.errors[name].fvu,
                measures.errors[name].squared_error,
                measures.l0_at(_site(name)),
                None if found is None else found[_site(name)],
            )
            for name, key in keys.items()
        },
        measures.dictionaries(),
        losses,
        measures.n_tokens,
        note,
    )


def _losses(
    sites: Sites,
    x: Any,
    measures: _Measures,
    batches: list[tuple[Tokens, Tensor]],
    loss: ModelLoss | None,
    mask_token: int | None,
    reads: Points | None,
    writes: Points | None,
) -> tuple[dict[str, LossRecovered] | None, str | None]:
    """Returns the losses with all sites replaced at the same time, and with each site replaced separately."""
    names = list(dict.fromkeys(map(_site, measures.written)))
    written = {name: sites[name] for name in names}
    if len({id(site.model) for site in written.values()}) > 1:
        return None, "Losses need sites of one model. Evaluate the sites of each model separately."
    means = {name: mean.value for name, mean in measures.means.items()}

    def conditions(only: Sequence[str]) -> Conditions:
        own = {name: mean for name, mean in means.items() if _site(name) in only}
        zeros = {name: torch.zeros_like(mean) for name, mean in own.items()}
        return Conditions(
            lambda: sites.replaced(x, only=only, reads=reads, writes=writes),
            lambda: sites.replaced(_constants(zeros)),
            lambda: sites.replaced(_constants(own)),
        )

    named = {ALL: conditions(names)}
    if len(names) > 1:
        named |= {name: conditions([name]) for name in names}
    found, note = losses_or_reason(
        lambda: measure_losses(list(written.values()), named, batches, loss, mask_token), [ALL, *names]
    )
    if found is not None and len(names) == 1:
        found |= {names[0]: found[ALL]}
    return found, note


def _constants(values: Mapping[str, Tensor]) -> dict[str, list[Constant]]:
    found: dict[str, list[Constant]] = {}
    for name, value in values.items():
        site, _, role = name.rpartition(".")
        found.setdefault(site, []).append(Constant(value, _ROLES[role]))
    return found


_ROLES: dict[str, Role] = {"inputs": "inputs", "outputs": "outputs", "neurons": "neurons"}


def _site(point: str) -> str:
    return point.rpartition(".")[0]


def _keys(points: Sequence[str]) -> dict[str, str]:
    """Returns the key of each point in the result: the name of its site, or of the point if its site has several."""
    sites = [_site(name) for name in points]
    return {name: _site(name) if sites.count(_site(name)) == 1 else name for name in points}


def _join_notes(notes: Mapping[str, str]) -> str | None:
    """Returns the notes of all sites as one text. A note that is the same for all sites is given once."""
    if not notes:
        return None
    if len(set(notes.values())) == 1 and ALL in notes:
        return notes[ALL]
    return " ".join(f"{'All sites' if name == ALL else f'Site {name!r}'}: {note}" for name, note in notes.items())
