"""The pages of latents in a real browser, opened from disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch

import sparsedict as sd
from sparsedict.analysis.scores import LatentScores

from .conftest import HOSTILE, NAME, SCORES, VOCABULARY, Model

ROWS = ".rows [role=row]"


def latents(page: Any) -> list[int]:
    """Returns the latents of the rows, from top to bottom."""
    found = page.eval_on_selector_all(ROWS, "rows => rows.map(r => [+r.dataset.index, +r.firstChild.textContent])")
    return [latent for _, latent in sorted(found)]


def count(page: Any) -> str:
    return page.inner_text(".tools output")


def test_search_takes_numbers_tokens_and_scores(page: Any) -> None:
    assert count(page) == "300 latents"
    assert latents(page)[:3] == [0, 1, 2]
    page.fill("input[type=search]", "17 #203")
    assert latents(page) == [17, 203]
    page.fill("input[type=search]", "clarity>=0.992")
    assert latents(page) == [latent for latent in range(300) if float(SCORES[latent]) >= 0.992]
    counts = []
    for search in ("frequency>3", "fires on > 3", "Fires on>3 %", "max > 1e+9", "maximum>1e9"):
        page.fill("input[type=search]", search)
        counts.append(count(page))
    assert counts[0] == counts[1] == counts[2] != counts[3] == counts[4]
    page.fill("input[type=search]", '"word31"')
    shown = page.eval_on_selector_all(ROWS, "rows => rows.map(r => r.textContent)")
    assert shown
    assert all("word31" in row for row in shown)
    for search in ('"', '"""', "\"'`", '""\'`"'):
        page.fill("input[type=search]", search)
        assert count(page) != "300 latents"
        shown = page.eval_on_selector_all(ROWS, "rows => rows.map(r => r.textContent)")
        assert shown
        assert all(HOSTILE[3] in row for row in shown)
    page.fill("input[type=search]", "no such token")
    assert "Nothing matches" in page.inner_text(".rows")


def test_sort_and_filter_and_reload(page: Any) -> None:
    page.click("[data-key=clarity] button")
    assert latents(page)[:3] == [299, 298, 297]
    assert page.get_attribute("[data-key=clarity]", "aria-sort") == "descending"
    page.click("[data-key=clarity] button")
    assert latents(page)[0] == 0
    page.click("[data-key=max] button")
    page.select_option("[aria-label=Type]", "simulator")
    assert latents(page) == [5]
    page.select_option("[aria-label=Type]", "")
    page.click("summary")
    page.fill("[aria-label='Smallest cosine']", "0.5")
    page.fill("[aria-label='Largest clarity']", "0.5")
    before, shown = latents(page), count(page)
    assert re.fullmatch(r"\d+ of 300", shown)
    assert max(before) < 150
    page.reload()
    page.wait_for_selector(ROWS)
    assert latents(page) == before
    assert count(page) == shown


def test_keyboard(page: Any) -> None:
    page.keyboard.press("/")
    page.wait_for_selector("input[type=search]:focus")
    page.keyboard.type("clarity>0.5")
    page.keyboard.press("ArrowDown")
    order = latents(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector("article")
    assert page.inner_text("h1").split()[1] == str(order[2])
    for key, expected in (("j", order[3]), ("k", order[2]), ("k", order[1])):
        page.keyboard.press(key)
        page.wait_for_selector(f"h1:text-is('latent {expected}')")
    page.keyboard.press("Escape")
    page.wait_for_selector(ROWS)
    assert page.evaluate("document.activeElement.firstChild.textContent") == str(order[1])
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.firstChild.textContent") == "299"
    page.keyboard.press("2")
    page.wait_for_selector("[aria-current]:text('neurons')")
    page.keyboard.press("?")
    assert page.is_visible("dialog")
    page.keyboard.press("Escape")
    assert not page.is_visible("dialog")


def test_names_of_neighbours_have_most_of_the_width(page: Any) -> None:
    page.locator("[role=gridcell]").first.click()
    page.wait_for_selector("table.pairs .bar")
    rows = page.eval_on_selector_all(
        "tr:has(.bar)",
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.getBoundingClientRect().width))",
    )
    assert all(name > bar and name > number for name, bar, number in rows)


