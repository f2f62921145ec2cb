from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor

import sparsedict as sd
from sparsedict.analysis import Detection, feature_recovery
from sparsedict.analysis._detection import best_thresholds
from sparsedict.data import SyntheticFeatures
from sparsedict.data.synthetic import TeacherMLP

pytest.importorskip("scipy")
ORTHOGONAL = SyntheticFeatures(8, 6, 1.5, seed=0)
ORTHOGONAL.reads, ORTHOGONAL.writes = torch.eye(8)[:6], torch.eye(8)[[5, 4, 3, 2, 1, 0]]


class Projections:
    """A dictionary whose latents are the projections on its rows above a threshold."""

    def __init__(self, encoder: Tensor, decoder: Tensor, threshold: float = 0.0, reads: str = "outputs") -> None:
        self.encoder, self.decoder_rows, self.threshold = encoder, decoder, threshold
        self.W_dec, self.reads, self.writes = decoder, reads, "outputs"

    def encode(self, x: Tensor) -> Tensor:
        z = x @ self.encoder.T
        return z * (z > self.threshold)

    def decode(self, latents: Tensor) -> Tensor:
        return latents @ self.decoder_rows


def test_the_true_dictionary_recovers_everything_in_any_order_and_scale() -> None:
    order = torch.tensor([2, 0, 5, 1, 4, 3])
    rows = ORTHOGONAL.writes[order]
    found = feature_recovery(Projections(rows, 3 * rows, 0.25), ORTHOGONAL, n_tokens=3000)
    assert found.recovered == 1
    assert torch.equal(order[found.latent], torch.arange(6))
    torch.testing.assert_close(found.cosine, torch.ones(6))
    for part in (found.firing, found.oracle, found.nearest):
        assert (part.mean_precision, part.mean_recall, part.mean_f1) == (1, 1, 1)
    assert found.recovered_null < 0.5
    assert "100.0%" in str(found)


def test_counts_are_those_of_a_dense_reference() -> None:
    truth = SyntheticFeatures(8, 12, 2.0, seed=1)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(16, 8, generator=generator)
    found = feature_recovery(Projections(rows, rows, 0.5), truth, n_tokens=200, seed=7)
    # The tokens are those of the documented seed, drawn in one piece.
    from sparsedict.analysis._feature_recovery import _NULL
    from sparsedict.seeds import generator as keyed

    batch, codes = truth.draw(200, keyed(7, _NULL, 0, 0))
    active = batch.outputs @ rows.T > 0.5
    for feature in range(12):
        latent = int(found.latent[feature])
        hits = int((active[:, latent] & (codes[:, feature] > 0)).sum())
        fired, present = int(active[:, latent].sum()), int((codes[:, feature] > 0).sum())
        assert found.firing.hits[feature] == hits
        assert float(found.firing.precision[feature]) == pytest.approx(hits / max(fired, 1))
        assert float(found.firing.recall[feature]) == pytest.approx(hits / present)
        assert float(found.firing.f1[feature]) == pytest.approx(2 * hits / (fired + present))
    cosines = torch.nn.functional.normalize(rows, dim=1) @ truth.writes.T
    for latent, nearest in enumerate(cosines.argmax(1).tolist()):
        assert found.nearest.hits[latent] == int((active[:, latent] & (codes[:, nearest] > 0)).sum())
    assert float(found.cosine.sum()) >= float(cosines.max(0).values.sum()) - 4
    assert len(set(found.latent.tolist())) == 12


def test_the_assignment_maximises_the_sum() -> None:
    truth = SyntheticFeatures(2, 2, 1.0)
    truth.writes = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    # The first latent is nearest to both features. Greedy assignment would leave the first feature cosine 0.
    rows = torch.tensor([[0.95, math.sqrt(1 - 0.95**2)], [0.0, 1.0]])
    found = feature_recovery(Projections(rows, rows), truth, n_tokens=10)
    assert found.latent.tolist() == [0, 1]
    torch.testing.assert_close(found.cosine, torch.tensor([0.95, 0.6]))
    assert found.recovered == 0.5


