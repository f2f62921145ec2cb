"""Results have short representations, and notebooks show them as tables and pictures."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

import pytest
import torch

import sparsedict as sd
from sparsedict.display import Displayed, described, short


def _dataclasses_with_tensors() -> list[type]:
    """Public dataclasses that have a tensor among their fields."""
    found: dict[str, type] = {}
    for module in pkgutil.iter_modules(sd.__path__, "sparsedict."):
        room = importlib.import_module(module.name)
        for name in getattr(room, "__all__", vars(room)):
            value = getattr(room, name)
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                annotations = [str(field.type) for field in dataclasses.fields(value)]
                if any("Tensor" in text and "Callable" not in text for text in annotations):
                    found[value.__qualname__] = value
    return [found[name] for name in sorted(found) if not name.startswith("_")]


OTHERWISE_SHORT = {"Neurons", "AttributionGraph", "Check"}
"""Classes with a short representation of their own."""


@pytest.mark.parametrize("kind", _dataclasses_with_tensors(), ids=lambda kind: kind.__qualname__)
def test_no_dataclass_prints_the_elements_of_its_tensors(kind: type) -> None:
    if kind.__name__ not in OTHERWISE_SHORT:
        assert issubclass(kind, Displayed)
        assert kind.__repr__ is Displayed.__repr__, "declare the dataclass with repr=False"


def _results() -> dict[str, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(10, 4),
        torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)),
        torch.nn.Linear(4, 10),
    )
    site = sd.Site(model, "1")
    tokens = torch.randint(10, (64, 32))
    sae = sd.SparseAutoencoder(4, 512, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
    data = sd.ActivationStream(site, tokens, batch_size=256)
    history = sd.fit(sae, data, n_tokens=4096, log_every=1, progress=False)
    match = sd.analysis.match_neurons(sae, site.neurons)
    activations = site.capture(tokens)
    return {
        "history": history,
        "evaluation": sd.evaluate(site, sae, tokens),
        "match": match,
        "types": sd.analysis.latent_types(match),
        "firing": sd.analysis.firing_frequencies(sae, data, n_tokens=1024),
        "examples": sd.analysis.top_examples(site, sae, tokens, latents=range(4)),
        "output": sae(activations.batch().outputs),
        "sparse": sae.encode_sparse(activations.batch().outputs),
        "activations": activations,
        "batch": activations.batch(),
        "record": history.last,
        "losses": sd.analysis.loss_recovered(site, sae, tokens),
        "ablated": sd.analysis.ablated_error(sae, data, {"first": torch.arange(512) < 4}, torch.zeros(512)),
    }


def test_results_are_short_in_a_terminal_and_tables_in_a_notebook() -> None:
    for name, result in _results().items():
        assert len(repr(result)) < 1500, name
        assert "tensor(" not in repr(result), name
        if name not in ("output", "examples"):
            assert result._repr_html_().count("<tr>") >= 2, name


def test_the_table_of_an_evaluation_has_its_numbers() -> None:
    evaluation = _results()["evaluation"]
    text = evaluation._repr_html_()
    assert f"{evaluation.fvu:.4f}" in text
    assert "loss recovered, zero" in text


def test_a_long_history_shows_at_most_twenty_records_and_the_last() -> None:
    history = _results()["history"]
    history.records = history.records * 10
    text = history._repr_html_()
    assert text.count("<tr>") <= 21
    assert short(history.last.loss) in text


def test_a_decomposition_has_a_short_repr_and_a_table_in_a_notebook() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(10, 4),
        torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)),
        torch.nn.Linear(4, 10),
    )
    tokens = torch.randint(10, (64, 32))
    found = sd.studies.decompose(
        sd.Site(model, "1"),
        tokens,
        tokens[:8],
        n_latents=32,
        n_tokens=512,
        recipes=sd.studies.recipes(sd.TopK(2)),
        batch_size=256,
        progress=False,
    )
    for result in (found, *found.results.values()):
        assert len(repr(result)) < 700
        assert "\n" not in repr(result)
    page = found._repr_html_()
    assert "distiller=" not in page
    assert all(
        f">{word}</td>" in page
        for word in ("distiller", "autoencoder", f"{found.results['distiller'].evaluation.fvu:.4f}")
    )
    assert "<p>Never fired: those of the 32 latents" in page
    assert "FVU" in found.results["distiller"]._repr_html_()


def test_a_long_object_within_another_is_shown_by_its_class() -> None:
    assert short([torch.nn.Sequential(torch.nn.ReLU())]) == "[Sequential(...)]"
    assert short(["a" * 300]) == f"['{'a' * 300}']"


def test_text_in_a_table_is_escaped() -> None:
    @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    class Named(Displayed):
        name: str

    assert "<script>" not in Named("<script>")._repr_html_()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor([True, False, True]), "bool[3], 2 true"),
        (torch.tensor([1.0, 3.0]), "float32[2], 1 to 3, mean 2"),
        (torch.zeros(0), "float32[0]"),
        (torch.zeros(2, device="meta"), "float32[2]"),
        (torch.arange(3), "int64[3]"),
        ([0.123456, torch.zeros(2)], "[0.1235, float32[2]]"),
        ((1,), "(1,)"),
        (range(10), "range(0, 10)"),
        (list(range(10)), "list of 10"),
        ({"a": torch.zeros(1)}, "{'a': float32[1]}"),
        (torch.Size((2, 3)), "torch.Size([2, 3])"),
    ],
)
def test_values(value: object, expected: str) -> None:
    assert described(value) == expected


def test_own_axes_are_shown_as_a_picture_of_their_figure() -> None:
    match = _results()["match"]
    ax = sd.figures.decoder_similarity(match)
    assert ax._repr_png_().startswith(b"\x89PNG")


def test_axes_of_pyplot_are_left_to_pyplot() -> None:
    from matplotlib.figure import Figure

    given = Figure().subplots()
    assert sd.figures.decoder_similarity(_results()["match"], ax=given) is given


def test_rooms_with_extras_are_imported_at_their_first_use() -> None:
    assert {"figures", "pages", "studies"} <= set(dir(sd))
    assert sd.pages.token_strings
    assert sd.studies.decompose
    with pytest.raises(AttributeError, match="no attribute 'figure'"):
        _ = sd.figure
