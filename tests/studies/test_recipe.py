from __future__ import annotations

import json

import pytest
import torch

import sparsedict as sd
from sparsedict.studies import Inspection, recipes


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


@pytest.mark.parametrize("wrong", [{"n_firing_tokens": 0}, {"threshold": 2.0}, {"n_evaluation_tokens": 0}])
def test_inspection_rejects(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must"):
        Inspection(**wrong)
