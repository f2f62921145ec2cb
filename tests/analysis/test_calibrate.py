"""`calibrate_threshold`, which replaces TopK by a threshold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cases
import sparsedict as sd

X = torch.randn(500, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.randn(500, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("activation", ["top_k", "top_1", "group_max", "batch_top_k", "relu"])
@pytest.mark.parametrize("kind", ["autoencoder", "distiller_bias_skip", "autoencoder_layer_norm"])
def test_l0_stays_and_each_latent_fires_above_one_threshold(kind: str, activation: str) -> None:
    given = cases.make(kind, activation)
    for buffer in given.buffers():
        buffer.fill_(0.2)
    found = sd.calibrate_threshold(given, (X, Y) if "distiller" in kind else X)
    before, after = given(X), found.dictionary(X)
    assert found.l0_before == sd.metrics.l0(before.latents)
    assert found.l0 == sd.metrics.l0(after.latents)
    assert abs(found.l0 - found.l0_before) <= 1 / len(X)
    pre = given.pre_activations(X)
    torch.testing.assert_close(after.latents, torch.where(pre > found.threshold, pre, 0.0))
    target = Y if "distiller" in kind else X
    assert found.fvu_before == pytest.approx(sd.metrics.fvu(before.reconstruction, target))
    assert found.fvu == pytest.approx(sd.metrics.fvu(after.reconstruction, target))
    assert found.n_tokens == len(X)


@pytest.mark.parametrize("l0", [0.5, 1.25, 3.0])
def test_l0_may_be_asked_for(l0: float) -> None:
    given = cases.make("autoencoder", "top_k")
    found = sd.calibrate_threshold(given, X, l0=l0)
    assert found.l0 == pytest.approx(l0, abs=1 / len(X))
    assert found.dictionary.activation == sd.BatchTopK(max(1, round(l0)))
    assert found.dictionary.trained_on["calibrated"]["from"] == repr(given.activation)
    assert f"-> {found.l0:.2f}" in str(found)


def test_l0_is_at_most_the_number_of_positive_pre_activations() -> None:
    with pytest.raises(ValueError, match=r"`l0` must be at most .* the mean number of positive pre-activations"):
        sd.calibrate_threshold(cases.make("autoencoder", "top_k"), X, l0=11.99)


@pytest.mark.parametrize("activation", [sd.AbsTopK(4), sd.GELU()], ids=str)
def test_latents_that_may_be_negative_raise(activation: sd.Activation) -> None:
    sae = sd.SparseAutoencoder(8, 32, activation=activation, decoder_norm=sd.UnitNorm())
    with pytest.raises(ValueError, match=r"non-negative latents.*got activation="):
        sd.calibrate_threshold(sae, torch.randn(100, 8), l0=4.0)


def test_tokens_are_limited_and_streams_are_taken() -> None:
    model = sd.zoo.load_model()
    site = sd.Site(model, "transformer.h.1.mlp")
    stream = sd.ActivationStream(site, sd.zoo.tokens("train", n_tokens=4_096), batch_size=512)
    student = sd.SparseDistiller(site.d_in, site.d_out, 256, activation=sd.TopK(8), decoder_norm=sd.UnitNorm())
    sd.fit(student, stream, n_tokens=4_096, progress=False)
    found = sd.calibrate_threshold(student, stream, n_tokens=1_000)
    assert found.n_tokens == 1_000
    assert found.l0 == pytest.approx(found.l0_before, abs=1e-3)
    assert found.fvu < 2 * found.fvu_before


def test_calibrated_dictionaries_can_be_written(tmp_path) -> None:
    given = sd.SparseDistiller(6, 6, 12, activation=sd.TopK(3), decoder_norm=sd.UnitNorm(), dtype=torch.float64)
    made = sd.calibrate_threshold(given, (X, X)).dictionary
    names: dict[str, Any] = {"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    sd.formats.sae_lens.write(made, tmp_path / "a", model_name="gpt2", **names)
    hooks: dict[str, Any] = {"input_hook": "mlp.hook_in", "output_hook": "mlp.hook_out"}
    sd.formats.circuit_tracer.write(made, tmp_path / "b", model="gpt2", **hooks)
    for folder in ("a", "b"):
        torch.testing.assert_close(sd.load(tmp_path / folder)(X), made(X))
