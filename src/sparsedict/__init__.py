"""Decompose a transformer's MLPs into sparse, interpretable units."""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsedict._public import *  # noqa: F403
    from sparsedict._public import __all__ as __all__

__version__ = "0.1.0"

if os.environ.get("SPARSEDICT_CHECK_TYPES", "0") not in ("", "0"):
    # The checker is imported first, so that the import hook applies to all other modules.
    importlib.import_module("sparsedict._runtime_checks")
    importlib.import_module("jaxtyping").install_import_hook("sparsedict", "sparsedict._runtime_checks.check")


def __getattr__(name: str) -> Any:
    """Imports a module of the package, or a name of `sparsedict._public`, on first use.

    PyTorch takes seconds to import, and ``sparsedict --help`` and ``sparsedict --version`` don't need it.
    """
    is_dunder = name.startswith("__") and name != "__all__"
    if not is_dunder and find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    public = importlib.import_module(f"{__name__}._public") if not is_dunder else None
    try:
        value = globals()[name] = getattr(public, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return value


def __dir__() -> list[str]:
    modules = {module.name for module in iter_modules(__path__) if module.name[0] != "_"}  # noqa: F405
    return sorted({*globals(), *__getattr__("__all__"), *modules})
