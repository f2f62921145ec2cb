"""Every example in a docstring is run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import sparsedict

NAMES = [module.name for module in pkgutil.walk_packages(sparsedict.__path__, "sparsedict.")]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith((".build", "__main__"))])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
