"""A real browser, which all tests of pages share, since a thread can start Playwright only once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest


def chromium() -> str | None:
    """Returns the path of a Chromium: that of the environment variable, or an installed one.

    The headless shell opens the same pages in a third of the CPU time, because it has no windows of a browser.
    """
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("SPARSEDICT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if os.environ.get("SPARSEDICT_BROWSER_TESTS") == "required":
        from playwright.sync_api import sync_playwright
    else:
        sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    path = chromium()
    if path is None:
        text = "no Chromium: install it with `apt-get install chromium-headless-shell`, or set SPARSEDICT_CHROMIUM"
        if os.environ.get("SPARSEDICT_BROWSER_TESTS") == "required":
            pytest.fail(text)
        pytest.skip(text)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()
