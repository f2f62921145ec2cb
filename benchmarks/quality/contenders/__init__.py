"""The contenders. A contender is an entry of ``CONTENDERS`` in one of these modules; a new library is a new module."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping

from benchmarks.quality._task import Contender

MODULES = ("ours", "sae_lens", "sparsify", "dictionary_learning")


def all_contenders() -> dict[str, Contender]:
    """Returns all contenders whose packages are installed, by name."""
    found: dict[str, Contender] = {}
    for module in MODULES:
        own: Mapping[str, Contender] = importlib.import_module(f"{__name__}._{module}").CONTENDERS
        found |= {name: contender for name, contender in own.items() if _is_installed(contender)}
    return found


def _is_installed(contender: Contender) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in contender.packages)
