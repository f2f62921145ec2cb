"""Public functions name the argument of a wrong type, also if it is an array, which has no truth value."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sparsedict as sd
from sparsedict.analysis import scores

pytestmark = pytest.mark.as_installed
TOKENS = torch.zeros(2, 4, dtype=torch.long)
ARRAY = np.zeros(3)
NO_ITEMS = torch.zeros(0)


def site() -> sd.Site:
    mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    return sd.Site(nn.Sequential(nn.Embedding(10, 4), mlp, nn.Linear(4, 10)), "1")


def autoencoder(**options: Any) -> sd.SparseAutoencoder:
    return sd.SparseAutoencoder(4, 8, activation=sd.TopK(2), decoder_norm=sd.UnitNorm(), **options)


def stored(folder: Path, **options: Any) -> sd.ActivationStore:
    sd.ActivationStream(site(), TOKENS, batch_size=4).save_to(folder, progress=False)
    return sd.ActivationStore(folder, **options)


def analysed(function: Callable[..., Any], **options: Any) -> Any:
    own = site()
    return function(own, own.neurons, TOKENS, **options)


def collected(**options: Any) -> Any:
    own = site()
    return sd.analysis.collect(own, {"neurons": own.neurons}, TOKENS, **{"progress": False, **options})


def loaded(folder: Path, **options: Any) -> Any:
    autoencoder().save(folder)
    return sd.load(folder, **options)


def gathered(**options: Any) -> Any:
    own = site()
    records = sd.analysis.collect(own, {"neurons": own.neurons}, TOKENS, progress=False)
    return sd.pages.gather(own, {"neurons": own.neurons}, **{"records": records, **options})


def similarity(draw: Callable[..., Any], types: Any) -> Any:
    own = site().neurons
    return draw(sd.analysis.match_neurons(own, own), types)


CALLS: dict[str, tuple[str, list[Any], Callable[[Any, Path], object]]] = {
    "Adapter": ("reads", [ARRAY, [ARRAY]], lambda x, _: sd.Adapter(autoencoder(), x)),
    "evaluate, reads": ("reads", [ARRAY], lambda x, _: analysed(sd.evaluate, reads=x)),
    "evaluate, writes": ("writes", [ARRAY], lambda x, _: analysed(sd.evaluate, writes=x)),
    "evaluate, loss": ("loss", [3, "l2", ARRAY], lambda x, _: analysed(sd.evaluate, loss=x)),
    "loss_recovered": ("loss", [3, "l2", ARRAY], lambda x, _: analysed(sd.analysis.loss_recovered, loss=x)),
    "top_examples, context": ("context", [[], (1, 2, 3)], lambda x, _: analysed(sd.analysis.top_examples, context=x)),
    "top_examples, latents": (
        "latents",
        [object(), "a", {}],
        lambda x, _: analysed(sd.analysis.top_examples, latents=x),
    ),
    "record": ("latents", [object(), "a", {}], lambda x, _: analysed(scores.record, latents=x)),
    "collect, context": ("context", [[], (1, 2, 3)], lambda x, _: collected(context=x)),
    "collect, progress": ("progress", [ARRAY, NO_ITEMS, "no"], lambda x, _: collected(progress=x)),
    "collect, checkpoint": ("checkpoint", [3, object(), ARRAY], lambda x, _: collected(checkpoint=x)),
    "clusters": ("latents", [3, "a", [1], ARRAY], lambda x, _: sd.analysis.clusters(torch.eye(3), latents=x)),
    "latent_types": ("match", [None, "a", [1.0], ARRAY], lambda x, _: sd.analysis.latent_types(x)),
    "ActivationStream, dtype": ("dtype", ["float32", 3], lambda x, _: sd.ActivationStream(site(), TOKENS, dtype=x)),
    "ActivationStream, device": ("device", ["a", ARRAY], lambda x, _: sd.ActivationStream(site(), TOKENS, device=x)),
    "ActivationStream, neurons": ("neurons", [None, 3], lambda x, _: sd.ActivationStream(site(), TOKENS, neurons=x)),
    "save_to": (
        "progress",
        [ARRAY, NO_ITEMS, "no"],
        lambda x, path: sd.ActivationStream(site(), TOKENS, batch_size=4).save_to(path / "store", progress=x),
    ),
    "ActivationStore, dtype": ("dtype", ["float32", 3], lambda x, path: stored(path, dtype=x)),
    "ActivationStore, device": ("device", ["a", ARRAY], lambda x, path: stored(path, device=x)),
    "SparseAutoencoder, device": ("device", ["a", ARRAY], lambda x, _: autoencoder(device=x)),
    "SparseAutoencoder, dtype": ("dtype", ["float32", torch.int64], lambda x, _: autoencoder(dtype=x)),
    "SparseAutoencoder, generator": ("generator", [0, "a", ARRAY], lambda x, _: autoencoder(generator=x)),
    "as_batches": ("parallel", [None, 3], lambda x, _: sd.data.as_batches(torch.zeros(4, 2), parallel=x)),
    "takes_mask": ("model", [None, "gpt2"], lambda x, _: sd.data.takes_mask(x)),
    "fit": (
        "autocast",
        [ARRAY, "bfloat16"],
        lambda x, _: sd.fit(autoencoder(), torch.randn(8, 4), n_tokens=8, autocast=x, progress=False),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_a_wrong_type_raises(name: str, tmp_path: Path) -> None:
    argument, values, call = CALLS[name]
    for number, value in enumerate(values):
        with pytest.raises((TypeError, ValueError), match=rf"^`{argument}` must .*, got "):
            call(value, tmp_path / str(number))


TABLES: dict[str, tuple[str, list[Any], Callable[[Any, Path], object]]] = {
    "Adapter, text": ("dictionary", ["folder"], lambda x, _: sd.Adapter(x, "inputs")),
    "simulator_correlation": (
        "neurons",
        [object(), "neurons"],
        lambda x, _: sd.analysis.simulator_correlation(
            autoencoder(), sd.analysis.match_neurons(torch.eye(4), torch.eye(4)), torch.zeros(8, 4), neurons=x
        ),
    ),
    "Activations": ("points", [object(), [ARRAY], "a"], lambda x, _: sd.Activations(x)),
    "PerLayer": ("n_latents", [3, object()], lambda x, _: sd.PerLayer(sd.TopK(2), n_latents=x)),
    "ActivationStore, verify": ("verify", [NO_ITEMS, "no"], lambda x, path: stored(path, verify=x)),
    "load, latents": ("latents", [3, object()], lambda x, path: loaded(path, latents=x)),
    "load, parts": ("parts", [None, 3, [3]], lambda x, path: loaded(path, parts=x)),
    "load, device": ("device", [NO_ITEMS, "a"], lambda x, path: loaded(path, device=x)),
    "as_prompt": ("tokens", [{}], lambda x, _: sd.circuits.attribute(sd.Sites(site().model, {"0": "1"}), {}, x)),
    "gather, records": ("records", [None, [3], {"neurons": 3}], lambda x, _: gathered(records=x)),
    "gather, scores": ("scores", [3, [3], {"neurons": 3}], lambda x, _: gathered(scores=x)),
    "gather, threshold": ("threshold", [None, "a", 2.0], lambda x, _: gathered(threshold=x)),
    "write, site": ("site", [None, "a"], lambda x, path: sd.pages.write(path, x, {}, TOKENS)),
    "write, title": ("title", [3, object()], lambda x, path: sd.pages.write(path, site(), {}, TOKENS, title=x)),
    "write, progress": ("progress", [NO_ITEMS], lambda x, path: sd.pages.write(path, site(), {}, TOKENS, progress=x)),
    "write_pages, facts": ("facts", [None, [], {"a": 3}], lambda x, path: sd.pages.write_pages(path, x)),
    "write_pages, strings": ("strings", [3, [1]], lambda x, path: sd.pages.write_pages(path, {}, strings=x)),
    "RatingServer": ("rating_set", [None, "a"], lambda x, path: sd.pages.rating.RatingServer(x, path)),
    "rating_set, examples": ("examples", [None, [], {"a": 3}], lambda x, _: sd.pages.rating.rating_set(x)),
    "rating_set, kinds": ("kinds", [3, {"a": 3}], lambda x, _: sd.pages.rating.rating_set({}, kinds=x)),
    "rating_set, strings": ("strings", [3, "a"], lambda x, _: sd.pages.rating.rating_set({}, strings=x)),
    "ablated_errors": ("errors", [None, {}, {0.1: 3}], lambda x, _: sd.figures.ablated_errors(x)),
    "type_shares": ("types", [None, {}, {0.1: 3}], lambda x, _: sd.figures.type_shares(x)),
    "cluster_sizes": ("sizes", [None, {}, {"a": 3}], lambda x, _: sd.figures.cluster_sizes(x)),
    "cosine_map": ("cosines", [None, ARRAY], lambda x, _: sd.figures.cosine_map(x)),
    "activation_scatter": ("neuron", [None, ARRAY], lambda x, _: sd.figures.activation_scatter(x, NO_ITEMS)),
    "training_curves": ("histories", [None, [3], {"a": 3}], lambda x, _: sd.figures.training_curves(x)),
    "decoder_similarity": ("types", [3, "a"], lambda x, _: similarity(sd.figures.decoder_similarity, x)),
    "encoder_similarity": ("types", [3, "a"], lambda x, _: similarity(sd.figures.encoder_similarity, x)),
    "mean_estimate": ("values", [None, [1.0]], lambda x, _: scores.mean_estimate(x)),
    "Affix": ("n", [NO_ITEMS, 1.5, "a"], lambda x, _: scores.Affix(x)),
    "TokensAt": ("offsets", [None, 3, (0.5,)], lambda x, _: scores.TokensAt(x)),
    "Ratings": ("ratings", [None, "a", [3]], lambda x, _: sd.analysis.ratings.Ratings(x)),
    "parse": ("documents", [None, [3]], lambda x, _: sd.analysis.ratings.parse(x)),
    "LazyAdam": ("params", [None, 3], lambda x, _: sd.training.LazyAdam(x)),
    "recipes": ("kinds", [3, [3]], lambda x, _: sd.studies.recipes(kinds=x)),
    "write_sites": ("found", [None, [3]], lambda x, path: sd.studies.write_sites(x, path)),
}


@pytest.mark.parametrize("name", TABLES)
def test_an_argument_that_holds_wrong_objects_raises(name: str, tmp_path: Path) -> None:
    argument, values, call = TABLES[name]
    for number, value in enumerate(values):
        folder = tmp_path / str(number)
        with pytest.raises((TypeError, ValueError), match=rf"^`{argument}\b.*` must .*, got "):
            call(value, folder)
        assert not list(folder.glob("*.html"))


def test_constant_targets_name_the_data() -> None:
    x, dictionary = torch.ones(6, 4), autoencoder()
    ablations = {"all": torch.ones(8, dtype=torch.bool)}
    for call in (sd.calibrate_threshold, partial(sd.analysis.ablated_error, ablations=ablations)):
        with pytest.raises(ValueError, match=r"^`data` must give targets that differ, .* got 6 equal rows"):
            call(dictionary, x)


def test_constant_targets_name_the_tokens() -> None:
    one = site()
    for sites, dictionaries in ((one, one.neurons), (sd.Sites(one.model, {"a": "1"}), {"a": one.neurons})):
        with pytest.raises(ValueError, match=r"^`tokens` must give targets that differ, .* got 8 equal rows"):
            sd.evaluate(sites, dictionaries, TOKENS)
