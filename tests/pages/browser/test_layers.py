"""The pages of dictionaries that write several layers in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import LAYERS

ROWS = ".rows [role=row]"


def layer_cells(page: Any) -> set[str]:
    return set(page.eval_on_selector_all(f"{ROWS} .layer", "cells => cells.map(cell => cell.textContent)"))


def test_latents_are_filtered_by_layer(browser: Any, layers_folder: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 1600})
    page = context.new_page()
    page.goto((layers_folder / "index.html").as_uri())
    page.wait_for_selector(ROWS)
    options = page.eval_on_selector_all("[aria-label=Layer] option", "all => all.map(own => own.textContent)")
    assert options == ["all layers", *(f"layer {name}" for name in LAYERS)]
    page.select_option("[aria-label=Layer]", "1")
    assert layer_cells(page) == {"second"}
    page.reload()
    page.wait_for_selector(ROWS)
    assert layer_cells(page) == {"second"}
    context.close()


def test_a_latent_shows_its_norms_and_neurons_by_layer(browser: Any, layers_folder: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 1600})
    page = context.new_page()
    page.goto((layers_folder / "index.html").as_uri() + "#/cross-layer/10")
    page.wait_for_selector("article")
    facts = page.inner_text("dl.facts")
    assert "2 of layer second (cosine 1.00)" in " ".join(facts.split())
    norms = page.locator("section", has=page.locator("h2:text-matches('^Decoder norms')"))
    assert norms.locator("th").all_inner_texts() == list(LAYERS)
    assert norms.locator("td.number").first.inner_text() == "0"  # it doesn't write earlier layers
    titles = page.locator("h2").all_inner_texts()
    assert any(title.startswith("Nearest in second.neurons") for title in titles)
    assert not any(title.startswith("Nearest in first.neurons") for title in titles)
    linked = page.locator("a[aria-label='second.neurons 2']")
    linked.click()
    page.wait_for_selector("h1:text-is('neuron 2')")
    assert page.locator("a[aria-label='cross-layer 10']").count() == 1
    context.close()


@pytest.mark.parametrize("width", [400, 1280])
def test_several_layers_fit_the_window(browser: Any, layers_folder: Path, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    for address in ("", "#/crosscoder", "#/crosscoder/3", "#/cross-layer/10"):
        page.goto((layers_folder / "index.html").as_uri() + address)
        page.wait_for_selector(f"{ROWS}, article")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto((layers_folder / "index.html").as_uri() + "#/cross-layer")
    page.wait_for_selector(ROWS)
    inside = "rows => rows.every(row => [...row.children].every(cell => cell.getBoundingClientRect().bottom <= "
    assert page.eval_on_selector_all(ROWS, inside + "row.getBoundingClientRect().bottom + 1))")
    context.close()
