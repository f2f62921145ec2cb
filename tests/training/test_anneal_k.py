from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch

import cases
import sparsedict as sd

X = torch.randn(1_000, 8, generator=torch.Generator().manual_seed(0))


def autoencoder(activation: sd.Activation) -> sd.SparseAutoencoder:
    generator = torch.Generator().manual_seed(0)
    return sd.SparseAutoencoder(8, 32, activation=activation, decoder_norm=sd.UnitNorm(), generator=generator)


@pytest.mark.parametrize(
    ("activation", "wanted"),
    [
        (sd.TopK(2), [10, 8, 6, 4, 2, 2, 2, 2, 2, 2]),
        (sd.AbsTopK(2), [10, 8, 6, 4, 2, 2, 2, 2, 2, 2]),
        (sd.BatchTopK(2), [10, 8, 6, 4, 2, 2, 2, 2, 2, 2]),
        (sd.BatchTopK(1.5), [10, 8.3, 6.6, 4.9, 3.2, 1.5, 1.5, 1.5, 1.5, 1.5]),
        (sd.TopK(2), [10, 9.2, 8.4, 7.6, 6.8, 6.0, 5.2, 4.4, 3.6, 2.8]),
    ],
)
def test_k_falls_linearly(activation: sd.Activation, wanted: list[float]) -> None:
    until = {8.3: 0.5, 9.2: 1.0}.get(wanted[1], 0.4)
    sae = autoencoder(activation)
    hooks = [sd.AnnealK(start=10, until=until)]
    history = sd.fit(sae, X, n_tokens=1_000, batch_size=100, step_hooks=hooks, log_every=1, progress=False)
    found = history.column("l0")
    tolerance = 0.5 if isinstance(activation, sd.TopK) else 0.01
    assert found == pytest.approx(wanted, abs=tolerance)
    assert sae.activation == activation


def test_records_callbacks_and_saved_dictionaries_have_the_final_k(tmp_path: Path) -> None:
    sae = autoencoder(sd.TopK(2))
    seen = []

    def callback(name: str, record: object, dictionary: sd.Dictionary) -> None:
        dictionary.save(tmp_path / str(len(seen)))
        seen.append(dictionary.activation)

    history = sd.fit(
        sae, X, n_tokens=1_000, batch_size=100, step_hooks=[sd.AnnealK(10, until=1.0)], log_every=1,
        callbacks=[callback], progress=False,
    )  # fmt: skip
    assert seen == [sd.TopK(2)] * 10
    assert all(value <= 2 for value in history.column("eval_l0"))
    assert sd.load(tmp_path / "0").activation == sd.TopK(2)


@pytest.mark.parametrize(("k", "first"), [(2, 4), (20, 32), (1.5, 3.0)])
def test_the_default_start_is_twice_the_final_k_and_at_most_all_latents(k: float, first: float) -> None:
    sae, hook = autoencoder(sd.BatchTopK(k)), sd.AnnealK()
    hook.check(sae)
    with hook.during(sae, step=0, n_steps=100):
        assert sae.activation == sd.BatchTopK(first)
    dictionary = cases.make("cross_layer", "top_k_per_layer")
    final = dictionary.activation
    assert isinstance(final, sd.PerLayer)
    with sd.AnnealK().during(dictionary, step=0, n_steps=100):
        larger = dictionary.activation
        assert isinstance(larger, sd.PerLayer)
        for index, size in enumerate(final.n_latents or ()):
            own, wanted = final.of_layer(index), larger.of_layer(index)
            assert isinstance(own, sd.TopK)
            assert wanted == sd.TopK(min(2 * own.k, size))


def test_an_error_in_a_step_leaves_the_final_k() -> None:
    sae = autoencoder(sd.TopK(2))
    hook = sd.AnnealK(10, until=1.0)
    with suppress(KeyError), hook.during(sae, step=0, n_steps=10):
        assert sae.activation == sd.TopK(10)
        raise KeyError
    assert sae.activation == sd.TopK(2)


def test_an_interrupted_run_is_resumed_with_the_same_result(tmp_path: Path) -> None:
    options = {"batch_size": 100, "n_tokens": 1_000, "step_hooks": [sd.AnnealK(10, until=0.8)], "progress": False}
    whole = autoencoder(sd.BatchTopK(2))
    sd.fit(whole, X, **options)

    def stop(name: str, record: sd.training.Record, dictionary: sd.Dictionary) -> None:
        if record.step == 4:
            raise InterruptedError

    first = autoencoder(sd.BatchTopK(2))
    where = {"checkpoint": tmp_path / "run", "checkpoint_every": 2}
    with pytest.raises(InterruptedError):
        sd.fit(first, X, **options, **where, callbacks=[stop], log_every=1)
    second = autoencoder(sd.BatchTopK(2))
    sd.fit(second, X, **options, **where, resume=True, log_every=1)
    assert torch.equal(second.decoder, whole.decoder)
    assert second.activation == sd.BatchTopK(2)


def test_every_layer_starts_with_the_larger_k() -> None:
    dictionary = cases.make("cross_layer", "top_k_per_layer")
    hook = sd.AnnealK(5)
    hook.check(dictionary)
    with hook.during(dictionary, step=0, n_steps=100):
        latents = dictionary.encode_sparse(cases.tokens(9)[1:2])
        assert latents.offsets[-1] == 10
    assert dictionary.activation == cases.ACTIVATIONS["top_k_per_layer"].activation


def test_several_hooks_are_nested() -> None:
    sae = autoencoder(sd.TopK(2))
    with sd.AnnealK(10).during(sae, step=0, n_steps=10), sd.AnnealK(12).during(sae, step=0, n_steps=10):
        assert sae.activation == sd.TopK(12)
    assert sae.activation == sd.TopK(2)


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"`start` of AnnealK must be at least the final k, 4, .* got 3"):
        sd.Trainee(autoencoder(sd.TopK(4)), step_hooks=[sd.AnnealK(3)])
    with pytest.raises(ValueError, match=r"`start` of AnnealK must be a valid k .*`k` must be at most `n_latents`"):
        sd.Trainee(autoencoder(sd.TopK(4)), step_hooks=[sd.AnnealK(33)])
    with pytest.raises(ValueError, match=r"`start` of AnnealK must be a valid k .*must divide"):
        sd.Trainee(autoencoder(sd.GroupMax(4)), step_hooks=[sd.AnnealK(5)])
    with pytest.raises(ValueError, match=r"`activation` must have a number k for AnnealK.*got ReLU\(\)"):
        sd.Trainee(autoencoder(sd.ReLU()), step_hooks=[sd.AnnealK(5)])
    with pytest.raises(ValueError, match=r"`until` must lie in \[0\.0, 1\.0\], got 2"):
        sd.AnnealK(4, until=2)
