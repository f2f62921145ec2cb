from __future__ import annotations

import pytest

from sparsedict.sites import Site

from ._models import LanguageModel


@pytest.fixture
def site() -> Site:
    """The MLP of a tiny language model; token 0 and the first position are left out."""
    return Site(LanguageModel(), "mlp", exclude_tokens=[0], exclude_first=1)
