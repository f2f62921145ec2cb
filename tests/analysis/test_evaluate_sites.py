"""`evaluate` over several sites."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

import sparsedict as sd
from sparsedict import metrics
from sparsedict.analysis import SitesEvaluation, evaluate
from sparsedict.sites import Site, Sites

from ._models import HIDDEN, VOCABULARY, WIDTH, Foreign, autoencoder, distiller


class TwoLayers(nn.Module):
    """A causal model with two MLPs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)) for _ in range(2)
        )
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(WIDTH, VOCABULARY)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(2)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        for mlp in self.mlps:
            x = x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
            x = x + mlp(x)
        return self.head(self.dropout(x))


class CrossLayer:
    """Two distillers as one dictionary of two layers, the first of which also writes the second layer."""

    reads, writes = ("0.inputs", "1.inputs"), ("0.outputs", "1.outputs")

    def __init__(self) -> None:
        first = _Source(("0.inputs",), self.writes, 2 * WIDTH, 0)
        self.layers = [first, _Source(("1.inputs",), ("1.outputs",), WIDTH, 1)]

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([own.encode(part) for own, part in zip(self.layers, x.split(WIDTH, -1), strict=True)], -1)

    def decode(self, latents: Tensor) -> Tensor:
        first, second = latents.split([own.n_latents for own in self.layers], -1)
        return self.layers[0].decode(first) + nn.functional.pad(self.layers[1].decode(second), (WIDTH, 0))

    def split_sources(self) -> list[Any]:
        return self.layers


class _Source:
    def __init__(self, reads: Any, writes: Any, d_out: int, seed: int) -> None:
        self.reads, self.writes, self.n_latents = reads, writes, 9 + seed
        generator = torch.Generator().manual_seed(seed)
        self.encoder = torch.randn(self.n_latents, WIDTH, generator=generator)
        self.bias = torch.tensor([-100.0] + [0.0] * (self.n_latents - 1))
        self.decoder = torch.randn(self.n_latents, d_out, generator=generator) / 5

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.encoder.T + self.bias).relu()

    def decode(self, latents: Tensor) -> Tensor:
        return latents @ self.decoder


@torch.no_grad()
def tokens() -> Tensor:
    """Text of the model's own, so that its loss rises without its MLPs."""
    generator, model = torch.Generator().manual_seed(1), TwoLayers().eval()
    ids = torch.randint(VOCABULARY, (12, 9), generator=generator)
    for position in range(1, 9):
        logits = 2 * model(ids[:, :position])[:, -1]
        ids[:, position] = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    return ids


@pytest.fixture
def sites() -> Sites:
    return Sites(TwoLayers(), {"0": "mlps.0", "1": "mlps.1"}, exclude_first=1)


def by_hand(sites: Sites, context: Any) -> tuple[float, float]:
    """Loss and divergence of the predictions from positions that count."""
    model, ids = sites["0"].model, tokens()
    model.eval()
    with torch.no_grad():
        base = model(ids)[:, 1:-1]
        with context:
            other = model(ids)[:, 1:-1]
    loss = cross_entropy(other.flatten(0, 1), ids[:, 2:].flatten())
    base, other = log_softmax(base, -1), log_softmax(other, -1)
    return float(loss), float((base.exp() * (base - other)).sum(-1).mean())


@pytest.mark.parametrize("make", [distiller, autoencoder])
def test_each_site_alone_is_evaluated_as_a_site(sites: Sites, make: Any) -> None:
    x = {"0": make(seed=0), "1": make(seed=3)}
    found = evaluate(sites, x, tokens())
    assert list(found.sites) == list(found.dictionaries) == ["0", "1"]
    for name, site in sites.items():
        alone, own = evaluate(site, x[name], tokens()), found.sites[name]
        assert own.fvu == pytest.approx(alone.fvu, rel=1e-5)
        assert own.squared_error == pytest.approx(alone.squared_error, rel=1e-5)
        assert own.l0 == found.dictionaries[name].l0 == pytest.approx(alone.l0)
        assert torch.equal(found.dictionaries[name].dead.mask, alone.dead.mask)
        assert own.losses is not None
        assert alone.losses is not None
        for number in ("base", "replaced", "zero_ablated", "mean_ablated", "kl", "zero", "mean", "n_tokens"):
            expected = getattr(alone.losses, number)
            assert getattr(own.losses, number) == pytest.approx(expected, rel=1e-4, nan_ok=True), number
    assert found.n_tokens == 12 * 8


