"""Examples of the latents of a graph, from records or from earlier pages."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sparsedict import checks
from sparsedict.analysis import LatentRecords
from sparsedict.pages._shards import DIGITS, rounded
from sparsedict.pages._strings import TokenStrings, visible

N_EXAMPLES = 8


@dataclass(eq=False)
class TokenTable:
    """Numbers the tokens of the examples. A token is an id with its visible text."""

    numbers: dict[tuple[int, str], int] = field(default_factory=dict)

    def __call__(self, token: int, text: str) -> int:
        return self.numbers.setdefault((token, text), len(self.numbers))

    def content(self) -> list[Any]:
        """Returns the texts and the ids."""
        return [[text for _, text in self.numbers], [token for token, _ in self.numbers]]


@dataclass(frozen=True, eq=False)
class LatentPages:
    """The pages of the latents of a dictionary, which `sparsedict.pages.write` wrote, as a source of examples.

    Args:
        folder: The folder of the pages.
        dictionary: Name of the dictionary in them.

    Raises:
        FileNotFoundError: If the folder has no pages.
        ValueError: If the pages don't have the dictionary.
    """

    folder: Path
    dictionary: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", checks.path("folder", self.folder, "a folder"))
        if not (self.folder / "data" / "manifest.js").is_file():
            raise FileNotFoundError(
                f"`folder` must have pages of `sparsedict.pages.write`, but {self.folder} has none."
            )
        names = [own["name"] for own in self._manifest["dictionaries"]]
        if self.dictionary not in names:
            raise ValueError(
                f"`dictionary` must be one of {names}, the dictionaries of the pages, got {self.dictionary!r}."
            )

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        return read_script(self.folder / "data" / "manifest.js")

    @cached_property
    def _tokens(self) -> tuple[list[str], list[int]]:
        texts, ids = read_script(self.folder / "data" / "tokens.js")
        return texts, ids

    @cached_property
    def _shards(self) -> dict[int, list[dict[str, Any]]]:
        return {}

    def entry(self, latent: int, table: TokenTable) -> dict[str, Any] | None:
        """Returns the examples of a latent; None if the pages don't have it."""
        number = [own["name"] for own in self._manifest["dictionaries"]].index(self.dictionary)
        own = self._manifest["dictionaries"][number]
        if latent >= own["n"]:
            return None
        shard, place = divmod(latent, own["per_shard"])
        if shard not in self._shards:
            self._shards[shard] = read_script(self.folder / "data" / str(number) / f"{shard}.js")
        found = self._shards[shard][place]
        texts, ids = self._tokens
        top = [
            [sequence, position, peak, [table(ids[n], texts[n]) for n in numbers], active]
            for sequence, position, peak, numbers, active in found["top"][:N_EXAMPLES]
        ]
        largest = max((abs(value) for value in found["quantiles"]), default=0.0)
        share = found["count"] / max(own["n_tokens"], 1)
        return _entry(top, largest, share, found.get("strong", share), own["has"].get("rarely_zero", False))


def record_entry(
    records: LatentRecords, latent: int, strings: TokenStrings, table: TokenTable
) -> dict[str, Any] | None:
    """Returns the examples of a latent; None if the records don't have it."""
    if latent >= records.n_latents:
        return None
    top = []
    for own in records.examples(latent)[:N_EXAMPLES]:
        ids = own.tokens.tolist()
        values = rounded(np.asarray(own.activations.tolist()), DIGITS).tolist()
        numbers = [table(token, visible(text)) for token, text in zip(ids, strings(ids), strict=True)]
        active = [item for place, value in enumerate(values) if value for item in (place, value)]
        top.append([own.sequence, own.position, own.peak, numbers, active])
    largest = max(abs(float(records.act_min[latent])), abs(float(records.act_max[latent])))
    share, strong = float(records.frequency[latent]), float(records.strong_frequency[latent])
    return _entry(top, largest, share, strong, records.rarely_zero)


def _entry(top: list[Any], largest: float, share: float, strong: float, rarely_zero: bool) -> dict[str, Any]:
    """Returns the entry of a latent, with one of its shares of tokens, see `LatentRecords.rarely_zero`."""
    return {"top": top, "largest": largest, "share": strong if rarely_zero else share, "is_strong": rarely_zero}


def read_script(file: Path) -> Any:
    """Returns the JSON of a data file of pages.

    Raises:
        ValueError: If it isn't such a file.
    """
    text = file.read_text(encoding="utf-8").strip()
    start, end = "sparsedict.receive(", ");"
    if not text.startswith(start) or not text.endswith(end):
        raise ValueError(f"{file} must be a data file of pages of this version. Write the pages again.")
    return json.loads(f"[{text[len(start) : -len(end)]}]")[1]