def test_features_without_a_latent_count_as_missed_and_signs_matter() -> None:
    found = feature_recovery(Projections(ORTHOGONAL.writes[:2], ORTHOGONAL.writes[:2], 0.25), ORTHOGONAL)
    assert found.recovered == pytest.approx(2 / 6)
    assert found.latent.tolist()[2:] == [-1] * 4
    assert found.firing.mean_recall == pytest.approx(2 / 6)
    assert found.nearest.mean_f1 == 1
    assert found.mean_cosine == 1
    opposite = Projections(ORTHOGONAL.writes, -ORTHOGONAL.writes, 0.25)
    assert feature_recovery(opposite, ORTHOGONAL, n_tokens=50).recovered == 0


@pytest.mark.parametrize("reads", ["inputs", "outputs"])
def test_points_decide_the_directions(reads: str) -> None:
    truth = SyntheticFeatures(16, 8, 1.0, seed=2)
    sae = sd.SparseAutoencoder(16, 8, activation=sd.ReLU(), decoder_norm=sd.UnitNorm(), reads=reads)  # type: ignore[arg-type]
    rows = truth.reads if reads == "inputs" else truth.writes
    with torch.no_grad():
        sae.decoder.copy_(rows)
    assert feature_recovery(sae, truth, n_tokens=100).recovered == 1


def test_a_distiller_is_compared_with_its_teacher() -> None:
    teacher = TeacherMLP(SyntheticFeatures(16, 24, 4.0), 20, d_out=12)
    transcoder = sd.SparseDistiller(16, 12, 20, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    with torch.no_grad():
        transcoder.encoder.copy_(teacher.reads)
        transcoder.encoder_bias.fill_(-teacher.threshold)
        transcoder.decoder.copy_(teacher.writes)
    found = feature_recovery(transcoder, teacher, n_tokens=2000)
    assert found.recovered == 1
    assert found.firing.mean_f1 == 1
    assert found.oracle.mean_f1 > 0.98  # the best threshold of other tokens
    sae = sd.SparseAutoencoder(12, 20, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    assert feature_recovery(sae, teacher, n_tokens=100).oracle.mean_f1 < 0.98
    reading = sd.SparseAutoencoder(16, 20, activation=sd.ReLU(), decoder_norm=sd.UnitNorm(), reads="inputs")
    with pytest.raises(ValueError, match=r"`dictionary` must write the outputs, .* got 'inputs' for a TeacherMLP"):
        feature_recovery(reading, teacher)


def test_thresholds_have_the_best_f1() -> None:
    generator = torch.Generator().manual_seed(0)
    present = torch.rand(60, 9, generator=generator) < 0.3
    scores = (torch.randn(60, 9, generator=generator) + present).mul(4).round()  # with ties
    found = best_thresholds(scores, present)
    f1 = Detection.of(scores > found, present).f1
    for cut in scores.unique():
        for side in (cut - 0.5, cut + 0.5):
            other = Detection.of(scores > side, present)
            assert (f1 >= other.f1 - 1e-12).all()


def test_a_feature_that_never_occurs_is_left_out_of_means() -> None:
    part = Detection(torch.tensor([2, 0, 0]), torch.tensor([4, 3, 0]), torch.tensor([2, 0, 5]))
    assert part.precision.tolist() == [0.5, 0, 0]
    assert part.recall[1].isnan()
    assert part.f1[1].isnan()
    assert (part.mean_precision, part.mean_recall) == (0.25, 0.5)
    assert part.mean_f1 == pytest.approx((2 * 2 / 6 + 0) / 2)


def test_bad_arguments_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(4, 5)
    with pytest.raises(ValueError, match="`dictionary` must write activations of the truth's width, 8, got 5"):
        feature_recovery(Projections(rows, rows), ORTHOGONAL)
    with pytest.raises(TypeError, match="truth"):
        feature_recovery(Projections(rows, rows), rows)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"needs scipy: pip install 'sparsedict\[scores\]'"):
        feature_recovery(Projections(ORTHOGONAL.writes, ORTHOGONAL.writes), ORTHOGONAL)
