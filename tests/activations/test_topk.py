from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cases
import sparsedict as sd
from sparsedict.selections import Largest


@given(st.integers(0, 5), st.integers(1, 8), st.integers(1, 8), st.booleans(), st.integers(0, 2**20))
def test_at_most_k_are_active_and_they_are_the_largest(
    n_tokens: int, n_latents: int, k: int, training: bool, seed: int
) -> None:
    k = min(k, n_latents)
    pre = torch.randint(-3, 4, (n_tokens, n_latents), generator=torch.Generator().manual_seed(seed)).double()
    activation = sd.TopK(k)
    support = activation.support(pre, {}, training=training)
    values = activation.values(pre[support.tokens, support.latents], {})
    latents = sd.SparseLatents(values, support, torch.Size((n_tokens,))).to_dense()
    active = latents > 0
    assert (active.sum(-1) <= k).all()
    assert (active.sum(-1) == (pre > 0).sum(-1).clamp_max(k)).all()
    assert torch.equal(latents.sort(dim=-1).values[:, -k:], pre.relu().sort(dim=-1).values[:, -k:])
    if not training:
        assert torch.equal(latents, cases._top_k(k)(pre, {}, False))


def test_ties_go_to_the_lowest_index() -> None:
    pre = torch.tensor([[1.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 5.0], [3.0, 3.0, 3.0, 3.0], [-1.0, 4.0, -1.0, 4.0]])
    chosen = Largest(2, lowest_ties=True).support(pre).latents.view(4, 2).sort(dim=-1).values
    assert chosen[[0, 2, 3]].tolist() == [[1, 2], [0, 1], [1, 3]]
    assert 3 in chosen[1].tolist()


def test_a_tie_between_latents_of_a_dictionary_goes_to_the_lowest_index() -> None:
    dictionary = sd.SparseDistiller(2, 2, 6, activation=sd.TopK(3), decoder_norm=sd.UnitNorm())
    with torch.no_grad():
        dictionary.encoder.copy_(torch.tensor([[1.0, 0.0]]).expand(6, 2))
    latents = dictionary.encode(torch.tensor([[2.0, 7.0], [-2.0, 0.0]]))
    assert latents.tolist() == [[2, 2, 2, 0, 0, 0], [0] * 6]


def test_batch_top_k_shares_its_latents_among_the_tokens() -> None:
    dictionary = cases.make("distiller", "batch_top_k").train()
    latents = dictionary.encode(cases.tokens(9))
    counts = (latents > 0).sum(-1)
    assert counts.sum() == 9 * cases.K
    assert counts[0] == 0
    assert counts[1] == cases.N_LATENTS


@pytest.mark.parametrize(("k", "n_tokens", "n_stored"), [(1.5, 9, 14), (1.5, 8, 12), (0.25, 8, 2), (0.1, 3, 1)])
@pytest.mark.parametrize("kind", ["distiller", "cross_layer"])
def test_the_mean_of_batch_top_k_may_be_fractional(kind: str, k: float, n_tokens: int, n_stored: int) -> None:
    dictionary = cases.make(kind, "batch_top_k").with_activation(sd.BatchTopK(k)).train()
    x = cases.tokens(9)[1 : n_tokens + 1] if n_tokens < 9 else cases.tokens(9)
    for _ in range(2):  # without a guess of the threshold, and with one
        latents = dictionary.encode_sparse(x)
        assert len(latents.values) == n_stored
        pre = dictionary.pre_activations(x).flatten().sort(descending=True).values
        torch.testing.assert_close(latents.values.sort(descending=True).values, pre[:n_stored])
        dictionary.activation_state.get_buffer("threshold").copy_(latents.values.detach().min())


def test_a_fractional_mean_is_saved_and_printed(tmp_path: Path) -> None:
    dictionary = cases.make("distiller", "batch_top_k").with_activation(sd.BatchTopK(1.5), {"threshold": 0.5})
    dictionary.save(tmp_path)
    assert sd.load(tmp_path).activation == sd.BatchTopK(1.5)
    assert "BatchTopK(k=1.5" in repr(dictionary)


def test_batch_top_k_after_training_does_not_depend_on_the_batch() -> None:
    dictionary = cases.make("distiller", "batch_top_k")
    x = cases.tokens(9)
    together = dictionary.encode(x)
    torch.testing.assert_close(together, torch.stack([dictionary.encode(row) for row in x]))
    torch.testing.assert_close(together[:4], dictionary.encode(x[:4]))
    assert (together[together > 0] > cases.THRESHOLD).all()


def test_batch_top_k_does_not_guess_its_threshold() -> None:
    dictionary = sd.SparseDistiller(6, 5, 12, activation=sd.BatchTopK(3), decoder_norm=sd.UnitNorm())
    with pytest.raises(
        RuntimeError,
        match=r"The threshold of BatchTopK must be measured.*`fit`.*`dictionary\.activation_state\.threshold`",
    ):
        dictionary.encode(torch.zeros(2, 6))
    dictionary.train().encode(torch.zeros(2, 6))


