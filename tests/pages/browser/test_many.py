"""The list of 16,384 latents in a real browser. The data of the page is made from that of few latents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparsedict.pages.graphs._examples import read_script

N = 16_384
OPEN_S = 10.0
"""Longest time until the list is shown. On two shared cores it takes less than a second."""
STEP_S = 5.0
"""Longest time of one search, sort or page. On two shared cores it takes about a tenth of a second."""
ROWS = ".rows [role=row]"


def _write(file: Path, name: str, content: Any) -> None:
    file.write_text(f"sparsedict.receive({json.dumps(name)},{json.dumps(content)});\n", encoding="ascii")


@pytest.fixture(scope="module")
def many(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of small pages whose first dictionary has 16,384 latents. Shards repeat the first one."""
    path = tmp_path_factory.mktemp("many") / "pages"
    shutil.copytree(folder, path)
    manifest, table = (read_script(path / "data" / name) for name in ("manifest.js", "0/table.js"))
    n = manifest["dictionaries"][0]["n"]
    manifest["dictionaries"][0]["n"] = N
    for name, column in table.items():
        table[name] = [column[i % n] for i in range(N)]
    table["clarity"] = [(7919 * i % N) / N for i in range(N)]
    _write(path / "data" / "manifest.js", "manifest", manifest)
    _write(path / "data" / "0" / "table.js", "0/table", table)
    shard = read_script(path / "data" / "0" / "0.js")
    last = N // len(shard) - 1
    _write(path / "data" / "0" / f"{last}.js", f"0/{last}", shard)
    return path


@pytest.fixture
def page(browser: Any, many: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    opened, problems = context.new_page(), []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.set_default_timeout(1000 * OPEN_S)
    opened.goto((many / "index.html").as_uri())
    opened.wait_for_selector(ROWS)
    yield opened
    context.close()
    assert not problems


def seconds(page: Any, action: str) -> float:
    """Returns the time of some JavaScript until the next frame is drawn."""
    frames = "await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    return (
        page.evaluate(
            f"async () => {{ const start = performance.now(); {action}; {frames}; return performance.now() - start }}"
        )
        / 1000
    )


def search(text: str) -> str:
    return (
        f"const box = document.querySelector('input[type=search]'); box.value = {json.dumps(text)}; "
        "box.dispatchEvent(new Event('input'))"
    )


def first(page: Any) -> list[int]:
    found = page.eval_on_selector_all(ROWS, "rows => rows.map(r => [+r.dataset.index, +r.firstChild.textContent])")
    return [latent for _, latent in sorted(found)]


def test_the_list_opens_with_few_rows(page: Any) -> None:
    assert page.evaluate("performance.now()") < 1000 * OPEN_S
    assert page.inner_text(".tools output") == f"{N:,} latents"
    assert page.locator(ROWS).count() < 100


def test_search_sort_and_scroll_are_quick(page: Any) -> None:
    assert seconds(page, search("clarity>=0.5")) < STEP_S
    assert page.inner_text(".tools output") == f"{N // 2:,} of {N:,}"
    assert seconds(page, search("word31")) < STEP_S
    assert 0 < int(page.inner_text(".tools output").split()[0].replace(",", "")) < N
    assert seconds(page, search("")) < STEP_S
    assert seconds(page, "document.querySelector('[data-key=clarity] button').click()") < STEP_S
    order = sorted(range(N), key=lambda i: -(7919 * i % N))
    assert first(page)[:20] == order[:20]
    assert seconds(page, "document.querySelector('[data-key=top] button').click()") < STEP_S
    assert seconds(page, "window.scrollTo(0, document.documentElement.scrollHeight)") < STEP_S
    assert page.locator(ROWS).count() < 100


def test_the_last_latent_opens(page: Any) -> None:
    page.evaluate(f"location.hash = app.state.with({{ latent: {N - 1} }}).address")
    page.wait_for_selector(f"h1:text-is('latent {N - 1}')")
    page.keyboard.press("k")
    page.wait_for_selector(f"h1:text-is('latent {N - 2}')")
