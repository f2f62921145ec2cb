"""Pages of latents that never fire, fire once, always have the same value, or are almost never zero."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsedict as sd

from .conftest import HOSTILE

ROWS = ".rows [role=row]"
N_TOKENS, RARE, LONG = 30, 29, 28
VOCABULARY = [HOSTILE.get(i, f" word{i}") for i in range(N_TOKENS)]
VOCABULARY[LONG] = "x" * 400 + " 1" * 400
NEVER, ONCE, EQUAL, NEGATIVE, ON_LONG = range(5)


class Model(nn.Module):
    """The MLP reads the one-hot token, so that latents can be planted."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(N_TOKENS, N_TOKENS, _weight=torch.eye(N_TOKENS))
        self.mlp = nn.Sequential(nn.Linear(N_TOKENS, 24), nn.GELU(), nn.Linear(24, N_TOKENS))
        self.lm_head = nn.Linear(N_TOKENS, N_TOKENS, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        return self.lm_head(x + self.mlp(x))


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = sd.Site(Model(), "mlp")
    planted = sd.SparseDistiller(N_TOKENS, N_TOKENS, 5, activation=sd.AbsTopK(5), decoder_norm=sd.Free())
    with torch.no_grad():
        planted.encoder.zero_()
        planted.encoder_bias.zero_()
        planted.encoder[ONCE, RARE] = 1.0
        planted.encoder[EQUAL] = 0.75
        planted.encoder[NEGATIVE] = -0.5 - torch.rand(N_TOKENS)
        planted.encoder[ON_LONG, LONG] = 3.0
    tokens = torch.randint(0, RARE, (20, 16), generator=torch.Generator().manual_seed(0))
    tokens[3, 0] = RARE  # its first token, so that its context begins there
    tokens[:4, -1] = LONG
    path = tmp_path_factory.mktemp("odd") / "pages"
    dictionaries = {"planted": planted, "neurons": site.neurons}
    sd.pages.write(path, site, dictionaries, tokens, tokenizer=VOCABULARY, progress=False)
    return path


@pytest.fixture(params=[400, 1280])
def page(browser: Any, odd_folder: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": request.param, "height": 700})
    opened, problems = context.new_page(), []
    opened.set_default_timeout(15_000)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.goto((odd_folder / "index.html").as_uri())
    opened.wait_for_selector(ROWS)
    yield opened
    context.close()
    assert not problems


def shown(page: Any, latent: int, name: str = "planted") -> str:
    page.evaluate(f"location.hash = '#/{name}/{latent}'")
    page.wait_for_selector(f"h1:text-matches(' {latent}$')")
    text = page.inner_text("main")
    assert not [word for word in ("NaN", "undefined", "null", "Infinity") if word in page.content()]
    return " ".join(text.split())


def test_a_latent_that_never_fires(page: Any) -> None:
    text = shown(page, NEVER)
    assert "never fired" in text
    assert "fires on 0 % (0 tokens)" in text.lower()
    assert page.locator(".histogram").count() == 0


@pytest.mark.parametrize(("share", "shown"), [(9.98e-6, "0.001 %"), (1.23e-6, "0.0001 %"), (4.79e-4, "0.0479 %")])
def test_the_share_of_few_tokens_fits_its_column(page: Any, share: float, shown: str) -> None:
    assert page.evaluate(f"format.share({share})") == shown
    cell = page.locator("[role=gridcell].share").first
    cell.evaluate("(cell, text) => { cell.textContent = text; }", shown)
    assert cell.evaluate("(cell) => cell.scrollWidth <= cell.clientWidth")


def test_a_latent_that_fires_once(page: Any) -> None:
    text = shown(page, ONCE)
    assert "(1 token)" in text
    assert page.locator(".examples section").first.locator(".example").count() == 1
    assert page.locator(".histogram .bar").count() > 0
    bars = page.eval_on_selector_all(".histogram .bar", "bars => bars.map(b => +b.getAttribute('height'))")
    assert sum(bar > 0 for bar in bars) == 1
    assert max(bars) > 50


@pytest.mark.parametrize("latent", [EQUAL, NEGATIVE])
def test_a_latent_on_all_tokens(page: Any, latent: int) -> None:
    assert "100 % (320 tokens)" in shown(page, latent)
    bars = page.eval_on_selector_all(".histogram .bar", "bars => bars.map(b => +b.getAttribute('height'))")
    assert max(bars) > 50
    assert sum(bar > 0 for bar in bars) == (1 if latent == EQUAL else sum(bar > 0 for bar in bars))
    assert page.locator(".example").count() > 5


def test_units_that_are_almost_never_zero_have_another_share(page: Any) -> None:
    heads = page.locator("[role=columnheader]").all_inner_texts() if page.viewport_size["width"] > 1000 else []
    options = page.locator("select.sorted option").all_inner_texts()
    assert "fires on ↓" in options
    assert not heads or "fires on" in [head.lower() for head in heads]
    page.evaluate("location.hash = '#/neurons'")
    page.wait_for_selector("[aria-current]:text('neurons')")
    options = page.locator("select.sorted option").all_inner_texts()
    assert "fires on ↓" not in options
    assert "over 10 % ↓" in options
    cells = page.locator(f"{ROWS} [data-label='over 10 %']").all_inner_texts()
    assert len(cells) > 5
    assert len(set(cells)) > 1
    assert not {"100 %", "\u2013"} & set(cells)
    assert "almost never 0" in page.inner_text("footer")
    page.fill("input[type=search]", "over 10 % > 100")
    assert "Nothing matches" in page.inner_text(".rows")
    assert "at least 10 % of the largest magnitude on" in shown(page, 3, "neurons").lower()


def test_units_that_are_almost_never_zero_have_no_partners(page: Any) -> None:
    assert "fires with" in shown(page, EQUAL).lower()
    for neuron in (0, 3):
        assert "fires with" not in shown(page, neuron, "neurons").lower()


def test_tooltips_stay_in_the_window(page: Any) -> None:
    """Those of the first and last token of each text, of a token of 1,200 characters, and of every bar and column."""
    for latent, name in ((ON_LONG, "planted"), (EQUAL, "planted"), (3, "neurons")):
        shown(page, latent, name)
        targets = page.locator("article [data-tip]")
        n = targets.count()
        assert n > 20
        for index in sorted({*range(0, n, max(1, n // 25)), n - 1}):
            target = targets.nth(index)
            target.scroll_into_view_if_needed()
            inside = target.evaluate(
                """target => {
                    tip(target.dataset.tip, target);
                    const box = document.getElementById("tip").getBoundingClientRect();
                    const { left, top, right, bottom } = box;
                    return [left >= 0, top >= 0, right <= innerWidth, bottom <= innerHeight, right > left];
                }"""
            )
            assert all(inside), (latent, index, inside)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