def test_batch_top_k_follows_the_smallest_latent_kept() -> None:
    activation = sd.BatchTopK(2, momentum=0.75)
    state = activation.initial_state(4)
    assert state["threshold"].isnan()
    for nothing in (torch.tensor([0.0, 0.0]), torch.zeros(0)):
        activation.measure_(nothing, state, step=0)
        assert float(state["threshold"]) == 0
    activation.measure_(torch.tensor([3.0, 2.0, 0.0]), state, step=1000)
    assert float(state["threshold"]) == 2
    activation.measure_(torch.tensor([6.0]), state, step=1001)
    assert float(state["threshold"]) == 0.75 * 2 + 0.25 * 6
    for nothing in (torch.tensor([0.0]), torch.zeros(0)):
        activation.measure_(nothing, state, step=1002)
        assert float(state["threshold"]) == 3


@pytest.mark.parametrize("n_steps", [20, 98, 1000])
def test_the_start_of_a_run_has_no_weight_in_the_threshold(n_steps: int) -> None:
    activation = sd.BatchTopK(2)
    state = activation.initial_state(4)
    for step in range(n_steps):
        activation.measure_(torch.tensor([2.0 if step < n_steps // 2 else 1.0]), state, step=step)
    assert float(state["threshold"]) == pytest.approx(1, rel=0.01)


def test_each_run_measures_the_threshold_anew() -> None:
    activation = sd.BatchTopK(2)
    state = {"threshold": torch.tensor(7.0)}
    activation.measure_(torch.tensor([2.0]), state, step=0)
    assert float(state["threshold"]) == 2


def test_the_threshold_is_that_of_the_weights_after_the_last_step() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=generator)
    dictionary = sd.SparseAutoencoder(
        6, 24, activation=sd.BatchTopK(3), decoder_norm=sd.UnitNorm(), generator=generator
    )
    sd.fit(dictionary, x, n_tokens=64, batch_size=64, lr=0.1, progress=False)
    largest = dictionary.pre_activations(x).relu().flatten().topk(3 * 64).values
    torch.testing.assert_close(dictionary.activation_state.threshold, largest.min().detach())


@pytest.mark.parametrize("n_steps", [1, 2, 5, 20, 98])
def test_a_short_run_gives_a_threshold_under_which_k_latents_fire(n_steps: int) -> None:
    x = sd.data.SyntheticFeatures(d=32, n_features=96, l0=5, seed=0).sample(20_000, seed=1)[0].outputs
    generator = torch.Generator().manual_seed(0)
    dictionary = sd.SparseAutoencoder(
        32, 256, activation=sd.BatchTopK(16), decoder_norm=sd.UnitNorm(), generator=generator
    )
    history = sd.fit(dictionary, x, n_tokens=n_steps * 256, batch_size=256, progress=False)
    assert history.last.l0 == 16
    assert history.last.eval_l0 == pytest.approx(16, rel=0.1)
    assert sd.metrics.l0(dictionary.encode(x)) == pytest.approx(16, rel=0.1)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(
    ("data", "name"),
    # The first two data are checked for every activation. The third takes 128 steps, so it is checked for a few.
    [(data, name) for data in ("zeros", "constant") for name in cases.ACTIVATIONS]
    + [("one token", name) for name in ("relu", "gelu", "batch_top_k", "jump_relu")],
)
def test_data_without_variance_trains_and_is_evaluated(data: str, name: str) -> None:
    x = {"zeros": torch.zeros(256, 6), "constant": torch.ones(256, 6), "one token": torch.linspace(-1, 1, 6)[None]}
    dictionary = sd.SparseAutoencoder(6, 12, activation=cases.ACTIVATIONS[name].activation, decoder_norm=sd.UnitNorm())
    sd.fit(dictionary, x[data], n_tokens=128 if data == "one token" else 256, batch_size=64, progress=False)
    latents, reconstruction = dictionary(x[data])
    assert latents.isfinite().all()
    torch.testing.assert_close(reconstruction, x[data], rtol=0, atol=0.05)


def test_the_threshold_reaches_the_dictionary() -> None:
    dictionary = sd.SparseDistiller(6, 5, 12, activation=sd.BatchTopK(3, momentum=0.0), decoder_norm=sd.UnitNorm())
    x = torch.randn(50, 6)
    out = dictionary.train().forward_pass(x, torch.zeros(50, 5))
    dictionary.activation.measure_(out.values.detach(), dictionary.activation_state.entries(), step=0)
    smallest = out.values[out.values > 0].min()
    assert torch.equal(dictionary.activation_state.threshold, smallest.detach())
    counts = (dictionary.eval().encode(x) > 0).sum()
    assert 50 * 3 - 1 <= counts <= 50 * 3


@pytest.mark.as_installed
@pytest.mark.parametrize("kind", [sd.TopK, sd.BatchTopK])
def test_bad_arguments_are_named(kind: type) -> None:
    with pytest.raises(ValueError, match=r"`k` must lie in \(0\.0, inf\), got 0\."):
        sd.BatchTopK(0)
    with pytest.raises(TypeError, match=r"`k` must be a number, got True"):
        sd.BatchTopK(True)
    with pytest.raises(ValueError, match=r"`k` must be at least 1, got 0\."):
        sd.TopK(0)
    with pytest.raises(TypeError, match=r"`k` must be an integer, got 2\.5 of type float"):
        sd.TopK(2.5)
    with pytest.raises(ValueError, match=r"`k` must be at most `n_latents`, got k=13 for 12 latents\. Lower k"):
        sd.SparseDistiller(6, 5, 12, activation=kind(13), decoder_norm=sd.UnitNorm())
    with pytest.raises(ValueError, match=r"`momentum` must lie in \[0\.0, 1\.0\], got 1\.5"):
        sd.BatchTopK(3, momentum=1.5)
