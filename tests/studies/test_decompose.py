from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from sparsedict import L1, ActivationStream, ReLU, Site, SparseAutoencoder, SparseDistiller, TopK, UnitNorm
from sparsedict.analysis import firing_frequencies
from sparsedict.studies import Decomposition, decompose_sites, recipes
from sparsedict.training import Recipe

from .conftest import INSPECTION, model_of, run


def test_trains_and_measures_both_kinds(taken: Decomposition) -> None:
    assert list(taken.results) == ["distiller", "autoencoder"]
    kinds = [type(result.dictionary) for result in taken.results.values()]
    assert kinds == [SparseDistiller, SparseAutoencoder]
    for result in taken.results.values():
        assert result.history.n_tokens == 640
        assert result.firing.n_tokens == 304  # 300 in whole sequences of 16
        assert result.evaluation.losses is not None
        assert result.types is not None
        assert torch.equal(result.types.dead, result.firing.dead.mask)  # pyright: ignore[reportArgumentType]
        assert result.dictionary.trained_on["site"] == "1"
        assert result.dictionary.trained_on["n_tokens"] == 640
        assert not result.dictionary.training


def test_firing_matches_the_counts_of_the_analysis(taken: Decomposition, site: Site, tokens: torch.Tensor) -> None:
    for result in taken.results.values():
        alone = firing_frequencies(result.dictionary, ActivationStream(site, tokens[40:59]), n_tokens=304)
        assert torch.equal(alone.counts, result.firing.counts)


def test_pages_and_results_agree_on_the_latents_that_never_fired(taken: Decomposition) -> None:
    assert taken.latents is not None
    for kind, result in taken.results.items():
        facts = taken.latents[kind]
        assert facts.types.count("never fired") == result.firing.dead.n_dead
        assert result.types is not None
        assert facts.types.count("simulator") == result.types.n_simulators


def test_the_same_seed_gives_the_same_results(taken: Decomposition, site: Site, tokens: torch.Tensor) -> None:
    again, other = run(site, tokens), run(site, tokens, seed=1)
    for name, result in taken.results.items():
        assert torch.equal(result.dictionary.decoder, again.results[name].dictionary.decoder)
        assert not torch.equal(result.dictionary.decoder, other.results[name].dictionary.decoder)


def test_one_kind_alone(site: Site, tokens: torch.Tensor) -> None:
    assert list(run(site, tokens, recipes=recipes(TopK(4), kinds=["autoencoder"])).results) == ["autoencoder"]


def test_an_mlp_with_unknown_neurons_is_decomposed(tokens: torch.Tensor) -> None:
    model = model_of()
    model[1] = torch.nn.Bilinear(6, 6, 6)  # pyright: ignore[reportIndexIssue]
    model[1].forward = lambda x: torch.sin(x)  # pyright: ignore[reportIndexIssue]
    taken = run(Site(model, "1"), tokens)
    result = taken.results["distiller"]
    assert (result.match, result.types) == (None, None)
    assert taken.note
    assert "Simulators are unknown" in str(taken)
    assert result.cells()["simulators"] == "-"


@pytest.mark.as_installed
@pytest.mark.parametrize("kinds", [[], ["coder"], ["distiller", "distiller"]])
def test_rejects_unknown_kinds(kinds: list[str]) -> None:
    with pytest.raises(ValueError, match=r"`kinds` must contain one or more of 'distiller', 'autoencoder'") as caught:
        recipes(kinds=kinds)
    assert repr(kinds) in str(caught.value)


def test_a_recipe_of_the_users_own(site: Site, tokens: torch.Tensor) -> None:
    def inputs(site: Site, n_latents: int, **place: Any) -> SparseAutoencoder:
        return SparseAutoencoder(
            site.d_in, n_latents, activation=ReLU(), decoder_norm=UnitNorm(), reads="inputs", **place
        )

    own = {**recipes(TopK(4), kinds=["distiller"]), "of-inputs": Recipe(inputs, penalties=[L1(0.1)], clip_norm=1.0)}
    taken = run(site, tokens, recipes=own, dead_after=200)
    assert list(taken.results) == ["distiller", "of-inputs"]
    assert taken.results["of-inputs"].dictionary.reads == "inputs"
    used = taken.settings["recipe"]
    assert used["activation"] == {"distiller": "TopK(k=4)", "of-inputs": "ReLU()"}
    assert used["clip_norm"] == {"distiller": None, "of-inputs": 1.0}
    assert used["schedule"]["distiller"].startswith("Linear(")
    assert used["schedule"]["of-inputs"].startswith("Cosine(")
    assert json.loads(json.dumps(used)) == used


@pytest.mark.as_installed
def test_rejects_recipes_that_are_none(site: Site, tokens: torch.Tensor) -> None:
    for wrong, error, words in (
        ({}, ValueError, "`recipes` must contain at least one"),
        ({"a/b": Recipe(SparseAutoencoder)}, ValueError, "valid folder names"),
        ({"a": SparseAutoencoder}, TypeError, r"`recipes\['a'\]` must be a Recipe"),
    ):
        with pytest.raises(error, match=words):
            run(site, tokens, recipes=wrong)


def test_sites_may_have_one_width_or_one_each(site: Site, tokens: torch.Tensor) -> None:
    for given, widths in ((8, [8, 8]), ({"a": 8, "b": 12}, [8, 12])):
        found = decompose_sites(
            {"a": site, "b": site},
            tokens[:40],
            tokens[40:],
            n_latents=given,  # pyright: ignore[reportArgumentType]
            n_tokens=128,
            recipes=recipes(TopK(2), kinds=["autoencoder"]),
            batch_size=64,
            inspection=INSPECTION,
            progress=False,
        )
        assert [taken.results["autoencoder"].dictionary.n_latents for taken in found.values()] == widths


@pytest.mark.parametrize("held_out", [torch.rand(2, 3), torch.zeros(0, 3, dtype=torch.int64), torch.arange(5)])
def test_rejects_held_out_tokens_that_are_no_rows(held_out: torch.Tensor, site: Site) -> None:
    with pytest.raises(ValueError, match=r"`held_out_tokens` must be integer ids"):
        run(site, torch.cat([torch.zeros(40, *held_out.shape[1:]).to(held_out), held_out]))
