"""The view of a latent in a notebook shows its records, and tokens as text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

import sparsedict as sd
from sparsedict.analysis import LatentRecords

from .exports.conftest import effects, records, strings  # noqa: F401


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_shows_the_records(records: LatentRecords) -> None:  # noqa: F811
    view = sd.pages.latent(records, 3, strings=strings, effects=effects())
    text = view._repr_html_()
    assert f"{float(records.frequency[3]):.3%}" in text
    assert text.count("<mark") == len(records.examples(3)[:10]) + sum(len(records.examples(3, q)) for q in range(5))
    assert f"<b>{records.examples(3)[0].value:.3g}</b>" in text
    assert "Promotes" in text
    assert len(re.findall("<details>", text)) == 5
    assert repr(view).startswith("LatentView('Latent 3', ")


def test_tokens_are_text_and_the_html_is_well_formed(records: LatentRecords) -> None:  # noqa: F811
    for latent in range(24):
        view = sd.pages.latent(records, latent, strings=strings, effects=effects(), title="<b>&")
        tags = Tags(view.html)
        assert tags.open == []
        assert not {"script", "img", "link", "iframe"} & set(tags.seen)
        assert "&lt;b&gt;&amp;" in view.html
        view.html.encode()


def test_a_latent_that_never_fired_says_so(records: LatentRecords) -> None:  # noqa: F811
    assert "It never fired on 960 tokens." in sd.pages.latent(records, 7).html


def test_a_latent_that_does_not_exist_is_an_error(records: LatentRecords) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=r"`index` must lie in \[0, 24\), got 24"):
        sd.pages.latent(records, 24)


def test_a_dictionary_is_a_table_in_a_notebook() -> None:
    sae = sd.SparseAutoencoder(8, 24, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
    text = sae._repr_html_()
    for part in ("<caption>SparseAutoencoder</caption>", "TopK(k=2", "UnitNorm", "outputs", ">24<"):
        assert part in text
    cross = sd.CrossLayerDistiller({"0": 4, "1": 4}, 6, activation=sd.ReLU(), decoder_norm=sd.Free())
    assert "0.inputs, 1.inputs" in cross._repr_html_()
