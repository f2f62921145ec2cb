"""Dictionaries that are trained once and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from sparsedict.data import ActivationStream
from sparsedict.dictionaries import Dictionary
from sparsedict.loading import load
from sparsedict.progress import Phases
from sparsedict.sites import Site
from sparsedict.training import Recipe, fit_many

from .harvest import Harvest
from .order import Order

TRAINED_TOGETHER = 8
"""Dictionaries in one pass over activations that are in memory; they are saved when the pass is done."""
LOG_EVERY = 200
CHECKPOINT_EVERY = timedelta(minutes=1)


class Shelf:
    """Dictionaries that are trained when first asked for, and kept: in memory, and in a folder where there is one.

    Args:
        sites: By name.
        harvest: What to train on.
        folder: Where trained dictionaries are kept, and looked for; nowhere by default.
        seed: Of weights and shuffles.
        phases: Says what is being done.
        progress: Whether to show how far training is.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        harvest: Harvest,
        *,
        folder: str | os.PathLike[str] | None,
        seed: int,
        phases: Phases,
        progress: bool,
    ) -> None:
        self.folder: Path | None = None if folder is None else Path(folder)
        self._sites = sites
        self._harvest = harvest
        self._seed = seed
        self._phases = phases
        self._progress = progress
        self._dictionaries: dict[str, Dictionary] = {}

    def __getitem__(self, order: Order) -> Dictionary:
        if not self._is_known(order):
            self.train([order])
        return self._dictionaries[order.slug]

    def train(self, orders: Iterable[Order]) -> None:
        """Trains those that aren't there yet, as many in one pass as can be, and keeps them."""
        waiting = [order for order in dict.fromkeys(orders) if not self._is_known(order)]
        first = [order.warm for order in waiting if order.warm is not None]
        if first:
            self.train(first)
            waiting = [order for order in waiting if not self._is_known(order)]
        # Each repetition is a pass of its own, because a pass has one order of the data and starts all of its
        # dictionaries from the same tokens. Harvested activations are shared where they fit in memory.
        passes: dict[tuple[int, int, int], list[Order]] = {}
        for order in waiting:
            key = (order.training.n_tokens, order.training.batch_size, order.repeat)
            passes.setdefault(key, []).append(order)
        for (n_tokens, batch_size, _), together in passes.items():
            for start in range(0, len(together), TRAINED_TOGETHER):
                self._train_together(together[start : start + TRAINED_TOGETHER], n_tokens, batch_size)

    def _is_known(self, order: Order) -> bool:
        if order.slug in self._dictionaries:
            return True
        if self.folder is None or not (self.folder / order.slug / "dictionary.json").is_file():
            return False
        self._dictionaries[order.slug] = load(self.folder / order.slug)
        return True

    def _train_together(self, orders: Sequence[Order], n_tokens: int, batch_size: int) -> None:
        trainees = {order.slug: self._recipe(order).trainee() for order in orders}
        dictionaries = {slug: trainee.dictionary for slug, trainee in trainees.items()}
        data, options = self._data(orders, batch_size)
        what = "1 dictionary" if len(orders) == 1 else f"{len(orders)} dictionaries in one pass"
        # What asks for a dictionary may well do so while it measures, without gradients.
        with torch.enable_grad(), self._phases("training", f"training {what} on {n_tokens:,} tokens"):
            half_done = self._checkpoints(dictionaries)
            if half_done is not None:
                options |= {"checkpoint": half_done, "checkpoint_every": CHECKPOINT_EVERY, "resume": True}
            fit_many(trainees, data, n_tokens=n_tokens, progress=self._progress, log_every=LOG_EVERY, **options)
        for slug, dictionary in dictionaries.items():
            dictionary.trained_on["seed"] = orders[0].seed(self._seed)
            if self.folder is not None:
                dictionary.save(self.folder / slug)
            self._dictionaries[slug] = dictionary
        if half_done is not None:
            shutil.rmtree(half_done, ignore_errors=True)

    def _recipe(self, order: Order) -> Recipe:
        warm = None if order.warm is None else self[order.warm]
        return order.recipe(self._sites[order.site], order.seed(self._seed), warm)

    def _data(self, orders: Sequence[Order], batch_size: int) -> tuple[Any, dict[str, Any]]:
        """Returns what to train on, in memory where it fits and otherwise as a stream, and options that go with it."""
        options: dict[str, Any] = {"batch_size": batch_size, "seed": orders[0].seed(self._seed)}
        names = [order.site for order in orders]
        if self._harvest.fits:
            return self._harvest.at_all(names), options
        sites = {name: self._sites[name] for name in names}
        return ActivationStream(sites, self._harvest.tokens, **options), {}

    def _checkpoints(self, slugs: Iterable[str]) -> Path | None:
        """Returns where a pass that is stopped leaves what it goes on from."""
        if self.folder is None:
            return None
        digest = hashlib.sha256(" ".join(slugs).encode()).hexdigest()[:16]
        return self.folder / f"training-{digest}"
