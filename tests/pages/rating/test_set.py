"""The latents of a blind rating: selection, order, and what raters can't see."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

import sparsedict as sd
from sparsedict.pages import rating
from sparsedict.pages.rating import rating_set, write_page

from ._made import KINDS, examples, made_set, top


def test_each_kind_of_each_dictionary_has_the_same_number_of_latents() -> None:
    made = made_set()
    assert Counter((item.dictionary, item.kind) for item in made.key.items) == {
        ("student-secret", "simulator-secret"): 4,
        ("student-secret", "sparse-secret"): 4,
        ("sae-secret", ""): 4,
    }
    assert [item.id for item in made.items] == [item.id for item in made.key.items]


def test_latents_without_a_kind_or_with_few_examples_are_left_out() -> None:
    latents = {(item.dictionary, item.latent) for item in made_set(n_per_kind=50).key.items}
    assert ("student-secret", 11) not in latents  # its kind is empty
    assert ("student-secret", 3) not in latents  # it has two examples
    assert len(latents) == 16


def test_the_seed_decides_the_selection_and_the_order() -> None:
    assert made_set() == made_set()
    assert made_set(seed=1).id != made_set().id
    order = [item.dictionary for item in made_set(n_per_kind=50).key.items]
    assert order not in (sorted(order), sorted(order, reverse=True))


@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("scale", [37.0, 1.0, -2.0])
def test_scale_sign_and_number_of_active_tokens_are_hidden(scale: float, density: float, tmp_path: Path) -> None:
    reference = rating_set({"x": {0: top(0, 8)}})
    shown = rating_set({"x": {0: top(0, 8, scale, density)}})
    assert shown.items == reference.items
    page = rating.write_page(tmp_path / "page.html", shown).read_text()
    assert page == rating.write_page(tmp_path / "page.html", reference).read_text()


def test_a_set_of_an_earlier_version_is_read_without_its_activations(tmp_path: Path) -> None:
    made = made_set()
    made.write(tmp_path)
    document = json.loads((tmp_path / "set.json").read_text())
    for item in document["items"]:
        item["examples"] = [[texts, [7] * len(texts), peak] for texts, peak in item["examples"]]
    (tmp_path / "set.json").write_text(json.dumps(document))
    assert rating.RatingSet.read(tmp_path) == made


def test_the_key_keeps_the_maximum() -> None:
    (item,) = rating_set({"x": {7: top(7, 8, 2.0)}}).key.items
    assert (item.latent, item.maximum) == (7, 16.0)


def test_the_page_names_no_dictionary_kind_or_latent(tmp_path: Path) -> None:
    made = made_set()
    page = rating.write_page(tmp_path / "page.html", made).read_text()
    assert "secret" not in page
    for item in made.items:
        assert item.id in page


def test_the_key_of_another_set_is_not_replaced(tmp_path: Path) -> None:
    made_set().write_key(tmp_path)
    made_set().write_key(tmp_path)
    with pytest.raises(FileExistsError, match="have the key of the same set of latents"):
        made_set(seed=1).write_key(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_examples": 9}, "a latent with at least 9 examples, got none"),
        ({"n_per_kind": 0}, "`n_per_kind` must be at least 1"),
        ({"kinds": {"other": []}}, "`kinds` must have names of `examples`, got 'other'"),
        ({"kinds": {"sae-secret": ["a"]}}, r"`kinds\['sae-secret'\]` must have one kind for each latent, got 1 kinds"),
    ],
)
def test_bad_arguments_are_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rating_set(examples(), **{"kinds": KINDS, **options})


def test_records_give_the_same_set_as_their_top_examples() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(20, 8),
        torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.GELU(), torch.nn.Linear(32, 8)),
        torch.nn.Linear(8, 20),
    )
    site = sd.Site(model, "1")
    records = sd.analysis.collect(site, {"neurons": site.neurons}, torch.randint(20, (30, 16)), progress=False)
    tops = {i: records["neurons"].top_examples(i) for i in range(32)}
    assert rating_set(records, min_examples=3) == rating_set({"neurons": tops}, min_examples=3)
    sae = sd.SparseAutoencoder(8, 6, activation=sd.ReLU(), decoder_norm=sd.Free())
    with torch.no_grad():
        sae.decoder[0] = site.neurons.decoder[3]
    types = sd.analysis.latent_types(
        sd.analysis.match_neurons(sae, site.neurons), dead=torch.tensor([False] * 5 + [True])
    )
    assert rating.kinds_of(types)[0] == "simulator"
    assert rating.kinds_of(types)[5] == ""


def test_the_rubric_has_an_example_for_every_grade() -> None:
    assert [grade.grade for grade in rating.RUBRIC] == list(range(5))
    assert all(grade.examples and grade.reason for grade in rating.RUBRIC)
    assert all(text.count("[") == text.count("]") == 1 for grade in rating.RUBRIC for text in grade.examples)


def test_a_page_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=r"`path` must be an HTML file, but .* is a folder. Add the name of a"):
        write_page(tmp_path, made_set())
