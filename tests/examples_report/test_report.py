"""The computations of the studies, on cases with known results."""

from __future__ import annotations

import pytest
import torch

from examples.report.estimates import measured
from examples.report.experiment import Experiment
from examples.report.studies.equal_sparsity import _jump_ratios
from examples.report.studies.first_latents import FirstLatents
from examples.report.studies.gelu_student import Sum
from examples.report.studies.l1_sweep import _at_equal_l0
from examples.report.studies.limits import best_choice, best_linear, best_values, own_neurons
from examples.report.studies.loss_by_layer import _ends
from examples.report.studies.parts import autoencoder, modern
from examples.report.studies.ratings import by_kind, rating_set_of
from examples.report.studies.ratios import read_off
from examples.report.studies.reading import rank_correlation, token_share
from examples.report.studies.rule_grades import graded
from examples.report.studies.simulators import LOWER, MIDDLE, UPPER, NeuronSimulators, humps, n_directions
from examples.report.studies.sparse_decoders import _by, _explained
from examples.report.studies.toy import Toy, run_toy
from examples.report.studies.uneven_inputs import FLAT, _flattened, _principal_axes
from sparsedict import GELU, L1, MaxNorm, SparseDistiller, fit
from sparsedict.analysis import Example, TopExamples, match_neurons
from sparsedict.analysis.scores import TokenLatents
from sparsedict.batches import ActivationBatch
from sparsedict.sites import Neurons

from ._experiment import experiment_of


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return experiment_of()


def test_a_narrow_toy_finds_its_neuron() -> None:
    run = run_toy(Toy(d=4, lr=0.03, batch_size=32), 200, seed=0)
    assert run["decoder_end"] > 0.99
    assert run["encoder_end"] > 0.95
    assert run["steps"][-1] == 200


def test_the_toy_is_that_of_its_seed() -> None:
    toy = Toy(d=8)
    assert run_toy(toy, 20, 0) == run_toy(toy, 20, 0) != run_toy(toy, 20, 1)


