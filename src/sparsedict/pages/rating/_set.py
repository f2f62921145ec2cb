"""`rating_set`, the latents of a blind rating."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.analysis import Example, LatentRecords, LatentTypes, TopExamples
from sparsedict.analysis.ratings import KeyItem, RatingKey
from sparsedict.pages._strings import TokenStrings, strings_of, visible
from sparsedict.storage import Reader, StorageError, read_document, write_document

KEY = "key.json"
SET = "set.json"
FORMAT = "sparsedict-rating-set"
N_ID = 10
"""Number of hexadecimal digits of an identifier."""


@dataclass(frozen=True)
class RatingItem:
    """A latent without its name, as raters see it.

    Attributes:
        id: Identifier of the latent.
        examples: The examples, the strongest first. An example has the text of each token, and the index of its
            strongest token. Activations aren't part of it: see `rating_set`.
    """

    id: str
    examples: tuple[tuple[tuple[str, ...], int], ...]


@dataclass(frozen=True)
class RatingSet:
    """The latents of a blind rating, in the order in which raters see them.

    Attributes:
        items: The latents without their names.
        key: The names of the latents.
    """

    items: tuple[RatingItem, ...]
    key: RatingKey

    @property
    def id(self) -> str:
        """Identifier of the set. It depends on the latents, their examples and their order."""
        return self.key.set

    def write_key(self, folder: str | os.PathLike[str]) -> Path:
        """Writes ``key.json``, which raters must not see before they finish, and returns its path.

        Raises:
            FileExistsError: If the folder has the key of another set.
        """
        file = checks.path("folder", folder) / KEY
        if file.exists() and RatingKey.read(file) != self.key:
            raise FileExistsError(
                f"`folder` must be new, or have the key of the same set of latents, but {file} is the key of another "
                "set. Pass the same settings to continue, or choose another folder."
            )
        self.key.write(file)
        return file

    def write(self, folder: str | os.PathLike[str], settings: Mapping[str, Any] | None = None) -> Path:
        """Writes ``set.json`` and ``key.json`` to a folder, and returns the path of the set.

        Args:
            folder: The folder.
            settings: Plain values that `read_settings` returns.

        Raises:
            FileExistsError: If the folder has the key of another set.
        """
        file = self.write_key(folder).with_name(SET)
        items = [{"id": item.id, "examples": item.examples} for item in self.items]
        write_document(file, FORMAT, {"set": self.id, "settings": dict(settings or {}), "items": items}, indent=None)
        return file

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> RatingSet:
        """Reads a set that `write` wrote.

        Raises:
            FileNotFoundError: If there is no set.
            StorageError: If a file is damaged, or the key belongs to another set.
        """
        file = checks.path("folder", folder) / SET
        key = RatingKey.read(file.with_name(KEY))
        reader = read_document(file, FORMAT)
        items = tuple(_item(row, f"{file}, item {number}") for number, row in enumerate(reader.rows("items")))
        if reader.text("set") != key.set or [item.id for item in items] != [item.id for item in key.items]:
            raise StorageError(f"{file} must belong to the key {file.with_name(KEY)}, got another set.")
        return cls(items, key)


def read_settings(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns the settings of the set in a folder, or ``None`` if there is no set."""
    file = checks.path("folder", folder) / SET
    if not file.exists():
        return None
    return read_document(file, FORMAT).mapping("settings")


def _item(value: object, source: str) -> RatingItem:
    reader = Reader(value if isinstance(value, dict) else {}, source)
    examples = []
    for example in reader.rows("examples"):
        # Between texts and peak, sets of earlier versions have activations, which raters must not see.
        if not isinstance(example, list) or [type(part) for part in example] not in ([list, int], [list, list, int]):
            raise StorageError(f"{source}: an example must have texts and a peak, got {example!r:.80}.")
        texts, peak = example[0], example[-1]
        if not 0 <= peak < len(texts):
            raise StorageError(f"{source}: the peak of an example must lie in [0, {len(texts)}), got {peak}.")
        examples.append((tuple(map(str, texts)), peak))
    return RatingItem(reader.text("id"), tuple(examples))


