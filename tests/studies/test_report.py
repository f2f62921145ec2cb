"""What the report's studies compute, on cases whose answer is known."""

from __future__ import annotations

import pytest
import torch

from sparsedict.sites import Neurons
from sparsedict.studies._bench import Bench
from sparsedict.studies.report._first_latents import _rank_correlation
from sparsedict.studies.report._gelu_student import _several
from sparsedict.studies.report._limits import best_choice, best_linear, best_values, own_neurons
from sparsedict.studies.report._parts import modern
from sparsedict.studies.report._ratios import ratio_along
from sparsedict.studies.report._residual_stream import _ages
from sparsedict.studies.report._simulators import _two_humps, n_directions
from sparsedict.studies.report._sparse_decoders import _explained
from sparsedict.studies.report._toy import Toy, run_toy
from sparsedict.types import ActivationBatch

from ._bench import bench_of


@pytest.fixture(scope="module")
def bench() -> Bench:
    return bench_of()


def test_a_narrow_toy_finds_its_neuron() -> None:
    run = run_toy(Toy(d=4, lr=0.03, batch_size=32), 200, seed=0)
    assert run["decoder_end"] > 0.99
    assert run["encoder_end"] > 0.95
    assert run["steps"][-1] == 200


def test_the_toy_is_that_of_its_seed() -> None:
    toy = Toy(d=8)
    assert run_toy(toy, 20, 0) == run_toy(toy, 20, 0) != run_toy(toy, 20, 1)


def test_rank_correlation_knows_order_alone() -> None:
    assert _rank_correlation([1.0, 2.0, 3.0], [1.0, 10.0, 1000.0]) == pytest.approx(1)
    assert _rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    # Ties share their mean rank: ranks 0.5, 0.5, 2 against 0, 1, 2.
    assert _rank_correlation([1.0, 1.0, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(0.8660254)
    assert _rank_correlation([1.0, 1.0], [1.0, 2.0]) is None


def test_two_humps_have_a_valley_between() -> None:
    assert _two_humps({"n_0.4_0.6": 9, "n_0.6_0.8": 2, "n_0.8_1.0": 5})
    assert not _two_humps({"n_0.4_0.6": 9, "n_0.6_0.8": 5, "n_0.8_1.0": 2})


def test_neurons_with_several_simulators_are_counted_among_the_simulated() -> None:
    assert _several({"per_neuron": {"0": 10, "1": 6, "2": 1, "3": 1}}) == pytest.approx(2 / 8)
    assert _several({"per_neuron": {"0": 10}}) == 0


def test_a_sum_of_two_neurons_is_explained_by_two() -> None:
    neurons = torch.eye(6)
    found = _explained(torch.tensor([[3.0, 4.0, 0, 0, 0, 0]]), neurons)
    assert found["1"].item() == pytest.approx(16 / 25, abs=1e-3)
    assert found["2"].item() == pytest.approx(1, abs=1e-3)


def test_ages_follow_unbroken_chains() -> None:
    rows = torch.eye(5)
    # Of the last layer's three latents one was there from the start, one came in the middle, one is new; the fourth
    # direction was in the first layer but not in the second, so its chain is broken.
    live = {0: rows[[0, 3]], 1: rows[[0, 1]], 2: rows[[0, 1, 2, 3]]}
    assert _ages(live, [0, 1, 2]) == {0: 1, 1: 1, 2: 2}


def test_all_neurons_leave_nothing_and_none_leave_everything() -> None:
    generator = torch.Generator().manual_seed(0)
    neurons = Neurons(torch.randn(8, 4, generator=generator), torch.randn(8, 3, generator=generator), torch.relu)
    x = torch.randn(200, 4, generator=generator)
    held = ActivationBatch(x, neurons.decode(neurons.encode(x)))
    assert own_neurons(neurons, held, 8) == pytest.approx(0, abs=1e-6)
    assert 0 < own_neurons(neurons, held, 3) < own_neurons(neurons, held, 1) < 1.2


def test_best_values_are_no_worse_than_the_encoders(bench: Bench) -> None:
    held = bench.held_out("mlp 1")
    for kind in ("distiller", "autoencoder"):
        order = modern(bench, "mlp 1", 12, kind=kind)
        assert best_values(bench.dictionary(order), held, 4) <= bench.error(order).fvu + 1e-4


def test_the_best_choice_finds_the_rows_that_the_target_is_made_of(bench: Bench) -> None:
    dictionary = bench.dictionary(modern(bench, "mlp 1", 12))
    rows = dictionary.decoder.detach()[[2, 7]]
    outputs = dictionary.decoder_bias.detach() + torch.rand(50, 2) @ rows
    made = ActivationBatch(bench.held_out("mlp 1").inputs[:50], outputs)
    assert best_choice(dictionary, made, 12) == pytest.approx(0, abs=1e-3)
    assert best_choice(dictionary, made, 12) < best_choice(dictionary, made, 1) < 1


def test_a_jump_ratio_is_read_off_the_autoencoders_curve() -> None:
    def point(kind: str, l0: float, fvu: float) -> dict[str, object]:
        return {"activation": "JumpReLU", "kind": kind, "asked": 16, "l0": l0, "fvu": fvu}

    curve = [point("autoencoder", 10, 0.4), point("autoencoder", 40, 0.1)]
    assert ratio_along(curve, point("distiller", 10, 0.8)) == pytest.approx(2)
    # Halfway between on logarithmic axes, and beyond the last point along the last piece.
    assert ratio_along(curve, point("distiller", 20, 0.2)) == pytest.approx(1)
    assert ratio_along(curve, point("distiller", 80, 0.05)) == pytest.approx(1)
    assert ratio_along(curve[:1], point("distiller", 20, 0.2)) is None


def test_inputs_vary_in_as_many_directions_as_they_have() -> None:
    x = torch.randn(20_000, 6, generator=torch.Generator().manual_seed(0))
    assert n_directions(x) == pytest.approx(6, rel=0.02)
    x[:, 2:] *= 1e-3
    assert n_directions(x) == pytest.approx(2, rel=0.02)


def test_uneven_inputs_leave_the_encoder_off_and_the_activations_right() -> None:
    even, uneven = (run_toy(Toy(d=100, lr=0.003, unevenness=p), 400, seed=0) for p in (0.0, 2.0))
    assert uneven["correlation"] > 0.98 > abs(uneven["encoder_end"]) + 0.3
    assert even["encoder_end"] == pytest.approx(even["correlation"], abs=0.1)


def test_the_skip_alone_is_the_least_squares_map(bench: Bench) -> None:
    data = bench.sample("mlp 1")
    x = torch.cat([data.inputs, torch.ones(len(data.inputs), 1)], dim=1)
    best = torch.linalg.lstsq(x, data.outputs).solution
    held = bench.held_out("mlp 1")
    wanted = torch.cat([held.inputs, torch.ones(len(held.inputs), 1)], dim=1) @ best
    assert torch.allclose(best_linear(data)(held.inputs).reconstruction, wanted, atol=1e-3)