def test_rank_correlation_knows_order_alone() -> None:
    assert rank_correlation([1.0, 2.0, 3.0], [1.0, 10.0, 1000.0]) == pytest.approx(1)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    # Ties share their mean rank: ranks 0.5, 0.5, 2 against 0, 1, 2.
    assert rank_correlation([1.0, 1.0, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(0.8660254)
    assert rank_correlation([1.0, 1.0], [1.0, 2.0]) is None


def test_live_latents_are_counted_by_their_cosine() -> None:
    neurons = torch.eye(4)
    angles = torch.tensor([0.5, 0.55, 0.7, 0.9, 1.0])
    rows = torch.stack([angles, (1 - angles**2).sqrt() / 2**0.5, (1 - angles**2).sqrt() / 2**0.5, angles * 0], 1)
    dead = torch.tensor([False, False, False, True, False])
    assert list(humps(match_neurons(rows, neurons), dead).values()) == [1, 2, 1]


def test_differences_between_humps_decide_their_clauses() -> None:
    numbers = {"layers": [1], "measured": measured([{f"layer 1: {LOWER}": 9, f"layer 1: {MIDDLE}": 2,
                                                     f"layer 1: {UPPER}": 5 + seed} for seed in range(3)])}  # fmt: skip
    results = [judgement.result for judgement in NeuronSimulators().judge(numbers)]
    assert results == ["holds", "holds", "not measured", "not measured", "not measured"]


def test_a_sum_of_two_neurons_is_explained_by_two() -> None:
    neurons = torch.eye(6)
    found = _explained(torch.tensor([[3.0, 4.0, 0, 0, 0, 0]]), neurons)
    assert found[_by(1)].item() == pytest.approx(16 / 25, abs=1e-3)
    assert found[_by(2)].item() == pytest.approx(1, abs=1e-3)


def test_all_neurons_leave_nothing_and_none_leave_everything() -> None:
    generator = torch.Generator().manual_seed(0)
    neurons = Neurons(torch.randn(8, 4, generator=generator), torch.randn(8, 3, generator=generator), torch.relu)
    x = torch.randn(200, 4, generator=generator)
    held = ActivationBatch(x, neurons.decode(neurons.encode(x)))
    assert own_neurons(neurons, held, 8) == pytest.approx(0, abs=1e-6)
    assert 0 < own_neurons(neurons, held, 3) < own_neurons(neurons, held, 1) < 1.2


def test_best_values_are_no_worse_than_the_encoders(experiment: Experiment) -> None:
    held = experiment.held_out("mlp 1")
    for kind in ("distiller", "autoencoder"):
        spec = modern(experiment, "mlp 1", 12, kind=kind)
        assert best_values(experiment.dictionary(spec), held, 4) <= experiment.error(spec).fvu + 1e-4


def test_the_best_choice_finds_the_rows_that_the_target_is_made_of(experiment: Experiment) -> None:
    dictionary = experiment.dictionary(modern(experiment, "mlp 1", 12))
    rows = dictionary.decoder.detach()[[2, 7]]
    outputs = dictionary.decoder_bias.detach() + torch.rand(50, 2) @ rows
    made = ActivationBatch(experiment.held_out("mlp 1").inputs[:50], outputs)
    assert best_choice(dictionary, made, 12) == pytest.approx(0, abs=1e-3)
    assert best_choice(dictionary, made, 12) < best_choice(dictionary, made, 1) < 1


def test_a_jump_ratio_is_read_off_the_autoencoders_curve() -> None:
    def numbers(kind: str, n: int, l0: float, fvu: float) -> dict[str, float | None]:
        return {f"JumpReLU {n}, {kind}: L0": l0, f"JumpReLU {n}, {kind}: FVU": fvu}

    curve = numbers("autoencoder", 16, 10, 0.4) | numbers("autoencoder", 32, 40, 0.1)
    # At a point of the curve, and halfway between the two on logarithmic axes.
    found = _jump_ratios(curve | numbers("distiller", 16, 10, 0.8) | numbers("distiller", 32, 20, 0.2), [16, 32])
    assert found["JumpReLU 16: ratio"] == pytest.approx(2)
    assert found["JumpReLU 32: ratio"] == pytest.approx(1)


def test_inputs_vary_in_as_many_directions_as_they_have() -> None:
    x = torch.randn(20_000, 6, generator=torch.Generator().manual_seed(0))
    assert n_directions(x) == pytest.approx(6, rel=0.02)
    x[:, 2:] *= 1e-3
    assert n_directions(x) == pytest.approx(2, rel=0.02)


def test_uneven_inputs_leave_the_encoder_off_and_the_activations_right() -> None:
    even, uneven = (run_toy(Toy(d=100, lr=0.003, unevenness=p), 400, seed=0) for p in (0.0, 2.0))
    assert uneven["correlation"] > 0.98 > abs(uneven["encoder_end"]) + 0.3
    assert even["encoder_end"] == pytest.approx(even["correlation"], abs=0.1)


def test_the_skip_alone_is_the_least_squares_map(experiment: Experiment) -> None:
    data = experiment.sample("mlp 1")
    x = torch.cat([data.inputs, torch.ones(len(data.inputs), 1)], dim=1)
    best = torch.linalg.lstsq(x, data.outputs).solution
    held = experiment.held_out("mlp 1")
    wanted = torch.cat([held.inputs, torch.ones(len(held.inputs), 1)], dim=1) @ best
    assert torch.allclose(best_linear(data)(held.inputs).reconstruction, wanted, atol=1e-3)


def test_read_off_is_exact_at_the_points_and_sorted_by_l0() -> None:
    curve = [(64.0, 1.0), (16.0, 4.0), (0.0, 9.0)]
    assert read_off(curve, 16) == pytest.approx(4)
    assert read_off(curve, 32) == pytest.approx(2)
    assert read_off(curve, 0) is None
    part: dict[str, float | None] = {"autoencoder: L0": 32, "autoencoder: squared error": 1.0}
    for c, (l0, error) in enumerate(curve):
        part |= {f"coefficient {c}: L0": l0, f"coefficient {c}: squared error": error}
    assert _at_equal_l0(part, [0, 1, 2]) == pytest.approx(2)


def test_losses_are_measured_at_the_main_coefficient_and_at_a_strong_one() -> None:
    assert _ends((0.05, 0.1, 0.4, 1.0, 2.5, 6.0), 0.4) == (0.4, 2.5)
    assert _ends((0.1, 1.0), 0.1) == (0.1, 1.0)


def test_the_plain_sum_counts_negative_values() -> None:
    found = {}
    inputs = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
    for penalty in (Sum(1.0), L1(1.0)):
        generator = torch.Generator().manual_seed(0)
        student = SparseDistiller(4, 4, 8, activation=GELU(), decoder_norm=MaxNorm(1.0), generator=generator)
        pair = (inputs, torch.zeros_like(inputs))
        fit(student, pair, n_tokens=20_000, batch_size=64, lr=0.05, penalties=[penalty], progress=False)
        found[type(penalty)] = float(student.encode(inputs).detach().mean())
    # GELU's least value is -0.17, at -0.75.
    assert found[Sum] < -0.1 < -0.02 < found[L1]


def test_the_square_root_penalty_is_tame_near_zero(experiment: Experiment) -> None:
    (penalty,) = autoencoder(experiment, 1).penalties
    deviation = experiment.variance("mlp 1") ** 0.5
    assert 0.01 * deviation < penalty.eps < 0.02 * deviation  # pyright: ignore[reportAttributeAccessIssue]


def test_flat_inputs_vary_along_the_strong_axes_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4_000, 4, generator=generator) * torch.tensor([1.0, 4.0, 2.0, 3.0]) + 5.0
    neurons = Neurons(torch.randn(8, 4, generator=generator), torch.randn(8, 3, generator=generator), torch.relu)
    axes = _principal_axes(x)
    assert axes[:, 0].abs().argmax() == 1
    flat = _flattened(ActivationBatch(x, torch.zeros(len(x), 3)), x.mean(0), axes[:, 2:], neurons)
    before, after = torch.cov((x @ axes).T).diag().sqrt(), torch.cov((flat.inputs @ axes).T).diag().sqrt()
    assert torch.allclose(after / before, torch.tensor([1.0, 1.0, FLAT, FLAT]), atol=1e-3)
    assert torch.allclose(flat.outputs, neurons.decode(neurons.encode(flat.inputs)), atol=1e-5)


def test_one_token_explains_its_share_of_the_examples() -> None:
    def examples(*tokens: int) -> TopExamples:
        window = tuple(Example(torch.tensor([0, t]), torch.tensor([0.0, 1.0]), 1, i, 1) for i, t in enumerate(tokens))
        return TopExamples(0, window, 100)

    assert token_share(examples(7, 7, 7, 8, 9)) == pytest.approx(0.6)
    assert token_share(examples(7, 7)) is None


def first_latents(given: object = None) -> dict:
    def latent(index: int, simulator: bool, top: float) -> dict:
        facts = {"n_fired": 3, "n_tokens": 10, "share": None, "examples": []}
        return {"latent": index, "simulator": simulator, "max": top, **facts}

    of = {
        "student": [latent(0, True, 1.0), latent(1, False, 2.0), latent(2, False, 3.0)],
        "autoencoder": [latent(0, False, 1.0)],
    }
    return {"layer": 0, "of": of, "strings": {}, **({} if given is None else {"given": given})}


def rating_file(grades: dict[str, dict[int, object]], rater: str = "anna") -> dict:
    """The contents of a file of ratings by its name."""
    rows = [
        {"dictionary": name, "latent": latent, "kind": "", "maximum": None, "grade": grade, "time": ""}
        for name, given in grades.items()
        for latent, grade in given.items()
    ]
    document = {"format": "sparsedict-ratings", "version": 1, "rater": rater, "set": "", "ratings": rows}
    return {f"ratings-{rater}.json": document}


def test_two_raters_are_averaged_and_their_agreement_is_shown() -> None:
    given = rating_file({"student": {0: 1, 1: 2, 2: 3}}) | rating_file({"student": {0: 2, 1: 2, 2: "skip"}}, "ben")
    here = {row.what: row.here for row in FirstLatents().found(first_latents(given)).rows}
    assert here["mean rating from 0 to 4, simulators"] == "1.500 of 1"
    assert here["mean rating from 0 to 4, sparse latents"] == "2.500 ± 0.980 of 2"
    assert here["agreement of anna and ben: quadratically weighted kappa"].endswith("2 latents")


def test_blind_ratings_are_assigned_to_their_latents() -> None:
    numbers = first_latents()
    example = {"tokens": [1, 2], "activations": [0.0, 1.0], "peak": 1, "sequence": 0, "position": 1}
    for latents in numbers["of"].values():
        for latent in latents:
            latent["examples"] = [example]
    key = rating_set_of(numbers).key
    assert sorted((item.dictionary, item.latent) for item in key.items) == [("autoencoder", 0)] + [
        ("student", i) for i in range(3)
    ]
    rows = [{"id": item.id, "grade": item.latent, "time": ""} for item in key.items]
    document = {"format": "sparsedict-ratings", "version": 1, "rater": "anna", "set": key.set, "ratings": rows}
    found = by_kind({**numbers, "given": {"ratings-anna.json": document}})
    assert [latent["rating"] for latent in found["sparse latents"]] == [1, 2]
    assert "first-latents-rate.html" in FirstLatents().found(numbers).files
    with pytest.raises(ValueError, match="belongs to the set 'other'"):
        by_kind({**numbers, "given": {"ratings-anna.json": {**document, "set": "other"}}})


def test_ratings_fill_the_table_where_there_are_some() -> None:
    assert FirstLatents().found(first_latents()).verdict == "not measured"
    given = {"student": {0: 1, 1: 2, 2: 3}, "autoencoder": {0: 4}}
    found = FirstLatents().found(first_latents(rating_file(given)))
    here = {row.what: row.here for row in found.rows}
    assert here["mean rating from 0 to 4, simulators"] == "1.000 of 1"
    assert here["mean rating from 0 to 4, sparse latents"] == "2.500 ± 0.980 of 2"
    assert here["larger maximum, higher rating: rank correlation, the student's"] == "1.00"
    assert "table-01-ratings" in found.drawings
    assert FirstLatents().found(first_latents(rating_file({"student": {0: 1}}))).verdict == "not measured"


def rated(simulators: float, sparse: float, autoencoder: float, *, rising: bool) -> dict:
    """Numbers of thirty rated latents of each kind, whose ratings rise or fall with their maxima."""
    n = 30
    latents = [
        first_latents()["of"]["student"][0] | {"latent": i, "simulator": i < n, "max": i % n} for i in range(2 * n)
    ]

    def grade(mean: float, i: int) -> int:
        """Grades around a mean, from one below to one above."""
        return round(mean + (1 if rising else -1) * (2 * (i % n) / (n - 1) - 1))

    given = {
        "student": {i: grade(simulators if i < n else sparse, i) for i in range(2 * n)},
        "autoencoder": {i: grade(autoencoder, i) for i in range(n)},
    }
    of = {"student": latents, "autoencoder": [latent | {"simulator": False} for latent in latents[:n]]}
    return {"layer": 0, "of": of, "strings": {}, "given": rating_file(given)}


def test_each_clause_about_ratings_follows_the_ratings() -> None:
    def results(*means: float, rising: bool = True) -> list[str]:
        return [judgement.result for judgement in FirstLatents().judge(rated(*means, rising=rising))]

    yes, no = "holds", "doesn't hold"
    assert results(1, 2, 3) == [yes, yes, yes, yes]
    assert results(2, 1, 3)[:2] == [no, yes]
    assert results(1, 3, 2)[:2] == [yes, no]
    assert results(1, 1.001, 3)[0] == "can't tell"
    assert results(1.5, 1.6, 3, rising=False)[3] == no
    assert FirstLatents().found(rated(1, 2, 3, rising=True)).verdict == "seen"
    assert FirstLatents().found(rated(3, 2, 1, rising=False)).verdict == "not seen"


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ratings.json": [1]}, r"ratings\.json must be a JSON object with `format`"),
        ({"ratings.json": {"student": {"0": 3}}}, r"ratings\.json must be a JSON object with `format`"),
        (rating_file({"other": {0: 1}}), "`ratings` must be of the latents on the page"),
        (rating_file({"student": {9: 1}}), "got latent 9 of 'student' by 'anna'"),
        (rating_file({"student": {0: 5}}), r"ratings-anna\.json, rating 0: `grade` must be an integer from 0 to 4"),
    ],
)
def test_ratings_of_missing_latents_raise(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FirstLatents().found(first_latents(given))


def test_rules_grade_a_clear_latent_higher_than_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(10, (40, 32), generator=generator)
    noise = (torch.rand(tokens.shape, generator=generator) < 0.1).float()
    silent = torch.zeros(tokens.shape)
    dense = torch.stack([2.0 * (tokens == 3), noise, silent], -1)
    found = graded(TokenLatents.from_dense(dense, tokens))
    assert found["max"] == [2.0, 1.0]  # The silent latent has no grade.
    assert found["grade"] == [4.0, 0.0]
    assert found["F1"][0] == 1.0


def test_a_kind_without_latents_has_no_grade() -> None:
    tokens = torch.zeros(8, 4, dtype=torch.long)
    assert graded(TokenLatents.from_dense(torch.zeros(8, 4, 0), tokens)) == {"max": [], "F1": [], "grade": []}
