from __future__ import annotations

from itertools import islice
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sparsedict as sd
from sparsedict.data import synthetic
from sparsedict.data.synthetic import (
    Correlated,
    Equal,
    FixedCount,
    Hierarchy,
    Independent,
    Normal,
    PowerLaw,
    SyntheticFeatures,
    SyntheticLayers,
    TeacherMLP,
    Uniform,
)

N = 20_000
COFIRING = [Independent(), Correlated(rank=3, scale=0.4), FixedCount()]


def drawn(part: synthetic.Cofiring, probabilities: Tensor, n: int = N) -> Tensor:
    return part.draw(probabilities, n, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("frequencies", [Equal(), PowerLaw(0.6), PowerLaw(1.5), PowerLaw(0.5, ratio=800)])
def test_probabilities_add_up_and_follow_the_weights_below_one(frequencies: synthetic.Frequencies) -> None:
    for l0 in (0.5, 8.0, 63.0):
        found = frequencies.probabilities(64, l0)
        assert found.sum().item() == pytest.approx(l0)
        assert float(found.max()) <= 1 + 1e-12
        below = found < 1
        ratio = found[below] / frequencies.weights(64)[below]
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_a_power_law_and_its_ratio() -> None:
    found = PowerLaw(0.6).weights(1000)
    torch.testing.assert_close(found.log(), -0.6 * torch.arange(1, 1001).double().log())
    shifted = PowerLaw(0.5, ratio=800).weights(1000)
    assert float(shifted[0] / shifted[-1]) == pytest.approx(800)
    assert float((shifted[1] - shifted[-1]) / (shifted[0] - shifted[-1])) == pytest.approx(
        (1 / sqrt(2) - 1 / sqrt(1000)) / (1 - 1 / sqrt(1000))
    )


@pytest.mark.parametrize("part", [Independent(), Correlated(rank=3, scale=0.4)], ids=str)
def test_each_feature_has_its_probability(part: synthetic.Cofiring) -> None:
    probabilities = torch.tensor([0.9, 0.5, 0.1, 0.02], dtype=torch.float64)
    error = 4 * (probabilities * (1 - probabilities) / N).sqrt()
    assert ((drawn(part, probabilities).double().mean(0) - probabilities).abs() < error).all()


def test_correlations_are_those_of_the_factors() -> None:
    part, probabilities = Correlated(rank=2, scale=0.6, seed=3), torch.full((12,), 0.5, dtype=torch.float64)
    active = drawn(part, probabilities).double()
    rows = part.factors(12).double()
    # At a probability of 1/2, indicators of Gaussian variables correlate by 2/pi arcsin of their correlation.
    expected = 2 / torch.pi * torch.asin((rows @ rows.T).clamp(-1, 1))
    off_diagonal = ~torch.eye(12, dtype=torch.bool)
    torch.testing.assert_close(active.T.corrcoef()[off_diagonal], expected[off_diagonal], atol=0.035, rtol=0)
    assert float(expected[off_diagonal].abs().max()) > 0.3
    independent = drawn(Independent(), probabilities).double().T.corrcoef()
    assert float(independent[off_diagonal].abs().max()) < 0.035


def test_a_fixed_count_prefers_frequent_features() -> None:
    probabilities = PowerLaw(1.0).probabilities(20, 3.0)
    active = drawn(FixedCount(), probabilities)
    assert (active.sum(1) == 3).all()
    frequency = active.double().mean(0)
    assert (frequency.diff() < 0.02).all()
    assert float(frequency[0]) > 3 * float(frequency[-1])
    one = drawn(FixedCount(), probabilities / 3).double().mean(0)
    torch.testing.assert_close(one, probabilities / 3, atol=0.015, rtol=0)


def test_strengths_have_the_stated_means_and_spreads() -> None:
    features, generator = torch.arange(4).repeat(N), torch.Generator().manual_seed(0)
    uniform = Uniform(1.0, 3.0).draw(features, 4, generator).view(-1, 4)
    assert float(uniform.min()) >= 1
    assert float(uniform.max()) < 3
    torch.testing.assert_close(uniform.mean(0), Uniform(1.0, 3.0).means(4), atol=0.02, rtol=0)
    part = Normal(5.0, 4.0, std=0.5, std_spread=0.2, seed=1)
    normal = part.draw(features, 4, generator).view(-1, 4)
    torch.testing.assert_close(normal.mean(0), torch.tensor([5.0, 4 + 2 / 3, 4 + 1 / 3, 4.0]), atol=0.03, rtol=0)
    torch.testing.assert_close(normal.std(0), part.stds(4), atol=0.03, rtol=0)
    assert part.stds(4).unique().numel() == 4
    assert float(Normal(0.1, std=5.0).draw(features, 4, generator).min()) == 0


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
def test_a_child_needs_its_parent(exclusive: bool, scaled: bool) -> None:
    tree = Hierarchy(2, 3, 2, exclusive=exclusive, scaled=scaled, compensated=False)
    truth = SyntheticFeatures(8, 30, 15.0, hierarchy=tree)
    codes = truth.sample(4000)[1]
    parents = tree.parents(30)
    assert tree.starts == (0, 2, 8, 26)
    own = (parents >= 0).nonzero().flatten()
    assert own.tolist() == list(range(2, 26))
    assert parents[[2, 5, 8, 25]].tolist() == [0, 1, 2, 7]
    children, of = codes[:, own], codes[:, parents[own]]
    assert not (children[of == 0] != 0).any()
    siblings = (children > 0).view(len(codes), -1, 3).sum(-1)
    assert int(siblings.max()) == (1 if exclusive else 3)
    # A child's strength is its own draw of 0.5 to 1.5, times that of its parent if it is scaled.
    ratio = children[children > 0] / (of[children > 0] if scaled else 1)
    assert float(ratio.min()) >= 0.5 - 1e-6
    assert float(ratio.max()) <= 1.5 + 1e-6


def test_siblings_have_equal_chances_and_compensation_restores_frequencies() -> None:
    probabilities = torch.tensor([0.5, 0.02, 0.02, 0.02, 0.02], dtype=torch.float64)
    tree = Hierarchy(1, 4)
    raised = tree.compensate(probabilities)
    torch.testing.assert_close(raised[1:], torch.full((4,), 0.04 * 1.12, dtype=torch.float64))
    truth = SyntheticFeatures(4, 5, float(probabilities.sum()), hierarchy=tree, frequencies=PowerLaw(0.0))
    truth.probabilities = raised
    frequency = (truth.sample(100_000)[1] > 0).double().mean(0)
    # The factor treats the active siblings as if they shared the token equally, which isn't exact.
    assert ((frequency - probabilities).abs() < 4 * (probabilities / 100_000).sqrt() + 0.01 * probabilities).all()
    assert Hierarchy(1, 4, compensated=False).compensate(probabilities) is probabilities


def test_activations_in_float64_are_exact_sums() -> None:
    parts = {"hierarchy": Hierarchy(3, 2, 2), "cofiring": Correlated(4, 0.3), "magnitudes": Normal(2.0, 1.0)}
    settings = {"frequencies": PowerLaw(0.4), "bias_norm": 2.0, "seed": 3, **parts}
    truth = SyntheticFeatures(8, 64, 5.0, dtype=torch.float64, **settings)
    batch, codes = truth.sample(500, seed=4)
    assert codes.dtype == batch.inputs.dtype == torch.float64
    for point, rows, bias in zip((batch.inputs, batch.outputs), (truth.reads, truth.writes), truth.bias, strict=True):
        dense = torch.stack([sum(c * row for c, row in zip(code, rows, strict=True)) + bias for code in codes[:20]])
        torch.testing.assert_close(point[:20], dense, atol=1e-14, rtol=1e-14)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(64, dtype=torch.float64), atol=1e-15, rtol=0)
    torch.testing.assert_close(truth.bias.norm(dim=1), torch.full((2,), 2.0, dtype=torch.float64))
    single, single_codes = SyntheticFeatures(8, 64, 5.0, **settings).sample(500, seed=4)
    assert torch.equal(single_codes > 0, codes > 0)
    torch.testing.assert_close(single.outputs.double(), batch.outputs, atol=2e-6, rtol=0)