def test_a_latent_and_back(page: Any) -> None:
    page.fill("input[type=search]", "max>0.01")
    page.evaluate("window.scrollTo(0, 3000)")
    page.wait_for_timeout(100)
    row = page.locator(ROWS).nth(10)
    latent = row.locator("a").inner_text()
    row.click()
    page.wait_for_selector("article")
    assert page.title() == f"latent {latent}, {NAME}"
    page.go_back()
    page.wait_for_selector(ROWS)
    assert page.input_value("input[type=search]") == "max>0.01"
    assert page.evaluate("document.activeElement.firstChild.textContent") == latent
    page.go_forward()
    page.wait_for_selector("article")
    page.reload()
    page.wait_for_selector("article")
    assert page.inner_text("h1") == f"latent {latent}"
    page.click("#back")
    page.wait_for_selector(ROWS)
    assert page.input_value("input[type=search]") == "max>0.01"


def open_latent(page: Any, latent: int) -> None:
    page.fill("input[type=search]", f"#{latent}")
    page.locator(ROWS).first.click()
    page.wait_for_selector("article")


def test_values_appear_on_hover_and_by_keyboard(page: Any) -> None:
    open_latent(page, 5)
    shown = page.locator(".context .peak").first
    shown.hover()
    value = page.inner_text("#tip").split()[0]
    assert float(value) == pytest.approx(float(page.locator(".example .value").first.inner_text()), rel=1e-3)
    page.mouse.move(0, 0)
    assert not page.is_visible("#tip")
    page.locator(".context").first.focus()
    assert page.inner_text("#tip").startswith(value)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert re.search(r"position \d+", page.inner_text("#tip"))
    assert page.locator(".context").first.locator(".cursor").count() == 1
    assert "tokens" in page.get_attribute(".histogram g", "data-tip")


def test_latents_and_neurons_are_linked(page: Any) -> None:
    open_latent(page, 5)
    assert page.inner_text("article .kind") == "simulator"
    page.locator("section:has(h2:text('Nearest in neurons')) a").first.click()
    page.wait_for_selector("h1:text-is('neuron 2')")
    page.locator("section:has(h2:text('Nearest in')) a").first.click()
    page.wait_for_selector("h1:text-is('latent 5')")
    assert unquote(page.url).partition("#/")[2].startswith(NAME)


def test_hostile_tokens_are_text(page: Any) -> None:
    shown = dict(page.evaluate("sparsedict.ids.map((id, i) => [id, sparsedict.strings[i]])"))
    assert set(shown) == set(range(len(VOCABULARY)))
    assert shown[1] == HOSTILE[1]
    assert {i: shown[i] for i in (4, 5, 6, 7, 8, 10, 12)} == {
        4: "↵↵→·",
        5: r"\u{200b}",
        6: r"\u{202e}abc",
        7: r"\u{d800}",
        8: r"\u{2028}",
        10: "\N{DOTTED CIRCLE}\u0301",
        12: "∅",
    }
    seen = ""
    for latent in range(0, 300, 30):
        open_latent(page, latent)
        seen += page.inner_text("article")
        page.keyboard.press("Escape")
        page.wait_for_selector(ROWS)
    assert all(text in seen for text in (HOSTILE[1], HOSTILE[2], HOSTILE[3], HOSTILE[9], HOSTILE[11]))
    assert page.locator("#page img, #page script").count() == 0


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser: Any, folder: Path, width: int, scheme: Any) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    for address in ("", "#/neurons", "#/neurons/3"):
        page.goto((folder / "index.html").as_uri() + address)
        page.wait_for_selector(f"{ROWS}, article")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") is (scheme == "light")
    context.close()