def test_all_sites_are_replaced_at_once(sites: Sites) -> None:
    x = {"0": distiller(seed=0), "1": distiller(seed=3)}
    found = evaluate(sites, x, tokens()).losses
    assert found is not None
    rows = sites.capture(tokens()).batch()
    means = {name: rows[f"{name}.outputs"].mean(0) for name in sites}
    replaced, kl = by_hand(sites, sites.replaced(x))
    assert found.replaced == pytest.approx(replaced, rel=1e-5)
    assert found.kl == pytest.approx(kl, rel=1e-4)
    assert found.zero_ablated == pytest.approx(by_hand(sites, sites.ablated())[0], rel=1e-5)
    assert found.mean_ablated == pytest.approx(by_hand(sites, sites.ablated(means))[0], rel=1e-5)


def test_own_neurons_recover_all(sites: Sites) -> None:
    found = evaluate(dict(sites), {name: site.neurons for name, site in sites.items()}, tokens())
    assert found.losses is not None
    assert found.losses.replaced == pytest.approx(found.losses.base, abs=1e-5)
    assert found.losses.kl == pytest.approx(0, abs=1e-6)
    assert found.losses.zero == pytest.approx(1, abs=1e-4)
    assert all(own.fvu == pytest.approx(0, abs=1e-9) for own in found.sites.values())


@pytest.mark.parametrize("batch_size", [5, 100])
def test_a_cross_layer_dictionary(sites: Sites, batch_size: int) -> None:
    x = CrossLayer()
    found = evaluate(sites, x, tokens(), batch_size=batch_size)
    rows = sites.capture(tokens()).batch()
    latents = x.encode(torch.cat([rows["0.inputs"], rows["1.inputs"]], -1))
    reconstruction = x.decode(latents).split(WIDTH, -1)
    for name, own in zip(sites, reconstruction, strict=True):
        assert found.sites[name].fvu == pytest.approx(metrics.fvu(own, rows[f"{name}.outputs"]), rel=1e-5)
    assert found.l0 == pytest.approx(metrics.l0(latents))
    assert found.sites["0"].l0 == pytest.approx(metrics.l0(latents[:, :9]))
    assert found.sites["1"].l0 == pytest.approx(metrics.l0(latents[:, 9:]))
    use = found.dictionaries["dictionary"]
    assert "\ndictionary  " in str(found)
    assert "'dictionary'" not in str(found)
    assert torch.equal(use.dead.mask, (latents == 0).all(0))
    assert (use.reads, use.writes) == (x.reads, x.writes)
    assert found.losses is not None
    assert found.losses.replaced == pytest.approx(by_hand(sites, sites.replaced(x))[0], rel=1e-5)
    alone = found.sites["1"].losses
    assert alone is not None
    assert alone.replaced == pytest.approx(by_hand(sites, sites.replaced(x, only=["1"]))[0], rel=1e-5)


def test_latents_count_where_they_read(sites: Sites) -> None:
    x = _Source(("0.inputs",), ("0.outputs", "1.outputs"), 2 * WIDTH, 0)
    found = evaluate(sites, [x], tokens())
    assert found.sites["0"].l0 == pytest.approx(found.dictionaries["0"].l0)
    assert math.isnan(found.sites["1"].l0)
    assert found.to_dict()["sites"]["1"]["l0"] is None


def test_latents_selected_among_all_layers_count_where_they_read(sites: Sites) -> None:
    x = sd.CrossLayerDistiller(sites, {"0": 8, "1": 5}, activation=sd.TopK(6), decoder_norm=sd.UnitNorm())
    found = evaluate(sites, x, tokens())
    latents = x.encode(sites.capture(tokens()).batch().at(x.reads))
    for name in ("0", "1"):
        assert found.sites[name].l0 == pytest.approx(metrics.l0(latents[:, x.latents_of(name)]))
    assert found.sites["0"].l0 + found.sites["1"].l0 == pytest.approx(found.l0)
    assert found.sites["0"].l0 != found.sites["1"].l0


