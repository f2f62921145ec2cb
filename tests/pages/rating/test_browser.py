"""Raters answer by keyboard and mouse in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsedict.analysis import ratings
from sparsedict.pages.rating import RatingServer, write_page

from ._made import made_set

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow
SET = made_set()
N = len(SET.items)


@pytest.fixture
def page(browser: playwright.Browser) -> Iterator[playwright.Page]:
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(10_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield page
    assert not errors
    context.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RatingServer]:
    with RatingServer(SET, tmp_path / "ratings") as made:
        yield made


def begin(page: playwright.Page, address: str, rater: str = "anna") -> None:
    page.goto(address)
    page.get_by_label("Your name").fill(rater)
    page.keyboard.press("Enter")


def heading(page: playwright.Page, number: int) -> None:
    playwright.expect(page.get_by_role("heading", name=f"Latent {number} of {N}")).to_be_visible()


def grades(server: RatingServer, rater: str = "anna") -> list[int | None]:
    file = server.folder / f"ratings-{rater}.json"
    return [r.grade for r in ratings.read(file, key=server.folder / "key.json")]


def test_ten_latents_are_rated_by_keyboard_and_a_reload_continues(page: playwright.Page, server: RatingServer) -> None:
    begin(page, server.url)
    keys = ["0", "1", "2", "3", "4", "s", "4", "3", "2", "1"]
    for number, key in enumerate(keys, 1):
        heading(page, number)
        page.keyboard.press(key)
    heading(page, 11)
    expected = [None if key == "s" else int(key) for key in keys]
    assert grades(server) == expected
    page.reload()
    heading(page, 11)
    page.keyboard.press("u")
    heading(page, 10)
    assert grades(server) == expected[:-1]
    for number in range(10, N + 1):
        heading(page, number)
        page.keyboard.press("4")
    playwright.expect(page.get_by_text(f"{N - 1} graded, 1 skipped. The answers are stored.")).to_be_visible()
    assert len(grades(server)) == N


def test_a_second_rater_starts_at_the_first_latent(browser: playwright.Browser, server: RatingServer) -> None:
    for rater, grade in (("anna", "3"), ("ben", "0")):
        context = browser.new_context()
        page = context.new_page()
        begin(page, server.url, rater)
        heading(page, 1)
        page.keyboard.press(grade)
        heading(page, 2)
        context.close()
    assert (grades(server), grades(server, "ben")) == ([3], [0])


def test_buttons_work_and_name_their_keys(page: playwright.Page, server: RatingServer) -> None:
    begin(page, server.url)
    heading(page, 1)
    buttons = page.get_by_role("group", name="Grade").get_by_role("button")
    assert [b.get_attribute("aria-keyshortcuts") for b in buttons.all()] == ["0", "1", "2", "3", "4", "u", "s"]
    playwright.expect(page.get_by_role("button", name="undo")).to_be_disabled()
    page.get_by_role("button", name="4 a clear rule").click()
    heading(page, 2)
    playwright.expect(page.get_by_role("status")).to_have_text("Graded 4.")
    page.get_by_role("button", name="undo").click()
    heading(page, 1)


def test_tokens_are_shown_as_text_and_run_nothing(page: playwright.Page, server: RatingServer) -> None:
    begin(page, server.url)
    heading(page, 1)
    text = page.locator("#examples").inner_text()
    assert "<script>window.broken=1</script>" in text
    assert "</script><img src=x onerror=window.broken=1>" in text
    assert "&amp;" in text
    assert "↵" in text
    assert "\\u{d800}" in text
    assert page.evaluate("window.broken") is None
    assert page.locator("#examples img, #examples script").count() == 0


def test_each_text_has_one_mark_and_no_other_style(page: playwright.Page, server: RatingServer) -> None:
    begin(page, server.url)
    for number, item in enumerate(SET.items, 1):
        heading(page, number)
        rows = page.locator("#examples li")
        assert rows.count() == len(item.examples)
        assert [rows.nth(i).locator("mark").count() for i in range(rows.count())] == [1] * rows.count()
        assert page.locator("#examples [style], #examples [title]").count() == 0
        page.keyboard.press("1")


def test_the_address_bar_and_the_document_name_no_dictionary(page: playwright.Page, server: RatingServer) -> None:
    begin(page, server.url)
    heading(page, 1)
    assert "secret" not in page.content() + page.url


def test_an_answer_that_can_not_be_stored_is_an_error_on_the_page(
    browser: playwright.Browser, server: RatingServer
) -> None:
    page = browser.new_page()
    # Before the page loads: Chromium lets a request that follows at once pass. Only answers have this address.
    page.route("**/ratings", lambda route: route.abort())
    begin(page, server.url)
    heading(page, 1)
    page.keyboard.press("3")
    playwright.expect(page.get_by_role("alert").filter(has_text="not stored")).to_be_visible()
    heading(page, 1)
    page.unroute("**/ratings")
    page.keyboard.press("2")
    heading(page, 2)
    assert grades(server) == [2]
    page.context.close()


def test_an_invalid_name_is_refused_by_the_page(page: playwright.Page, server: RatingServer) -> None:
    begin(page, server.url, "../Anna")
    playwright.expect(page.get_by_label("Your name")).to_be_visible()
    assert page.evaluate("document.querySelector('#rater').validity.patternMismatch")


def test_the_page_on_disk_stores_answers_and_downloads_them(page: playwright.Page, tmp_path: Path) -> None:
    file = write_page(tmp_path / "page.html", SET)
    key = SET.write_key(tmp_path / "key")
    begin(page, file.as_uri(), "zoe")
    for number, pressed in enumerate(["2", "s", "4"], 1):
        heading(page, number)
        page.keyboard.press(pressed)
    heading(page, 4)
    page.reload()
    heading(page, 4)
    with page.expect_download() as started:
        page.get_by_role("button", name="Download answers").click()
    assert started.value.suggested_filename == "ratings-zoe.json"
    started.value.save_as(tmp_path / "ratings-zoe.json")
    found = ratings.read(tmp_path / "ratings-zoe.json", key=key)
    assert [r.grade for r in found] == [2, None, 4]
    assert found.raters == ("zoe",)
    assert [r.latent for r in found] == [item.latent for item in SET.key.items[:3]]


@pytest.mark.parametrize("is_served", [False, True])
def test_two_windows_of_a_rater_keep_the_answers_of_both(
    page: playwright.Page, server: RatingServer, tmp_path: Path, is_served: bool
) -> None:
    address = server.url if is_served else write_page(tmp_path / "page.html", SET).as_uri()
    other = page.context.new_page()
    for window in (page, other):
        begin(window, address, "zoe")
        heading(window, 1)
    for number, pressed in enumerate("012343", 1):
        heading(page, number)
        page.keyboard.press(pressed)
    heading(page, 7)
    if is_served:
        other.keyboard.press("4")  # this window still shows the first latent
        heading(other, 7)
        page.reload()
        heading(page, 7)
        assert sorted(grades(server, "zoe")) == [1, 2, 3, 3, 4, 4]
        return
    heading(other, 7)
    other.keyboard.press("4")
    heading(page, 8)
    page.reload()
    heading(page, 8)
    page.keyboard.press("u")
    heading(other, 7)


def test_the_page_on_disk_knows_the_name_of_its_rater(page: playwright.Page, tmp_path: Path) -> None:
    page.goto(write_page(tmp_path / "page.html", SET, rater="anna").as_uri())
    heading(page, 1)
    page.keyboard.press("3")
    with page.expect_download() as started:
        page.get_by_role("button", name="Download answers").click()
    assert started.value.suggested_filename == "ratings-anna.json"


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser: playwright.Browser, tmp_path: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    begin(page, write_page(tmp_path / "page.html", SET).as_uri())
    heading(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_the_page_asks_no_other_host(browser: playwright.Browser, tmp_path: Path) -> None:
    text = write_page(tmp_path / "page.html", SET).read_text()
    shell = re.sub(r'<script type="application/json".*?</script>', "", text)
    assert not re.search(r"https?://|src=|@import|url\(", shell)
    assert json.loads(re.search(r'id="data">(.*?)</script>', text).group(1))["set"] == SET.id  # type: ignore[union-attr]