N_SCORES = 6


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages with six columns of scores, one of which has words."""
    torch.manual_seed(0)
    site = sd.Site(Model(), "mlp")
    tokens = torch.randint(0, len(VOCABULARY), (8, 30))
    words = tuple(None if latent % 2 else f"<i>rule {latent}" for latent in range(24))
    rule = LatentScores("rule", torch.linspace(0, 1, 24), torch.zeros(24), words=words)
    columns = {f"score number {index}": torch.rand(24) for index in range(1, N_SCORES)} | {"F1": rule}
    path = tmp_path_factory.mktemp("scored") / "pages"
    sd.pages.write(path, site, {"a": site.neurons}, tokens, tokenizer=VOCABULARY, scores={"a": columns}, progress=False)
    return path


@pytest.mark.parametrize("width", [400, 1280])
def test_many_scores_are_legible(browser: Any, scored: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((scored / "index.html").as_uri())
    page.wait_for_selector(ROWS)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.locator("details.columns input")
    page.click("details.columns summary")
    assert sum(box.is_checked() for box in boxes.all()[-N_SCORES:]) >= (N_SCORES if width < 500 else 4)
    for index in range(boxes.count()):
        boxes.nth(index).check()
        assert page.evaluate("document.activeElement.type") == "checkbox"
    page.reload()
    page.wait_for_selector(ROWS)
    assert (
        page.locator("details.columns summary").inner_text() == f"Columns ({boxes.count() + 2} of {boxes.count() + 2})"
    )
    page.evaluate("window.scrollTo(600, 0)")
    number = page.locator(f"{ROWS} >> nth=0").locator(".index").bounding_box()
    assert 0 <= number["x"] < 100
    below = "cell => cell.getBoundingClientRect().bottom > cell.parentElement.getBoundingClientRect().bottom + 1"
    assert not page.evaluate(f"[...document.querySelectorAll('{ROWS} > *')].filter({below}).length")
    page.click("details.columns summary")
    page.click("details.columns button")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto((scored / "index.html").as_uri() + "#/a/4")
    page.wait_for_selector("article")
    assert "<i>rule 4" in page.inner_text(".facts")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


@pytest.mark.parametrize("name", ["cosine", "max", ""])
def test_scores_named_as_other_columns_raise(tmp_path: Path, name: str) -> None:
    site = sd.Site(Model(), "mlp")
    with pytest.raises(ValueError, match="must have other names than the columns"):
        sd.pages.write(
            tmp_path / "x", site, {"a": site.neurons}, torch.ones(1, 4).long(), scores={"a": {name: torch.rand(24)}},
            progress=False,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("#/neurons/99999", "There is no neuron 99999. neurons has the neurons 0 to 23."),
        ("#/neurons/abc", "There is no neuron abc. neurons has the neurons 0 to 23."),
        ("#/nope", "There is no dictionary nope. Choose one above."),
        ("#/nope/3", "There is no dictionary nope. Choose one above."),
    ],
)
def test_an_address_of_nothing_says_so(page: Any, address: str, message: str) -> None:
    page.evaluate(f"location.hash = '{address}'")
    page.wait_for_selector("[role=alert]")
    assert page.inner_text("[role=alert]") == message
    for key in ("j", "/", "Escape"):
        page.keyboard.press(key)
    page.keyboard.press("2")
    page.wait_for_selector(ROWS)
    assert page.inner_text("[aria-current]").startswith("neurons")


def test_a_missing_file_is_said(browser: Any, folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "data" / "0" / "0.js").unlink()
    page = browser.new_page()
    page.goto((tmp_path / "copy" / "index.html").as_uri() + "#/neurons/0")
    page.wait_for_selector("article")
    page.goto((tmp_path / "copy" / "index.html").as_uri() + "#//0")
    page.wait_for_selector("[role=alert]")
    assert "data/0/0.js is missing" in page.inner_text("[role=alert]")
    page.close()