def test_another_libraries_objects(sites: Sites) -> None:
    x = {"0": distiller(seed=0), "1": distiller(seed=3)}
    foreign = {name: Foreign(own) for name, own in x.items()}
    expected, found = evaluate(sites, x, tokens()), evaluate(sites, foreign, tokens(), reads="inputs")
    numbers = (own.to_dict()["sites"]["1"] for own in (found, expected))
    for own, other in zip(*(part.values() for part in numbers), strict=True):
        assert own == (None if other is None else pytest.approx(other, rel=1e-4))


def test_some_sites_only(sites: Sites) -> None:
    found = evaluate(sites, {"1": distiller()}, tokens())
    alone = evaluate(sites["1"], distiller(), tokens())
    assert list(found.sites) == ["1"]
    assert found.losses is found.sites["1"].losses
    assert found.losses is not None
    assert alone.losses is not None
    assert found.losses.replaced == pytest.approx(alone.losses.replaced, rel=1e-5)


def test_modes_come_back_and_tokens_are_counted(sites: Sites) -> None:
    sites["0"].model.train()
    found = evaluate(sites, {"0": distiller()}, tokens(), batch_size=4, n_tokens=30)
    assert found.n_tokens == 32
    assert sites["0"].model.training


def test_representations(sites: Sites) -> None:
    found = evaluate(sites, {"0": distiller(seed=0), "1": distiller(seed=3)}, tokens())
    assert len(repr(found)) < 200
    assert repr(found).startswith("SitesEvaluation(fvu={0: ")
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["site", "0", "1", "all"]
    assert "latents never fired" in str(found)
    assert found._repr_html_().count("<tr>") == len(found.display_rows())
    numbers = found.to_dict()
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert numbers["sites"]["0"]["fvu"] == found.sites["0"].fvu
    assert numbers["dictionaries"]["1"]["n_latents"] == 20
    assert isinstance(found, SitesEvaluation)


def test_a_loss_of_ones_own(sites: Sites) -> None:
    def loss(output: Tensor, _: Any, mask: Tensor) -> Tensor:
        return output.square().mean(-1)[mask]

    x = {"0": distiller(seed=0), "1": distiller(seed=3)}
    found = evaluate(sites, x, tokens(), loss=loss)
    assert found.losses is not None
    assert found.losses.kl is None
    with torch.no_grad(), sites.replaced(x):
        expected = sites["0"].model.eval()(tokens())[:, 1:].square().mean()
    assert found.losses.replaced == pytest.approx(float(expected), rel=1e-5)


def test_models_without_logits_and_sites_of_two_models_say_why_there_are_no_losses() -> None:
    first, second = TwoLayers(), TwoLayers()
    both = Sites({"a": Site(first, "mlps.0"), "b": Site(second, "mlps.1")})
    x = {"a": distiller(seed=0), "b": distiller(seed=3)}
    found = evaluate(both, x, tokens())
    assert found.losses is None
    assert "sites of one model" in str(found)
    assert found.sites["a"].fvu == pytest.approx(evaluate(both["a"], x["a"], tokens()).fvu, rel=1e-5)
    bare = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
    bare_sites = Sites({"0": Site(bare, reads="0:in", writes="0:out"), "1": Site(bare, reads="2:in", writes="2:out")})
    found = evaluate(bare_sites, {"0": distiller(), "1": distiller()}, torch.randn(30, WIDTH))
    assert found.losses is None
    assert found.n_tokens == 30
    assert "must return logits" in str(found)
    assert found.to_dict()["sites"]["0"]["kl"] is None


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({}, "must contain at least one dictionary"),
        ({"2": distiller()}, "names the point 'inputs' without a site"),
        ({"0": sd.SparseDistiller(5, 6, 9, activation=sd.ReLU(), decoder_norm=sd.Free())}, r"\.d_in` must equal"),
        ({"0": sd.SparseDistiller(6, 5, 9, activation=sd.ReLU(), decoder_norm=sd.Free())}, r"\.d_out` must equal"),
        ({"0": Foreign(distiller())}, "`reads` must name the point that a Foreign reads"),
    ],
)
def test_dictionaries_that_do_not_fit_raise(sites: Sites, x: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(sites, x, tokens())
