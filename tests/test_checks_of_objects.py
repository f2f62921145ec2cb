"""Public functions name the argument that has an object of another class, also if two arguments are exchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsedict as sd
from sparsedict.analysis import ratings, scores

TOKENS = torch.zeros(1, 4, dtype=torch.long)
pytestmark = pytest.mark.as_installed


CALLS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "evaluate": ("site", lambda x: sd.evaluate(x, x, TOKENS)),
    "loss_recovered": ("site", lambda x: sd.analysis.loss_recovered(x, x, TOKENS)),
    "top_examples": ("site", lambda x: sd.analysis.top_examples(x, x, TOKENS)),
    "token_effects": ("site", lambda x: sd.analysis.token_effects(x, x)),
    "collect": ("site", lambda x: sd.analysis.collect(x, {"a": x}, TOKENS)),
    "record": ("site", lambda x: scores.record(x, x, TOKENS)),
    "calibrate_threshold": ("dictionary", lambda x: sd.calibrate_threshold(x, TOKENS)),
    "simulator_correlation": ("match", lambda x: sd.analysis.simulator_correlation(x, x, TOKENS)),
    "rank_correlation": ("ratings", lambda x: ratings.rank_correlation(x, {})),
    "table": ("ratings", lambda x: ratings.table(x)),
    "agreement": ("ratings", lambda x: ratings.agreement(x)),
    "write": ("ratings", lambda x: ratings.write(x, "ratings.json")),
    "find_sites": ("model", lambda x: sd.circuits.find_sites(x)),
    "default_lr": ("dictionary", lambda x: sd.training.default_lr(x)),
    "write_graph": ("graph", lambda x: sd.pages.write_graph("graph", x)),
    "write_page": ("rating_set", lambda x: sd.pages.rating.write_page("page.html", x)),
    "kinds_of": ("types", lambda x: sd.pages.rating.kinds_of(x)),
    "shared_latents": ("match", lambda x: sd.figures.shared_latents(x, ("a", "b"))),
    "decoder_shares": ("shares", lambda x: sd.figures.decoder_shares(x)),
    "firing_frequency": ("firing", lambda x: sd.figures.firing_frequency(x)),
    "decoder_similarity": ("match", lambda x: sd.figures.decoder_similarity(x)),
    "encoder_similarity": ("match", lambda x: sd.figures.encoder_similarity(x)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("value", [None, 3, "site", object()], ids=["None", "3", "text", "object"])
def test_an_object_of_another_class_raises(
    name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argument, call = CALLS[name]
    with pytest.raises(TypeError, match=rf"`{argument}` must be .*, got {type(value).__name__}\."):
        call(value)
    assert not list(tmp_path.iterdir())


WRONG: dict[str, tuple[str, Callable[[Path], object]]] = {
    "token_class": ("`string` must be the text of a token, got int", lambda _: scores.token_class(3)),
    "checksum": ("`tensor` must be a tensor, got list", lambda _: sd.parallel.checksum([1.0])),
    "Terminated": ("`number` must be an integer, got 'SIGTERM'", lambda _: sd.training.Terminated("SIGTERM")),
    "environment": ("`device` must be a device, .*, got 'nowhere'", lambda _: sd.studies.environment("nowhere")),
    "options": (
        "`options` must be a mapping of the options of the run, got int",
        lambda path: sd.studies.RunFolder(path / "run", 3),
    ),
    "values of options": (
        "`options` must contain values that JSON can store, .*: .*Tensor",
        lambda path: sd.studies.RunFolder(path / "run", {"x": TOKENS}),
    ),
    "records": ("`records` must be the records of a dictionary, .*, got Tensor", lambda _: sd.pages.latent(TOKENS, 3)),
}


@pytest.mark.parametrize("name", WRONG)
def test_rare_arguments_are_checked(name: str, tmp_path: Path) -> None:
    message, call = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_dictionary_in_place_of_its_site_raises() -> None:
    mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    site = sd.Site(nn.Sequential(nn.Embedding(10, 4), mlp), "1")
    dictionary = sd.SparseDistiller.from_neurons(site.neurons)
    for call in (sd.evaluate, sd.analysis.loss_recovered, sd.analysis.top_examples, scores.record):
        with pytest.raises(
            TypeError, match=r"`site` must be a site.* `sd\.Site\(model, path\)`, got SparseDistiller\."
        ):
            call(dictionary, site, TOKENS)


def test_an_array_is_no_name() -> None:
    array = torch.zeros(3)
    with pytest.raises(ValueError, match=r"`learns` must be one of 'logarithm', 'threshold', got tensor"):
        sd.JumpReLU(learns=array)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`mix` must be one of 'tokens', 'sequences', got tensor"):
        sd.ActivationStream({}, TOKENS, mix=array)  # pyright: ignore[reportArgumentType]


def test_resuming_without_a_checkpoint_is_an_error() -> None:
    site = sd.Site(sd.zoo.load_model(), "transformer.h.0.mlp")
    x = torch.randn(32, site.d_in)
    sae = sd.SparseAutoencoder(site.d_in, 8, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
    message = "`checkpoint` must be the folder of the run to resume if `resume` is True, got None"
    with pytest.raises(ValueError, match=message):
        sd.analysis.collect(site, {"a": site.neurons}, torch.ones(1, 4).long(), resume=True)
    with pytest.raises(ValueError, match=message):
        sd.fit(sae, x, n_tokens=32, batch_size=16, resume=True)


def test_a_folder_or_a_missing_file_is_named(tmp_path: Path) -> None:
    found = ratings.Ratings((ratings.Rating("anna", "sae", 0, 3),))
    for what, write in (
        ("a JSON file", lambda path: ratings.write(found, path)),
        ("a Parquet file", lambda path: sd.pages.exports.write_parquet(path, {})),
    ):
        with pytest.raises(IsADirectoryError, match=rf"`path` must be {what}, but .* is a folder. Add the name of a"):
            write(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"`path` must be a folder of records that `save` wrote, but .*nowhere"):
        sd.analysis.LatentRecords.load(tmp_path / "nowhere")


def test_scores_that_ask_no_language_model_have_no_plan() -> None:
    text = scores.TokenLatents.from_dense(torch.rand(4, 4, 1), torch.ones(4, 4).long())
    given = scores.LatentScores("mine", torch.ones(1), torch.zeros(1))
    with pytest.raises(TypeError, match=r"`scores` must be scores by a language model, .*, got LatentScores"):
        scores.plan(text, given)  # type: ignore[arg-type]