def test_the_published_setting_has_the_published_sparsity() -> None:
    truth = synthetic.synth_sae_bench_16k()
    parents = truth.hierarchy.parents(16_384) if truth.hierarchy else torch.empty(0)
    before = truth.frequencies.probabilities(16_384, truth.l0)
    assert float(before[0]) == pytest.approx(0.4)
    assert float(before[-1]) == pytest.approx(5e-4)
    assert int((parents >= 0).sum()) == 128 * (4 + 16 + 64)
    active = truth.sample(256)[1] > 0
    # Published: about 34, and about 25 among the 4,096 most frequent features.
    assert float(active.sum(1).float().mean()) == pytest.approx(34, abs=1.5)
    assert float(active[:, :4096].sum(1).float().mean()) == pytest.approx(25, abs=1.5)


def test_a_teacher_computes_its_features() -> None:
    inputs = SyntheticFeatures(24, 40, 6.0, noise=0.05, dtype=torch.float64)
    teacher = TeacherMLP(inputs, 32, n_parents=2, d_out=20, seed=1)
    batch, strengths = teacher.sample(2000, seed=2)
    assert torch.equal(teacher.reads, inputs.reads[teacher.parents].sum(1))
    assert all(len(set(pair)) == 2 for pair in teacher.parents.tolist())
    torch.testing.assert_close(batch.outputs, strengths @ teacher.writes, atol=1e-13, rtol=0)
    torch.testing.assert_close(teacher.module()(batch.inputs), batch.outputs, atol=1e-12, rtol=0)
    site = sd.Site(torch.nn.Sequential(teacher.module()), "0")
    assert (site.d_in, site.d_out) == (24, 20)
    # Most activity comes from both parents.
    codes = inputs.draw(2000, torch.Generator().manual_seed(2))[1]
    both = (codes[:, teacher.parents] > 0).all(-1)
    assert float(strengths[both].mean()) > 10 * float(strengths[~both].mean())


