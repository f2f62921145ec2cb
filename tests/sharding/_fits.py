"""Runs of ``fit`` with sharded latents, which equal those of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import cases as all_cases
import sparsedict as sd
from sparsedict.sharding import Peers

Case = Callable[[Peers], None]

PAIRS = [
    ("autoencoder", "top_k"),
    ("distiller_bias_skip", "batch_top_k"),
    ("autoencoder_own", "jump_relu"),
    ("crosscoder", "abs_top_k"),
    ("cross_layer", "batch_top_k_per_layer"),
    ("cross_layer_skip", "top_k"),
    ("autoencoder_standardised", "relu"),
]


def fits(n_ranks: int) -> Iterator[tuple[str, Case]]:
    """Yields names and cases for a number of ranks."""
    for kind, activation in PAIRS if n_ranks == 2 else PAIRS[:3]:
        yield f"fit {kind} {activation}", partial(_fits, kind, activation, {})
    if n_ranks != 2:
        return
    penalties = {"top_k": sd.AuxK(k=3, dead_after=30), "jump_relu": sd.TargetL0(3.0), "relu": sd.L1(0.01)}
    for activation, penalty in penalties.items():
        yield f"fit {activation} {penalty}", partial(_fits, "autoencoder", activation, {"penalties": [penalty]})
    for options in ({"clip_norm": 0.01}, {"clip_norm": 0.1, "lr": 1e-3}, {"step_hooks": [sd.AnnealK(6, 0.5)]}):
        yield f"fit {options}", partial(_fits, "autoencoder", "top_k", options)
    resample = sd.Resample(every=2, dead_after=16, n_inputs=20)
    for kind, activation, hook in (
        ("autoencoder", "top_1", replace(resample, decoder_rows="errors")),
        ("cross_layer", "jump_relu", resample),
        ("distiller_bias_skip", "gated", resample),
        ("distiller_bias_skip", "top_1", replace(resample, decoder_rows="errors")),
    ):
        yield f"fit {kind} {activation} with {hook}", partial(_fits, kind, activation, {"step_hooks": [hook]})
    yield "fit stops on NaN", _stops


def _data(dictionary: sd.Dictionary) -> Any:
    def draw(width: int, seed: int) -> torch.Tensor:
        return torch.randn(96, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    points = dict.fromkeys((*_names(dictionary.reads), *_names(dictionary.writes)))
    if len(points) == 1:
        return draw(dictionary.d_in, 0)
    if isinstance(dictionary, sd.SparseDistiller):
        return draw(dictionary.d_in, 0), draw(dictionary.d_out, 1)
    if isinstance(dictionary, sd.CrossLayerDistiller):
        layers = enumerate(dictionary.layers)
        return {layer.name: (draw(layer.d_in, i), draw(layer.d_out, i + 5)) for i, layer in layers}
    return {str(i): (draw(w, i + 7), draw(w, i)) for i, w in enumerate(dictionary.point_widths)}


def _names(points: Any) -> tuple[str, ...]:
    return (points,) if isinstance(points, str) else points


def _new(kind: str, activation: str) -> sd.Dictionary:
    own = all_cases.ACTIVATIONS[activation].activation
    return all_cases.KINDS[kind].make(
        activation=own, decoder_norm=sd.UnitNorm(), dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def _fits(kind: str, activation: str, options: dict[str, Any], peers: Peers) -> None:
    found = []
    runs: list[dict[str, Any]] = [{}, {"parallel": sd.ShardedLatents(peers.group)}]
    for parallel in runs:
        dictionary = _new(kind, activation)
        plan: dict[str, Any] = {"n_tokens": 96, "batch_size": 16, "log_every": 2, "dead_after": 30, "progress": False}
        history = sd.fit(dictionary, _data(dictionary), **plan, **options, **parallel)
        assert dictionary.shard is None
        found.append((dictionary, history))
    (whole, expected), (own, actual) = found
    assert own.activation == whole.activation
    for name in ("loss", "objective", "fvu", "l0", "eval_l0", "dead"):
        one, other = (torch.tensor(history.column(name), dtype=torch.float64) for history in (expected, actual))
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10, equal_nan=True), (name, one, other)
    for (name, one), other in zip(whole.state_dict().items(), own.state_dict().values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10, equal_nan=True), name


def _stops(peers: Peers) -> None:
    sae = _new("autoencoder", "top_k")
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    x[48:] = torch.nan
    parallel = sd.ShardedLatents(peers.group)
    try:
        sd.fit(sae, list(x.split(16)), n_tokens=64, log_every=1, progress=False, parallel=parallel)
    except sd.NonFiniteLossError:
        assert sae.shard is None
        assert all(weight.isfinite().all() for weight in sae.parameters())
    else:
        raise AssertionError("the run ended without an error")