def rating_set(
    examples: Mapping[str, LatentRecords | Mapping[int, TopExamples]],
    *,
    kinds: Mapping[str, Sequence[str]] | None = None,
    strings: TokenStrings | None = None,
    n_per_kind: int = 15,
    n_examples: int = 10,
    min_examples: int = 5,
    seed: int = 0,
) -> RatingSet:
    """Selects latents of several dictionaries at random and removes everything that names their dictionary.

    An example marks its strongest token and no other, because the number of active tokens differs between kinds of
    latents, and so do scales and signs. Latents of all dictionaries are in one random order.

    Args:
        examples: The records of each dictionary by its name, as `sparsedict.analysis.collect` returns them, or top
            examples by latent, as `sparsedict.analysis.top_examples` returns them.
        kinds: Kinds of the latents by the name of the dictionary, one for each latent, such as ``simulator``. Latents
            whose kind is empty are left out. A dictionary that isn't a key has one kind.
        strings: Function from token ids to text, see `sparsedict.pages.token_strings`.
        n_per_kind: Largest number of latents for each kind of each dictionary.
        n_examples: Largest number of examples of a latent.
        min_examples: Smallest number of examples. Latents with fewer are left out.
        seed: Seed of the selection and of the order.

    Raises:
        ValueError: If no latent has enough examples.
    """
    n_per_kind = checks.at_least("n_per_kind", n_per_kind, 1)
    n_examples = checks.at_least("n_examples", n_examples, 1)
    min_examples = checks.at_least("min_examples", min_examples, 1)
    checks.mapping("examples", examples, LatentRecords | Mapping, "a mapping of names to records or examples")
    kinds = {} if kinds is None else kinds
    checks.mapping("kinds", kinds, Iterable, "a mapping of names of dictionaries to kinds, one for each latent")
    strings = strings_of("strings", strings)
    if unknown := [name for name in kinds if name not in examples]:
        raise ValueError(f"`kinds` must have names of `examples`, got {unknown[0]!r}.")
    chance = random.Random(checks.at_least("seed", seed, 0))
    chosen = []
    for name, of in examples.items():
        groups: dict[str, list[int]] = {}
        for latent, n in _counts(of).items():
            kind = _kind(name, latent, kinds)
            if kind is not None and n >= min_examples:
                groups.setdefault(kind, []).append(latent)
        for kind, latents in groups.items():
            picked = chance.sample(latents, min(n_per_kind, len(latents)))
            chosen += [(name, kind, _top(of, latent)) for latent in picked]
    if not chosen:
        raise ValueError(f"`examples` must have a latent with at least {min_examples} examples, got none.")
    chance.shuffle(chosen)
    return _anonymous(chosen, strings, n_examples)


def kinds_of(types: LatentTypes, simulator: str = "simulator", other: str = "sparse latent") -> list[str]:
    """Returns the kinds of the latents of a dictionary for `rating_set`, empty for dead latents.

    Args:
        types: Types of the latents, see `sparsedict.analysis.latent_types`.
        simulator: Name of the kind of simulators.
        other: Name of the kind of all other latents that fired.
    """
    checks.instance("types", types, LatentTypes, "the result of `latent_types`")
    masks = zip(types.simulators.tolist(), types.sparse.tolist(), strict=True)
    return [simulator if is_simulator else other if is_sparse else "" for is_simulator, is_sparse in masks]


def _counts(of: LatentRecords | Mapping[int, TopExamples]) -> dict[int, int]:
    """Returns the number of examples of each latent, in the order of the latents."""
    if isinstance(of, LatentRecords):
        return dict(enumerate(of.top.offsets.diff().tolist()))
    return {latent: len(of[latent]) for latent in sorted(of)}


def _top(of: LatentRecords | Mapping[int, TopExamples], latent: int) -> TopExamples:
    return of.top_examples(latent) if isinstance(of, LatentRecords) else of[latent]


def _kind(name: str, latent: int, kinds: Mapping[str, Sequence[str]]) -> str | None:
    """Returns the kind of a latent, empty if kinds aren't distinguished, or None if the latent is left out."""
    if name not in kinds:
        return ""
    if latent >= len(kinds[name]):
        raise ValueError(f"`kinds[{name!r}]` must have one kind for each latent, got {len(kinds[name])} kinds.")
    return kinds[name][latent] or None


def _anonymous(chosen: list[tuple[str, str, TopExamples]], strings: TokenStrings, n_examples: int) -> RatingSet:
    shown = [tuple(_shown(e, strings) for e in of.examples[:n_examples]) for _, _, of in chosen]
    named = [[name, kind, of.latent] for name, kind, of in chosen]
    digest = hashlib.sha256(json.dumps([named, shown]).encode()).hexdigest()
    # The identifier of a latent depends on the whole set and on its place, which is random.
    ids = [hashlib.sha256(f"{digest} {place}".encode()).hexdigest()[:N_ID] for place in range(len(chosen))]
    items = tuple(map(RatingItem, ids, shown))
    key = tuple(
        KeyItem(found, name, of.latent, kind, max((abs(e.max) for e in of.examples), default=0.0))
        for found, (name, kind, of) in zip(ids, chosen, strict=True)
    )
    return RatingSet(items, RatingKey(digest[:N_ID], key))


def _shown(example: Example, strings: TokenStrings) -> tuple[tuple[str, ...], int]:
    ids = example.tokens.tolist()
    inside = [i for i, token in enumerate(ids) if token >= 0]
    texts = tuple(map(visible, strings([ids[i] for i in inside])))
    return texts, inside.index(example.peak)
