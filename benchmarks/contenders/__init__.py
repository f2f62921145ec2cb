"""The measured libraries. Each has a module with its variants and its own training loop."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

from torch import Tensor

from benchmarks.case import Case

Batches = Iterator[tuple[Tensor, Tensor]]

MODULES = ("ours", "sae_lens", "dictionary_learning", "sparsify", "decode_clt")


class Library(Protocol):
    """The interface of the modules."""

    LABEL: str
    PACKAGE: str
    IMPORT: str

    def variants(self, case: Case) -> list[tuple[str, ...]]:
        """Returns the variants with which this library can train the case; empty if it can't."""
        ...

    def train(self, case: Case, batches: Batches, options: tuple[str, ...]) -> None:
        """Runs the library's own training loop over the batches until they end in an error."""
        ...


@dataclass(frozen=True)
class Contender:
    """One library with one set of options."""

    module: str
    options: tuple[str, ...] = ()

    @property
    def library(self) -> Library:
        return cast(Library, importlib.import_module(f"benchmarks.contenders._{self.module}"))

    @property
    def label(self) -> str:
        return ", ".join((self.library.LABEL, *self.options))

    @property
    def is_ours(self) -> bool:
        return self.module == "ours"


def available(case: Case, *, libraries: list[str] | None = None, compiled: bool = False) -> list[Contender]:
    """Returns all installed contenders that can train the case.

    Args:
        case: The case.
        libraries: Names of modules to choose from; all by default.
        compiled: Whether to include variants that ``torch.compile`` has to translate first, which takes a minute.
    """
    found: list[Contender] = []
    for module in libraries or MODULES:
        library = Contender(module).library
        if importlib.util.find_spec(library.IMPORT) is None:
            continue
        found += [Contender(module, options) for options in library.variants(case)]
    return [contender for contender in found if compiled or "compiled" not in contender.options]


def versions() -> dict[str, str]:
    """Returns the version of each installed library."""
    found: dict[str, str] = {}
    for module in MODULES:
        package = Contender(module).library.PACKAGE
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
