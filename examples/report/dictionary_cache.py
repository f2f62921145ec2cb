"""`DictionaryCache`, which trains each dictionary once and keeps it."""

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

from .dictionary_spec import DictionarySpec
from .harvest import Harvest
from .layers_spec import LayersSpec

Spec = DictionarySpec | LayersSpec
"""The specification of a dictionary."""

TRAINED_TOGETHER = 8
"""Largest number of dictionaries in one training pass. They are saved at the end of the pass."""
LOG_EVERY = 200
CHECKPOINT_EVERY = timedelta(minutes=1)


class DictionaryCache:
    """Dictionaries that are trained on first use, and kept in memory and optionally in a folder.

    Args:
        sites: Sites by name.
        harvest: Training activations.
        folder: Folder of trained dictionaries. ``None`` keeps them in memory only.
        seed: Seed of weights and shuffles.
        phases: Prints progress messages.
        progress: Whether to show progress bars.
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

    def __getitem__(self, spec: Spec) -> Dictionary:
        if not self._is_known(spec):
            self.train([spec])
        return self._dictionaries[spec.slug]

    def train(self, specs: Iterable[Spec]) -> None:
        """Trains and keeps the dictionaries that don't exist yet, several in one pass if possible."""
        waiting = [spec for spec in dict.fromkeys(specs) if not self._is_known(spec)]
        first = [spec.warm for spec in waiting if spec.warm is not None]
        if first:
            self.train(first)
            waiting = [spec for spec in waiting if not self._is_known(spec)]
        # Each repetition needs a separate pass, because a pass has one order of the data and initialises all
        # dictionaries with the same tokens. Activations are shared between passes if they fit in memory.
        passes: dict[tuple[int, int, int], list[Spec]] = {}
        for spec in waiting:
            key = (spec.training.n_tokens, spec.training.batch_size, spec.repeat)
            passes.setdefault(key, []).append(spec)
        for (n_tokens, batch_size, _), together in passes.items():
            for start in range(0, len(together), TRAINED_TOGETHER):
                self._train_together(together[start : start + TRAINED_TOGETHER], n_tokens, batch_size)

    def _is_known(self, spec: Spec) -> bool:
        if spec.slug in self._dictionaries:
            return True
        if self.folder is None or not (self.folder / spec.slug / "dictionary.json").is_file():
            return False
        self._dictionaries[spec.slug] = load(self.folder / spec.slug)
        return True

    def _train_together(self, specs: Sequence[Spec], n_tokens: int, batch_size: int) -> None:
        trainees = {spec.slug: self._recipe(spec).trainee() for spec in specs}
        dictionaries = {slug: trainee.dictionary for slug, trainee in trainees.items()}
        data, options = self._data(specs, batch_size)
        what = "1 dictionary" if len(specs) == 1 else f"{len(specs)} dictionaries in one pass"
        # A dictionary may be requested during a measurement, in which gradients are disabled.
        with torch.enable_grad(), self._phases("training", f"training {what} on {n_tokens:,} tokens"):
            half_done = self._checkpoints(dictionaries)
            if half_done is not None:
                options |= {"checkpoint": half_done, "checkpoint_every": CHECKPOINT_EVERY, "resume": True}
            fit_many(trainees, data, n_tokens=n_tokens, progress=self._progress, log_every=LOG_EVERY, **options)
        for slug, dictionary in dictionaries.items():
            dictionary.trained_on["seed"] = specs[0].seed(self._seed)
            if self.folder is not None:
                dictionary.save(self.folder / slug)
            self._dictionaries[slug] = dictionary
        if half_done is not None:
            shutil.rmtree(half_done, ignore_errors=True)

    def _recipe(self, spec: Spec) -> Recipe:
        warm = None if spec.warm is None else self[spec.warm]
        return spec.recipe(self._sites, spec.seed(self._seed), warm)

    def _data(self, specs: Sequence[Spec], batch_size: int) -> tuple[Any, dict[str, Any]]:
        """Returns the training data, in memory if it fits and otherwise as a stream, and its options for `fit_many`."""
        options: dict[str, Any] = {"batch_size": batch_size, "seed": specs[0].seed(self._seed)}
        names = [name for spec in specs for name in spec.sites]
        if self._harvest.fits:
            return self._harvest.at_all(names), options
        sites = {name: self._sites[name] for name in names}
        return ActivationStream(sites, self._harvest.tokens, **options), {}

    def _checkpoints(self, slugs: Iterable[str]) -> Path | None:
        """Returns the folder of the checkpoints of a pass, or None."""
        if self.folder is None:
            return None
        digest = hashlib.sha256(" ".join(slugs).encode()).hexdigest()[:16]
        return self.folder / f"training-{digest}"
