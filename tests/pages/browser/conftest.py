"""Pages of a small model with hostile tokens, and a real browser that opens them from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsedict as sd

HOSTILE = {
    1: "<script>window.hurt = 1</script>",
    2: "</script><img src=x onerror='window.hurt = 1'>",
    3: "&amp;\"'`",
    4: "\n\n\t ",
    5: "\u200b",
    6: "\u202eabc",
    7: "\ud800",
    8: "\u2028",
    9: "<!--",
    10: "\u0301",
    11: "\u05e9\u05dc\u05d5\u05dd",
    12: "",
}
"""Texts that would run, break the page or be invisible."""
VOCABULARY = [HOSTILE.get(index, f" word{index}") for index in range(40)]
NAME = "a/b <i>?&#"
"""Name of a dictionary that would break an address or a page."""
LAYERS = ("first", "second", "third")
SCORES = torch.linspace(0, 1, 300)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Embedding(len(VOCABULARY), 16, _weight=torch.randn(len(VOCABULARY), 16, generator=generator))
        self.mlp = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16))
        self.norm = nn.LayerNorm(16)
        self.lm_head = nn.Linear(16, len(VOCABULARY), bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        return self.lm_head(self.norm(x + self.mlp(x)))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    site = sd.Site(Model(), "mlp")
    options: dict[str, Any] = {"activation": sd.TopK(4), "decoder_norm": sd.UnitNorm()}
    generator = torch.Generator().manual_seed(1)
    transcoder = sd.SparseDistiller(16, 16, 300, generator=generator, **options)
    with torch.no_grad():
        transcoder.decoder[5] = nn.functional.normalize(site.neurons.decoder[2], dim=0)
        transcoder.encoder[5] = 9 * site.neurons.encoder[2]
    dictionaries = {NAME: transcoder, "neurons": site.neurons}
    tokens = torch.randint(0, len(VOCABULARY), (60, 30), generator=generator)
    path = tmp_path_factory.mktemp("pages") / "a folder"
    scores = {NAME: {"clarity": SCORES}}
    sd.pages.write(path, site, dictionaries, tokens, tokenizer=VOCABULARY, scores=scores, progress=False)
    return path


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(len(VOCABULARY), 16)
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)) for _ in range(3))
        self.norm = nn.LayerNorm(16)
        self.lm_head = nn.Linear(16, len(VOCABULARY), bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for mlp in self.mlps:
            x = x + mlp(x)
        return self.lm_head(self.norm(x))


@pytest.fixture(scope="session")
def layers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of a cross-layer distiller, a crosscoder and neurons. Latent 10 simulates neuron 2 of the second layer."""
    sites = sd.Sites(Layers(), {name: f"mlps.{index}" for index, name in enumerate(LAYERS)})
    generator = torch.Generator().manual_seed(2)
    options: dict[str, Any] = {"activation": sd.TopK(4), "decoder_norm": sd.Free(), "generator": generator}
    cross_layer = sd.CrossLayerDistiller(sites, 8, **options)
    crosscoder = sd.Crosscoder({f"{name}.outputs": 16 for name in LAYERS}, 20, **options)
    with torch.no_grad():
        block = cross_layer.blocks()[1]
        block.decoder[2, :16] = 9 * sites["second"].neurons.decoder[2]
    dictionaries = {
        "cross-layer": cross_layer,
        "crosscoder": crosscoder,
        **{name: {"neurons": sites[name].neurons} for name in ("first", "second")},
    }
    tokens = torch.randint(0, len(VOCABULARY), (40, 20), generator=generator)
    path = tmp_path_factory.mktemp("layers") / "pages"
    scores = {"crosscoder": {name: torch.linspace(0, 1, 20) for name in ("score", "grade", "stability")}}
    sd.pages.write(path, sites, dictionaries, tokens, tokenizer=VOCABULARY, scores=scores, progress=False)
    return path


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """A page that shows the list of the first dictionary. The test fails on any error or request to a network."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    opened = context.new_page()
    opened.set_default_timeout(15_000)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on("dialog", lambda dialog: problems.append(dialog.message))
    opened.on("request", lambda request: None if request.url.startswith("file:") else problems.append(request.url))
    opened.goto((folder / "index.html").as_uri())
    opened.wait_for_selector(".rows [role=row]")
    yield opened
    assert opened.evaluate("window.hurt") is None
    context.close()
    assert not problems
