from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import sparsedict as sd
from sparsedict import metrics
from sparsedict.analysis import LossRecovered, evaluate, firing_frequencies, loss_recovered
from sparsedict.sites import Site

from ._models import Foreign, autoencoder, distiller, tokens


@pytest.mark.parametrize("make", [distiller, autoencoder])
@pytest.mark.parametrize("batch_size", [5, 100])
def test_numbers_are_those_of_the_functions(site: Site, make, batch_size: int) -> None:
    dictionary, batch = make(), site.capture(tokens()).batch()
    found = evaluate(site, dictionary, tokens(), batch_size=batch_size)
    inputs, targets = dictionary.select(batch)
    with torch.no_grad():
        latents, reconstruction = dictionary(inputs)
    assert found.fvu == pytest.approx(metrics.fvu(reconstruction, targets), rel=1e-5)
    assert found.squared_error == pytest.approx(metrics.squared_error(reconstruction, targets), rel=1e-5)
    assert found.l0 == pytest.approx(metrics.l0(latents))
    assert torch.equal(found.dead.mask, firing_frequencies(dictionary, batch).dead.mask)
    assert found.n_tokens == found.dead.n_tokens == batch.n_tokens == 12 * 8
    losses = loss_recovered(site, dictionary, tokens())
    assert found.losses is not None
    assert found.losses.zero == pytest.approx(losses.zero, rel=1e-4)
    assert found.losses.kl == pytest.approx(losses.kl, rel=1e-4)


def test_mlps_own_neurons_are_perfect(site: Site) -> None:
    found = evaluate(site, site.neurons, tokens())
    assert found.fvu == pytest.approx(0, abs=1e-9)
    assert found.losses is not None
    assert found.losses.zero == pytest.approx(1, abs=1e-5)


def test_numbers_that_are_not_known_are_null_and_a_dash(site: Site) -> None:
    found = replace(evaluate(site, distiller(), tokens()), fvu=math.nan, losses=LossRecovered.unknown("none"))
    numbers = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert numbers["fvu"] is numbers["kl"] is numbers["loss_base"] is None
    assert numbers["l0"] == found.l0
    assert "nan" not in str(found)
    assert "nan" not in found._repr_html_()


def test_table_is_aligned_and_the_numbers_are_json(site: Site) -> None:
    found = evaluate(site, distiller(), tokens())
    lines = str(found).splitlines()
    assert [line.split("  ")[0] for line in lines[:6]] == [
        "FVU",
        "L0",
        "never fired",
        "loss recovered, zero",
        "loss recovered, mean",
        "KL to the model",
    ]
    assert "96 tokens" in lines[2]
    end = len("loss recovered, zero") + 2 + max(len(line[20:].split()[0]) for line in lines)
    assert all(line[end - 1].isdigit() for line in lines)
    numbers = found.to_dict()
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["n_dead"] == found.dead.n_dead


def test_site_without_logits_is_reported() -> None:
    torch.manual_seed(0)
    site = Site(nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 4)), reads="0:in", writes="2:out")
    student = sd.SparseDistiller(3, 4, 12, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    found = evaluate(site, student, torch.randn(30, 3))
    assert found.losses is None
    assert found.n_tokens == 30
    assert "no losses: `site.model` must return logits" in str(found)
    assert found.to_dict()["kl"] is None


def test_other_libraries_objects_serve(site: Site) -> None:
    found, expected = (
        evaluate(site, Foreign(distiller()), tokens(), reads="inputs"),
        evaluate(site, distiller(), tokens()),
    )
    assert found.to_dict() == pytest.approx(expected.to_dict(), rel=1e-5)


def test_skip_is_part_of_the_reconstruction(site: Site) -> None:
    student = distiller(skip=True)
    batch = site.capture(tokens()).batch()
    with torch.no_grad():
        expected = metrics.fvu(student(batch.inputs).reconstruction, batch.outputs)
    assert evaluate(site, student, tokens()).fvu == pytest.approx(expected, rel=1e-5)


def test_dictionary_of_another_width_raises(site: Site) -> None:
    student = sd.SparseDistiller(5, 6, 12, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    with pytest.raises(ValueError, match=r"`dictionary.d_in` must equal .*, got 5"):
        evaluate(site, student, tokens())
    seen = site.capture(tokens())
    wide = sd.SparseDistiller(seen.inputs.shape[-1], 77, 12, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    with pytest.raises(ValueError, match=r"`dictionary.d_out` must equal .*, got 77"):
        evaluate(site, wide, tokens())


@pytest.mark.slow
def test_embedded_model_is_evaluated() -> None:
    pytest.importorskip("transformers")
    zoo = pytest.importorskip("sparsedict.zoo")
    site = Site(zoo.load_model(), "transformer.h.1.mlp", exclude_first=1)
    found = evaluate(site, sd.SparseDistiller.from_neurons(site.neurons), zoo.tokens("evaluation", n_tokens=2048))
    assert found.losses is not None
    assert found.losses.zero == pytest.approx(1, abs=1e-4)
    assert found.fvu < 1e-9
    assert found.n_tokens == 8 * 255
