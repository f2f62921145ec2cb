"""Imports of the packages of the extra ``scores``."""

from __future__ import annotations

import importlib
from types import ModuleType


def needed(module: str, what: str, package: str) -> ModuleType:
    """Imports a module of an optional package.

    Args:
        module: Dotted name of the module.
        what: The task that needs it, at the start of the message.
        package: Name of the package.

    Raises:
        ImportError: If the package isn't installed. The message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{what} needs {package}: pip install 'sparsedict[scores]'.") from error
