"""Crosscoders: which points they read and write, and what a penalty does to latents that all points share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

import sparsedict as sd

PARTS: dict[str, Any] = {"activation": sd.BatchTopK(2), "decoder_norm": sd.UnitNorm()}
D, N_FEATURES, N_WEAK = 16, 24, 12


def shared_features(seed: int, n_tokens: int = 8_192) -> sd.Activations:
    """Returns activations of two models that share all features; half of them are weaker in the second model."""
    generator = torch.Generator().manual_seed(seed)
    base, tuned = (normalize(torch.randn(N_FEATURES, D, generator=generator), dim=-1) for _ in range(2))
    strength = torch.ones(N_FEATURES)
    strength[:N_WEAK] = 0.3
    fires = torch.rand(n_tokens, N_FEATURES, generator=generator) < 2 / N_FEATURES
    codes = torch.rand(n_tokens, N_FEATURES, generator=generator).add(0.5) * fires
    return sd.Activations({"base.outputs": codes @ base, "tuned.outputs": codes @ (tuned * strength[:, None])})


def trained(seed: int, penalties: list[sd.Penalty], **parts: Any) -> sd.analysis.DecoderShares:
    batch = shared_features(seed)
    torch.manual_seed(seed)
    crosscoder = sd.Crosscoder({"base": D, "tuned": D}, 32, **parts)
    sd.fit(crosscoder, batch, n_tokens=60_000, batch_size=256, penalties=penalties, progress=False)
    dead = (crosscoder.encode(crosscoder.select(batch)[0]) > 0).sum(0) == 0
    return sd.analysis.decoder_shares(crosscoder, shared_above=0.4, dead=dead)


def test_l1_makes_shared_latents_look_exclusive_and_batch_top_k_does_not() -> None:
    seed = 0  # `benchmarks.exclusive` measures several
    by_l1 = trained(
        seed, [sd.WarmUp(sd.PointNormWeighted(sd.L1(0.3)), 20)], activation=sd.ReLU(), decoder_norm=sd.Free()
    )
    by_batch = trained(seed, [sd.AuxK(dead_after=4_000)], **PARTS)
    # No feature is exclusive to a model.
    assert len(by_l1.exclusive["base.outputs"]) >= N_WEAK / 2
    assert not any(len(latents) for latents in by_batch.exclusive.values())
    assert len(by_batch.shared) > 20


def test_points_are_named_by_site_and_role() -> None:
    assert sd.Crosscoder({"a": 4, "b": 3}, 8, **PARTS).writes == ("a.outputs", "b.outputs")
    assert sd.Crosscoder({"a": 4, "b": 3}, 8, reads="inputs", **PARTS).reads == ("a.inputs", "b.inputs")
    assert sd.Crosscoder({"0.inputs": 4, "0.outputs": 3}, 8, **PARTS).reads == ("0.inputs", "0.outputs")


def test_the_encoder_adds_up_all_points() -> None:
    crosscoder = sd.Crosscoder({"a": 4, "b": 3}, 8, dtype=torch.float64, **PARTS)
    crosscoder.scale.copy_(torch.tensor([2.0, 5.0]))
    a, b = torch.randn(6, 4).double(), torch.randn(6, 3).double()
    wanted = a / 2 @ crosscoder.encoder[:, :4].T + b / 5 @ crosscoder.encoder[:, 4:].T + crosscoder.encoder_bias
    torch.testing.assert_close(crosscoder.pre_activations(torch.cat([a, b], -1)), wanted)


@pytest.mark.parametrize("scales", [(1e3, 1e-3), (1e-3, 1e3)])
def test_points_of_any_scale_are_learned_alike(scales: tuple[float, float]) -> None:
    batch = shared_features(0, 512).to(dtype=torch.float64)
    parts = {**PARTS, "activation": sd.TopK(2), "dtype": torch.float64}
    scaled = {name: value * scale for (name, value), scale in zip(batch.items(), scales, strict=True)}
    found = []
    for own in (batch, sd.Activations(scaled)):
        torch.manual_seed(0)
        crosscoder = sd.Crosscoder({"base": D, "tuned": D}, 32, **parts)
        inputs, targets = crosscoder.select(own)
        crosscoder.initialise_(inputs, targets)
        found.append(crosscoder.encode(inputs))
    torch.testing.assert_close(found[0], found[1])


def test_norms_of_each_point_hold_after_training() -> None:
    torch.manual_seed(0)
    norm = sd.PerPoint(sd.MaxNorm(0.5))
    crosscoder = sd.Crosscoder({"base": D, "tuned": D}, 32, activation=sd.TopK(2), decoder_norm=norm)
    sd.fit(crosscoder, shared_features(0, 1024), n_tokens=2048, batch_size=256, progress=False)
    assert crosscoder.point_norms().shape == (32, 2)
    assert (crosscoder.point_norms() <= 0.5 + 1e-6).all()
    assert (crosscoder.decoder_norms() > 0.5).any()


def test_the_penalty_of_points_is_a_sum_over_them() -> None:
    torch.manual_seed(0)
    crosscoder = sd.Crosscoder({"a": 4, "b": 3}, 8, activation=sd.ReLU(), decoder_norm=sd.Free()).double().train()
    x = torch.randn(9, 7).double()
    out = crosscoder.forward_pass(x, x)
    latents = crosscoder.encode(x)
    norms = crosscoder.decoder[:, :4].norm(dim=-1) + crosscoder.decoder[:, 4:].norm(dim=-1)
    wanted = 0.3 * (latents * norms).sum(-1).mean()
    penalty = sd.PointNormWeighted(sd.L1(0.3))
    torch.testing.assert_close(penalty(out), wanted)
    gradients = [torch.autograd.grad(value, crosscoder.decoder)[0] for value in (penalty(out), wanted)]
    torch.testing.assert_close(*gradients)


def model(vocabulary: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    mlp = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 6))
    return nn.Sequential(nn.Embedding(vocabulary, 6), mlp, nn.Linear(6, vocabulary))


def test_two_models_are_compared_on_the_same_tokens(tmp_path: Path) -> None:
    sites = sd.Sites({"base": sd.Site(model(20, 0), "1"), "tuned": sd.Site(model(20, 1), "1")})
    tokens = torch.randint(20, (64, 8), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    crosscoder = sd.Crosscoder(sites, 32, activation=sd.TopK(6), decoder_norm=sd.UnitNorm())
    history = sd.fit(crosscoder, sd.ActivationStream(sites, tokens, batch_size=64), n_tokens=6_000, progress=False)
    assert history.last.fvu < 0.3
    found = sd.evaluate(sites, crosscoder, tokens)
    assert found.sites["tuned"].fvu < 0.3
    assert found.losses is None
    assert "one model" in str(found.note)
    crosscoder.save(tmp_path)
    loaded = sd.load(tmp_path)
    inputs: Tensor = crosscoder.select(sites.capture(tokens).batch())[0]
    assert torch.equal(loaded(inputs).reconstruction, crosscoder(inputs).reconstruction)
    some = sd.load(tmp_path, latents=[4, 2])
    torch.testing.assert_close(some.pre_activations(inputs), crosscoder.pre_activations(inputs)[:, [4, 2]])


@pytest.mark.as_installed
def test_models_of_different_vocabularies_are_named() -> None:
    sites = sd.Sites({"base": sd.Site(model(30, 0), "1"), "tuned": sd.Site(model(20, 1), "1")})
    tokens = torch.arange(30).view(5, 6)
    with pytest.raises(ValueError, match=r"`tokens`.*20"):
        sites.capture(tokens)
    crosscoder = sd.Crosscoder(sites, 32, activation=sd.TopK(6), decoder_norm=sd.UnitNorm())
    with pytest.raises(ValueError, match="20"):
        sd.fit(crosscoder, sd.ActivationStream(sites, tokens), n_tokens=64, progress=False)


@pytest.mark.as_installed
def test_bad_points_are_named() -> None:
    with pytest.raises(ValueError, match=r"at least two points, got 1. Use sd.SparseAutoencoder for one"):
        sd.Crosscoder({"a": 4}, 8, **PARTS)
    with pytest.raises(ValueError, match=r"`points` must name each point once, got 'a.outputs' twice"):
        sd.Crosscoder([("a", 4), ("a.outputs", 4)], 8, **PARTS)
    with pytest.raises(TypeError, match="`points` must be `Sites`, a mapping of names to widths"):
        sd.Crosscoder("a", 8, **PARTS)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`points\['a'\]` must be at least 1, got 0"):
        sd.Crosscoder({"a": 0, "b": 4}, 8, **PARTS)
