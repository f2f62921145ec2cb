from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import sparsedict as sd
from sparsedict.data import SyntheticFeatures
from sparsedict.studies import KINDS, Inspection, recipes, recommended_options


def test_settings_fit_into_json() -> None:
    assert set(json.loads(json.dumps(Inspection().to_dict()))) == set(Inspection.__dataclass_fields__)


def test_the_recipes_make_both_kinds_of_a_site() -> None:
    site = sd.Site(torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 3)), "1")
    made = recipes(sd.TopK(2), skip=True, lr=0.5)
    distiller = made["distiller"].trainee(site, 8)
    autoencoder = made["autoencoder"].trainee(site, 8)
    assert isinstance(distiller.dictionary, sd.SparseDistiller)
    assert distiller.dictionary.arguments()["skip"] is True
    assert isinstance(autoencoder.dictionary, sd.SparseAutoencoder)
    assert (distiller.lr, autoencoder.dictionary.d_in) == (0.5, 3)
    assert distiller.dictionary.activation == sd.TopK(2)
    assert distiller.step_hooks == recipes()["distiller"].options["step_hooks"]
    assert distiller.dictionary.arguments()["input_norm"] == sd.InputCentre()


@pytest.mark.parametrize("activation", [sd.TopK(2), sd.BatchTopK(1.5), sd.AbsTopK(2), sd.ReLU(), sd.JumpReLU()])
def test_the_defaults_suit_every_activation_and_a_narrow_dictionary(activation: sd.Activation) -> None:
    site = sd.Site(torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4)), "1")
    made = recipes(activation)["distiller"].trainee(site, 3)  # twice the k would be more than all latents
    if activation.elementwise:
        assert made.optimizer is None
    else:
        assert made.optimizer is not None
        optimizer = made.optimizer([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
        assert isinstance(optimizer, sd.training.LazyAdam)
        assert optimizer.defaults["betas"] == (0.9, 0.98)
    sd.fit_many({"": made}, (torch.randn(256, 4), torch.randn(256, 4)), n_tokens=256, batch_size=64, progress=False)


@pytest.mark.parametrize("activation", [sd.TopK(2), sd.ReLU()])
@pytest.mark.parametrize("kind", list(KINDS))
def test_recommended_options_are_those_of_the_recipes(kind: str, activation: sd.Activation) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    sites = sd.Sites(model, {"a": "1", "b": "2"})
    recipe = recipes(activation, kinds=[kind])[kind]
    own = (sites, {"a": 8, "b": 8}) if KINDS[kind].is_joint else (sites["a"], 8)
    options = recommended_options(recipe.make(*own))
    assert recipe.options.keys() == options.keys()
    for name, value in options.items():
        assert repr(value) == repr(recipe.options[name])
    sd.Trainee(recipe.make(*own), **options)


def test_options_replace_defaults() -> None:
    made = recipes(penalties=(), optimizer=torch.optim.SGD)["autoencoder"].options
    assert (made["penalties"], made["optimizer"]) == ((), torch.optim.SGD)
    assert made["step_hooks"] == recipes()["autoencoder"].options["step_hooks"]


class Kill(sd.training.StepHook):
    """Makes the first quarter of the latents unable to fire, once."""

    def __call__(self, out: sd.ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        if out.step == 20:
            with torch.no_grad():
                out.dictionary.encoder[:24] *= -1e-3
                out.dictionary.encoder_bias[:24] = -100.0


@pytest.mark.parametrize("kind", ["distiller", "autoencoder"])
def test_the_default_recipe_revives_latents_that_were_killed(kind: str) -> None:
    batch = SyntheticFeatures(16, 64, 4.0, seed=0).sample(40_000, seed=1)[0]
    site: Any = sd.Site(torch.nn.Sequential(torch.nn.Embedding(9, 16), torch.nn.Linear(16, 16)), "1")
    recipe = recipes(sd.BatchTopK(4))[kind]
    n_dead = {}
    # Latents that nothing revives are dead after few steps.
    for revives, n_tokens in ((False, 80_000), (True, 400_000)):
        options = dict(recipe.options)
        options["step_hooks"] = [Kill(), *(options["step_hooks"] if revives else ())]
        if not revives:
            del options["penalties"]
        dictionary = recipe.make(site, 96, generator=torch.Generator().manual_seed(0))
        data = batch.outputs if kind == "autoencoder" else (batch.inputs, batch.outputs)
        sd.fit(dictionary, data, n_tokens=n_tokens, batch_size=1024, progress=False, **options)
        n_dead[revives] = int(sd.analysis.dead_latents(dictionary, batch).mask.sum())
    assert n_dead[False] >= 20
    assert n_dead[True] <= 1


@pytest.mark.parametrize("wrong", [{"n_firing_tokens": 0}, {"threshold": 2.0}, {"n_evaluation_tokens": 0}])
def test_inspection_rejects(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must"):
        Inspection(**wrong)