TRUTHS = [
    SyntheticFeatures(8, 16, 2.0, frequencies=PowerLaw(0.6), noise=0.1),
    TeacherMLP(SyntheticFeatures(8, 16, 4.0), 12),
    SyntheticLayers(8, 4),
]


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda truth: type(truth).__name__)
def test_a_stream_depends_on_its_seed_alone(truth: synthetic.Truth) -> None:
    def rows(**options: int) -> Tensor:
        batches = synthetic.stream(truth, **{"n_tokens": 5000, **options})
        return torch.cat([torch.cat(list(batch.values()), dim=1) for batch in batches])

    once = rows(batch_size=512)
    assert once.shape[0] == 5000
    assert torch.equal(once, rows(batch_size=100))
    assert not torch.equal(once, rows(seed=1))
    assert len(once.unique(dim=0)) > 2400  # both chunks differ; a token without features repeats
    data = synthetic.stream(truth, n_tokens=5000, batch_size=1000)
    assert data.n_batches == 5
    assert not torch.equal(next(data.epoch(0))[truth.points[0]], next(data.epoch(1))[truth.points[0]])


class Failing:
    """A truth whose fourth chunk fails."""

    points = TRUTHS[0].points

    def __init__(self, n_good: int) -> None:
        self.n_left = n_good

    def __repr__(self) -> str:
        return repr(TRUTHS[0])

    def sample(self, n_tokens: int, seed: int = 0) -> tuple[sd.Activations, Tensor]:
        return TRUTHS[0].sample(n_tokens, seed)

    def draw(self, n_tokens: int, generator: torch.Generator) -> tuple[sd.Activations, Tensor]:
        self.n_left -= 1
        if self.n_left < 0:
            raise ConnectionError
        return TRUTHS[0].draw(n_tokens, generator)


def test_a_run_on_a_stream_resumes_bit_for_bit(tmp_path: Path) -> None:
    def run(truth: synthetic.Truth, **options: Any) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        sae = sd.SparseAutoencoder(8, 16, activation=sd.TopK(2), decoder_norm=sd.UnitNorm(), generator=generator)
        data = synthetic.stream(truth, batch_size=256, n_tokens=6000)
        sd.fit(sae, data, n_tokens=16_000, progress=False, **options)
        return sae.decoder.detach()

    checkpoints: dict[str, Any] = {"checkpoint": tmp_path / "run", "checkpoint_every": 5}
    with pytest.raises(ConnectionError):
        run(Failing(3), **checkpoints)
    assert torch.equal(run(TRUTHS[0], **checkpoints, resume=True), run(TRUTHS[0]))
    other = SyntheticFeatures(8, 16, 2.0, seed=1, frequencies=PowerLaw(0.6), noise=0.1)
    with pytest.raises(ValueError, match=r"`data` was .*seed=0.* and is .*seed=1"):
        run(other, **checkpoints, resume=True)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PowerLaw(-1.0), ValueError, r"`exponent` must .* -1"),
        (lambda: PowerLaw(0.0, ratio=5.0).weights(4), ValueError, r"`ratio` must be 1 or None"),
        (lambda: Uniform(2.0, 1.0), ValueError, r"`high` must .* 1"),
        (lambda: Correlated(0), ValueError, r"`rank` must .* 0"),
        (lambda: Hierarchy(2, 0), ValueError, r"`n_children` must .* 0"),
        (lambda: SyntheticFeatures(4, 8, 1, hierarchy=Hierarchy(3, 3)), ValueError, r"`hierarchy` must .* 12 of 8"),
        (lambda: SyntheticFeatures(4, 8, 1, frequencies=Equal), TypeError, "frequencies"),
        (lambda: SyntheticFeatures(4, 8, 1, dtype=torch.int64), ValueError, r"`dtype` must .* torch.int64"),
        (
            lambda: TeacherMLP(SyntheticFeatures(4, 2, 1), 3, n_parents=3),
            ValueError,
            r"`n_parents` must .* 2, .* got 3",
        ),
        (lambda: synthetic.stream(torch.zeros(3, 4)), TypeError, "truth"),
        (lambda: synthetic.stream(TRUTHS[0], n_tokens=0), ValueError, r"`n_tokens` must .* 0"),
    ],
)
def test_a_bad_part_is_named(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]


def test_a_stream_works_where_data_does() -> None:
    truth = TRUTHS[0]
    data = synthetic.stream(truth, batch_size=128, n_tokens=512)
    sae = sd.SparseAutoencoder(8, 16, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
    assert sd.analysis.firing_frequencies(sae, data).n_tokens == 512
    assert len(list(islice(data, 3))) == 3
    state = data.state_dict()
    later = synthetic.stream(truth, batch_size=128, n_tokens=512)
    later.load_state_dict(state)
    assert torch.equal(next(iter(later)).inputs, list(data)[3].inputs)
