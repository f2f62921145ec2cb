from __future__ import annotations

import re
from pathlib import Path

import pytest

from sparsedict.pages import LatentCard, token_strings, write_examples

from ._made import Parsed, example, top

VOCABULARY = ["<script>alert('x')</script>", " the", "\n", "    ", '"&', "\ud800"]


def card(latent: int = 7, **facts: object) -> LatentCard:
    examples = top(latent, example([1, 0, 2], [0.0, 4.0, 1.0]), example([-1, 3, 4], [0.0, 0.5, 2.0]))
    return LatentCard(latent, examples, **facts)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def page(tmp_path: Path) -> str:
    facts = {"frequency": 0.0123, "n_tokens": 5000, "kind": "simulator", "neuron": 11, "cosine": 0.875}
    groups = {"the <distiller>": [card(**facts)], "nothing": []}
    file = write_examples(tmp_path / "new" / "page.html", groups, strings=token_strings(VOCABULARY), title="A < B")
    return file.read_text(encoding="utf-8")


def test_everything_is_escaped(page: str) -> None:
    parsed = Parsed(page)
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert "<script>alert('x')</script>" in parsed.text
    assert "the <distiller>" in parsed.text
    assert "A < B" in parsed.text


def test_needs_nothing_from_elsewhere(page: str) -> None:
    assert not re.search(r"https?://|<link|<script|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page


def test_heading_states_the_known_quantities(page: str) -> None:
    text = Parsed(page).text
    for words in ("Latent 7", "simulator", "1.230% of 5,000 tokens", "4", "11 (decoder cosine 0.88)", "No latent"):
        assert words in text


def test_shade_value_and_peak_of_tokens(page: str) -> None:
    spans = [attributes for tag, attributes in Parsed(page).tags if tag == "span" and "title" in attributes]
    # One place of the second example lies beyond the sequence and has no token.
    assert len(spans) == 5
    shades = [re.search(r"--a:([\d.]+)", span.get("style") or "") for span in spans]
    assert [float(shade[1]) if shade else 0.0 for shade in shades] == [0.0, 1.0, 0.25, 0.125, 0.5]
    assert [("peak" in (span.get("class") or "")) for span in spans] == [False, True, False, False, True]
    assert (spans[1]["title"] or "").startswith("4 on ")


def test_negative_activations_are_shaded_by_magnitude_in_another_colour(tmp_path: Path) -> None:
    shown = LatentCard(7, top(7, example([1, 0, 2], [-4.0, 0.0, 1.0], peak=0)))
    assert shown.max == -4.0
    file = write_examples(tmp_path / "page.html", {"": [shown]}, strings=token_strings(VOCABULARY))
    tags = Parsed(file.read_text(encoding="utf-8")).tags
    spans = [attributes for tag, attributes in tags if tag == "span" and "title" in attributes]
    shades = [re.search(r"--a:([\d.]+)", span.get("style") or "") for span in spans]
    assert [float(shade[1]) if shade else None for shade in shades] == [1.0, None, 0.25]
    assert [(span.get("class") or "").split() for span in spans] == [["peak", "negative"], [], ["blank"]]


def test_white_space_is_visible(page: str) -> None:
    text = Parsed(page).text
    assert "↵" in text
    assert "····" in text


def test_links_lead_to_latents(page: str) -> None:
    tags = Parsed(page).tags
    ids = {attributes.get("id") for _, attributes in tags}
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links
    assert all((link or "").removeprefix("#") in ids for link in links)


def test_numbers_where_no_strings_are_known_and_lone_surrogates(tmp_path: Path) -> None:
    assert "[4]" in write_examples(tmp_path / "a.html", {"a": [card()]}).read_text(encoding="utf-8")
    lone = LatentCard(0, top(0, example([5], [1.0])))
    write_examples(tmp_path / "b.html", {"a": [lone]}, strings=token_strings(VOCABULARY)).read_text(encoding="utf-8")


def test_a_latent_that_never_fired(tmp_path: Path) -> None:
    page = write_examples(tmp_path / "a.html", {"a": [LatentCard(3, top(3))]}).read_text(encoding="utf-8")
    assert "It never fired here." in Parsed(page).text
