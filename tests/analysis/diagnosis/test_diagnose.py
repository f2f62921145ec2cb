from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from benchmarks.advice import KINDS, kept, sample
from torch import Tensor, nn

import sparsedict as sd
from sparsedict.analysis.diagnosis import diagnose
from sparsedict.analysis.diagnosis._dead_causes import dead_causes
from sparsedict.analysis.diagnosis._huge_tokens import huge_tokens
from sparsedict.analysis.diagnosis._point_statistics import linear_share, point_statistics

N = 4096


@pytest.fixture(scope="module")
def batches() -> dict[str, sd.Activations]:
    return {kind: sample(kind, 0, N) for kind in KINDS}


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_statistics_are_those_of_the_definitions() -> None:
    scales = torch.tensor([1.0, 2.0, 3.0, 40.0, 1.0, 1.5], dtype=torch.float64)
    shift = torch.tensor([3.0, 0.0, -4.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    rows = gaussian(500, 6) * scales + shift
    found = point_statistics(rows)
    ordinary = rows.clone()
    ordinary[:, 3] *= rows.std(0).median() / rows[:, 3].std()
    covariance = torch.cov(ordinary.T, correction=0)
    spread = rows.std(0, correction=0)
    assert found.mean_over_spread == pytest.approx(float(rows.mean(0).norm() / spread.norm()))
    assert found.outliers.tolist() == [3]
    assert found.outlier_share == pytest.approx(float(spread[3] ** 2 / spread.square().sum()))
    shares = torch.linalg.eigvalsh(covariance) / covariance.trace()
    assert found.effective_rank == pytest.approx(math.exp(-float((shares * shares.log()).sum())))
    assert point_statistics(rows[:4]).effective_rank <= 3 + 1e-9  # fewer tokens than dimensions
    assert point_statistics(10 * rows).mean_over_spread == pytest.approx(found.mean_over_spread)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_effective_rank_of_equal_directions_is_their_number(rank: int) -> None:
    basis = torch.linalg.qr(gaussian(8, rank, seed=1)).Q
    rows = torch.linalg.qr(gaussian(400, rank) - gaussian(400, rank).mean(0)).Q @ basis.T
    assert point_statistics(rows).effective_rank == pytest.approx(rank, rel=1e-3)


def test_constant_activations_have_no_rank() -> None:
    found = point_statistics(torch.ones(50, 4))
    assert found.mean_over_spread == math.inf
    assert (found.effective_rank, found.outlier_share, found.norm_spread) == (0, 0, 0)
    assert math.isnan(linear_share(torch.ones(50, 4), torch.ones(50, 4)))


def test_the_linear_share_is_measured_on_other_tokens() -> None:
    x, noise = gaussian(4000, 8), gaussian(4000, 5, seed=1)
    linear = x @ gaussian(8, 5, seed=2) + 7
    assert linear_share(x, linear) > 0.999
    assert linear_share(x + 100, linear) > 0.999
    assert abs(linear_share(x, noise)) < 0.01
    half = linear / linear.std() + noise / noise.std()
    assert linear_share(x, half) == pytest.approx(0.5, abs=0.03)
    assert math.isnan(linear_share(x[:31], noise[:31]))


def test_huge_tokens_and_where_they_stand() -> None:
    rows = gaussian(640, 8) + 1000  # a large mean makes no token huge
    positions, tokens = torch.arange(640) % 32, torch.randint(5, 30, (640,), generator=torch.Generator().manual_seed(0))
    tokens[positions == 0] = 1
    rows[positions == 0] += 100
    tokens[[5, 70, 100, 300]], tokens[[7, 8, 9]] = 2, 2
    rows[[5, 70, 100, 300]] += 50
    found = huge_tokens(rows, tokens, positions)
    assert found.n == 24
    assert (found.n_first, found.n_first_seen) == (20, 20)
    assert found.tokens is not None
    assert [(own.token, own.n, own.n_seen) for own in found.tokens] == [(1, 20, 20), (2, 4, 7)]
    assert found.covered == 1
    centre = rows.median(0).values
    distances = (rows - centre).square().sum(1)
    assert found.variance_share == pytest.approx(float(distances[found.mask].sum() / distances.sum()))
    assert huge_tokens(rows[positions != 0][-100:]).n == 0
    assert huge_tokens(torch.ones(20, 3)).n == 0


EXPECTED: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "clean": ({}, None, None),
    "outlier dimensions": ({}, sd.InputRMSNorm(), sd.InputStandardise()),
    "large mean": ({}, None, sd.InputCentre()),
    "huge tokens": ({"exclude_first": 1}, None, None),
    "low rank": ({}, None, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_advice_of_each_kind(kind: str, batches: dict[str, sd.Activations]) -> None:
    advice = diagnose(batches[kind]).advice
    site, autoencoder, distiller = EXPECTED[kind]
    assert dict(advice.site) == site
    assert advice.autoencoder.get("input_norm") == autoencoder
    assert advice.distiller.get("input_norm") == distiller
    # Half of the effective rank: outlier dimensions don't hide the other ones.
    assert advice.k == 3 if kind == "low rank" else 12 <= advice.k <= 16
    changing = {own.subject for own in advice.findings if own.changes}
    assert ("tokens to exclude" in changing) == bool(site)
    assert ("norm of an autoencoder" in changing) == (autoencoder is not None)
    assert ("norm of a distiller" in changing) == (distiller is not None)
    assert all(own.reason for own in advice.findings)


def test_excluding_what_was_advised_leaves_nothing_to_advise(batches: dict[str, sd.Activations]) -> None:
    batch = batches["huge tokens"]
    rest = batch.rows(kept(batch, {"exclude_first": 1}))
    assert not diagnose(rest).advice.site
    # The same tokens without positions are found by id, and without ids by no rule.
    ids = diagnose(sd.Activations(dict(batch), tokens=batch.tokens)).advice
    assert dict(ids.site) == {"exclude_tokens": (0,)}
    bare = diagnose(sd.Activations(dict(batch))).advice
    assert not bare.site
    assert "by hand" in next(own.advice for own in bare.findings if own.subject == "tokens to exclude")


@pytest.mark.parametrize("scale", [1e-3, 1e4])
@pytest.mark.parametrize("kind", KINDS)
def test_advice_does_not_depend_on_the_scale(kind: str, scale: float, batches: dict[str, sd.Activations]) -> None:
    plain, batch = diagnose(batches[kind]), batches[kind]
    scaled = diagnose(batch.map(lambda value: value * scale if value.is_floating_point() else value))
    assert [own.advice for own in plain.advice.findings] == [own.advice for own in scaled.advice.findings]


def test_advised_options_make_dictionaries(batches: dict[str, sd.Activations]) -> None:
    advice = diagnose(batches["outlier dimensions"]).advice
    parts: dict[str, Any] = {"activation": sd.TopK(advice.k), "decoder_norm": sd.UnitNorm()}
    assert sd.SparseDistiller(32, 32, 64, **parts, **advice.distiller).input_norm == sd.InputStandardise()
    assert sd.SparseAutoencoder(32, 64, **parts, **advice.autoencoder).input_norm == sd.InputRMSNorm()


def test_following_the_advice_rescues_a_distiller_from_a_large_mean() -> None:
    batch = sample("large mean", 0, 8000)
    advice = diagnose(batch).advice
    fvu = {}
    for options in ({}, dict(advice.distiller)):
        generator = torch.Generator().manual_seed(0)
        parts: dict[str, Any] = {"activation": sd.TopK(4), "decoder_norm": sd.UnitNorm(), "generator": generator}
        distiller = sd.SparseDistiller(32, 32, 64, **parts, **options)
        sd.fit(distiller, sd.Activations(dict(batch)), n_tokens=16_000, batch_size=128, progress=False)
        with torch.no_grad():
            fvu[bool(options)] = float(sd.metrics.fvu(distiller.eval()(batch.inputs)[1], batch.outputs))
    assert fvu[True] < 0.7 * fvu[False]


def test_a_site_is_measured_with_its_ids_and_positions() -> None:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
    embedding = nn.Embedding(20, 8)
    embedding.weight.data[3] *= 100
    model = nn.Sequential(embedding, mlp)
    tokens = torch.randint(4, 20, (40, 32), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 3
    found = diagnose(sd.Site(model, "1"), tokens)
    assert found.n_tokens == 1280
    assert dict(found.advice.site) == {"exclude_first": 1}
    assert not diagnose(sd.Site(model, "1", exclude_tokens=[3]), tokens).advice.site
    text, page = str(found), found._repr_html_()
    for part in ("mean over spread", "exclude_first=1", "effective rank", "linear in the inputs"):
        assert part in text
        assert part in page
    transcoder = sd.SparseDistiller.from_neurons(sd.Site(model, "1").neurons)
    exact = diagnose(sd.Site(model, "1"), tokens, transcoder)
    assert exact.errors is not None
    assert exact.errors.fvu < 1e-9
    assert diagnose(sd.Site(model, "1"), tokens, n_tokens=100, batch_size=2).n_tokens == 128


def dead_sae() -> tuple[sd.SparseAutoencoder, Tensor]:
    """An autoencoder whose first three latents are dead for three reasons."""
    x = torch.nn.functional.one_hot(torch.arange(400) % 4, 4).float() * (1 + 0.01 * (torch.arange(400) % 7))[:, None]
    sae = sd.SparseAutoencoder(4, 7, activation=sd.TopK(1), decoder_norm=sd.UnitNorm()).eval()
    with torch.no_grad():
        sae.decoder.copy_(torch.cat([torch.eye(4)[:1], torch.ones(2, 4) / 2, torch.eye(4)]))
        sae.encoder.copy_(torch.cat([0.9 * torch.eye(4)[:1], torch.eye(4)[:1], 0.8 * torch.eye(4)[1:2], torch.eye(4)]))
        sae.encoder_bias.copy_(torch.tensor([0.0, -5.0, 0.0, 0, 0, 0, 0]))
        sae.decoder_bias.zero_()
    return sae, x


def test_each_dead_latent_has_its_cause() -> None:
    sae, x = dead_sae()
    found = dead_causes(sae, x)
    assert found.dead.tolist() == [True] * 3 + [False] * 4
    assert found.duplicate.tolist() == [True] + [False] * 6
    assert found.overshot.tolist() == [False, True] + [False] * 5
    assert found.below.tolist() == [False, False, True] + [False] * 4
    assert found.margin[2].item() == pytest.approx(-0.2, abs=0.02)
    assert found.margin[3:].isnan().all()
    whole = diagnose(x.repeat(2, 1), dictionary=sae)
    assert whole.dead is not None
    assert "3 of 7 (42.9%), on 800 tokens" in str(whole)


def test_magnitudes_count_where_they_are_selected() -> None:
    sae, x = dead_sae()
    signed = sd.SparseAutoencoder(4, 7, activation=sd.AbsTopK(1), decoder_norm=sd.UnitNorm()).eval()
    signed.load_state_dict(sae.state_dict())
    with torch.no_grad():
        signed.encoder[3:].neg_()
        signed.encoder_bias[1] = 0
        signed.encoder[1] *= 0.5
    found = dead_causes(signed, x)
    assert found.dead.tolist() == [True] * 3 + [False] * 4
    assert found.margin[2].item() == pytest.approx(-0.2, abs=0.02)


def test_errors_are_shared_among_tokens() -> None:
    sae, x = dead_sae()
    tokens, positions = torch.arange(400) % 4, torch.arange(400) % 8
    broken = x.clone()
    broken[tokens == 2] += 0.5
    found = diagnose(sd.Activations({"outputs": broken}, tokens=tokens, positions=positions), dictionary=sae).errors
    assert found is not None
    assert found.tokens is not None
    assert found.tokens[0].token == 2
    with torch.no_grad():
        errors = (sae(broken)[1] - broken).double().square().sum(1)
    assert found.tokens[0].share == pytest.approx(float(errors[tokens == 2].sum() / errors.sum()))
    assert found.top_share == pytest.approx(float(errors.topk(4).values.sum() / errors.sum()))
    assert found.first_share == pytest.approx(float(errors[positions == 0].sum() / errors.sum()))
    assert found.l0 == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: diagnose(torch.randn(8, 4)), ValueError, "`tokens` must have at least 16 tokens .* got 8"),
        (lambda: diagnose(torch.randn(80, 4), torch.zeros(2, 2)), TypeError, "`tokens` must be omitted"),
        (lambda: diagnose(torch.full((80, 4), torch.nan)), ValueError, "`data` must"),
        (lambda: diagnose(torch.randn(80, 4), n_tokens=0), ValueError, "`n_tokens` must"),
        (
            lambda: diagnose(sd.Site(nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2)), "1")),
            TypeError,
            "`tokens` must",
        ),
        (
            lambda: diagnose({f"{i}.inputs": torch.randn(80, 4) for i in range(3)}),
            ValueError,
            "`data` must be of one site",
        ),
    ],
)
def test_bad_arguments_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
