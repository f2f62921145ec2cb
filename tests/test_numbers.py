"""Numbers of NumPy and PyTorch serve wherever a number is asked for, and are stored as plain ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparsedict as sd
from sparsedict.data import SyntheticFeatures, as_batches
from sparsedict.training import LazyAdam

pytestmark = pytest.mark.as_installed

D, N_LATENTS = 8, 16
X = SyntheticFeatures(D, 20, 2.0, seed=0).sample(256, 1)[0].outputs

PARTS: dict[str, Callable[[Any, Any], Any]] = {
    "TopK": lambda i, f: sd.TopK(i(4)),
    "AbsTopK": lambda i, f: sd.AbsTopK(i(4)),
    "GroupMax": lambda i, f: sd.GroupMax(i(4)),
    "BatchTopK": lambda i, f: sd.BatchTopK(i(4), f(0.5)),
    "JumpReLU": lambda i, f: sd.JumpReLU(f(0.5), f(0.25)),
    "MaxNorm": lambda i, f: sd.MaxNorm(f(0.5)),
    "InputScale": lambda i, f: sd.InputScale(f(0.5)),
    "InputLayerNorm": lambda i, f: sd.InputLayerNorm(f(0.5)),
    "L0": lambda i, f: sd.L0(f(0.5)),
    "L1": lambda i, f: sd.L1(f(0.5)),
    "Sqrt": lambda i, f: sd.Sqrt(f(0.5), f(0.25)),
    "Lp": lambda i, f: sd.Lp(f(0.5), f(0.25), f(0.125)),
    "TargetL0": lambda i, f: sd.TargetL0(f(2.0), f(0.5)),
    "AuxK": lambda i, f: sd.AuxK(i(4), i(100), f(0.5)),
    "WarmUp": lambda i, f: sd.WarmUp(sd.L1(f(0.5)), i(10)),
    "NormWeighted": lambda i, f: sd.NormWeighted(sd.L1(f(0.5))),
    "Resample": lambda i, f: sd.Resample(i(10), i(100), until=i(50), seed=i(3)),
    "Cosine": lambda i, f: sd.Cosine(f(0.5), f(0.25)),
    "Linear": lambda i, f: sd.Linear(f(0.5), f(0.25), f(0.125)),
    "Constant": lambda i, f: sd.training.Constant(f(0.5)),
    # An array can't be a key.
    "Clamp": lambda i, f: sd.Clamp({3 if i is np.array else i(3): f(0.5)}),
    "Steer": lambda i, f: sd.Steer({3 if i is np.array else i(3): f(0.5)}),
}
NUMBERS: dict[str, tuple[Any, Any]] = {
    "numpy": (np.int64, np.float32),
    "arrays": (np.array, np.array),
    "tensors": (torch.tensor, torch.tensor),
}


def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("part", PARTS)
def test_parts_hold_plain_numbers(part: str, numbers: str) -> None:
    given, wanted = plain(PARTS[part](*NUMBERS[numbers])), plain(PARTS[part](int, float))
    assert given == wanted
    assert json.dumps(given) == json.dumps(wanted)


def coder(**kwargs: Any) -> sd.SparseAutoencoder:
    settings: dict[str, Any] = {"activation": sd.TopK(4), "decoder_norm": sd.UnitNorm(), **kwargs}
    generator = torch.Generator().manual_seed(0)
    return sd.SparseAutoencoder(settings.pop("d", D), settings.pop("n", N_LATENTS), generator=generator, **settings)


@pytest.mark.parametrize("numbers", NUMBERS)
def test_runs_take_them(numbers: str, tmp_path: Path) -> None:
    def trained(i: Any, f: Any, folder: str) -> tuple[sd.SparseAutoencoder, sd.History]:
        dictionary = coder(d=i(D), n=i(N_LATENTS), activation=sd.BatchTopK(i(4), f(0.5)))
        history = sd.fit(
            dictionary,
            X,
            n_tokens=i(1024),
            batch_size=i(128),
            lr=f(0.5) / 512,
            clip_norm=f(0.5),
            seed=i(3),
            log_every=i(2),
            dead_after=i(100),
            penalties=[sd.L1(f(0.5))],
            optimizer=lambda params, lr: LazyAdam(params, lr, (f(0.5), f(0.75)), f(0.125)),
            checkpoint=tmp_path / folder,
            checkpoint_every=i(2),
            checkpoint_keep=i(1),
            progress=False,
        )
        return dictionary, history

    dictionary, history = trained(*NUMBERS[numbers], "theirs")
    other, wanted = trained(int, float, "plain")
    assert history.column("fvu") == wanted.column("fvu")
    assert json.loads(json.dumps(dictionary.trained_on)) == other.trained_on
    dictionary.save(tmp_path / "saved")
    assert torch.equal(sd.load(tmp_path / "saved").encoder, other.encoder)


@pytest.mark.parametrize("numbers", NUMBERS)
def test_data_and_analysis_take_them(numbers: str) -> None:
    i, f = NUMBERS[numbers]
    truth = SyntheticFeatures(i(D), i(20), f(2.0), seed=i(0), noise=f(0.5))
    assert torch.equal(
        truth.sample(i(10), i(1))[0].outputs, SyntheticFeatures(D, 20, 2.0, 0, noise=0.5).sample(10, 1)[0].outputs
    )
    assert as_batches(X, batch_size=i(100), seed=i(1)).next_batch().n_tokens == 100
    model = torch.nn.Sequential(torch.nn.Embedding(10, D), torch.nn.Linear(D, D))
    site, ids = sd.Site(model, "1", exclude_first=i(1), exclude_tokens=[i(0)]), torch.randint(1, 10, (4, 8))
    stream = sd.ActivationStream(site, ids, batch_size=i(8), seed=i(0), buffer_size=i(64), model_batch_size=i(2))
    assert next(iter(stream)).n_tokens == 8
    assert sd.analysis.firing_frequencies(coder(), X, n_tokens=i(100)).n_tokens == 100
    threshold = sd.analysis.latent_types(torch.ones(3), f(0.5)).threshold
    assert type(threshold) is float
    assert type(sd.analysis.clusters(X, f(0.5)).threshold) is float
    found = sd.analysis.top_examples(site, coder(reads="outputs"), ids, n_examples=i(2), context=i(3))
    assert len(found) == N_LATENTS
    assert sd.evaluate(site, coder(), ids, batch_size=i(2), n_tokens=i(14)).n_tokens == 14
    assert sd.analysis.match_neurons(X, X, seed=i(1)).null_decoder is not None


@dataclasses.dataclass(frozen=True)
class Own(sd.DecoderNorm):
    """A norm of one's own that checks nothing."""

    size: Any

    def constrain_(self, decoder: torch.Tensor) -> None:
        decoder.mul_(self.size / decoder.norm(dim=-1, keepdim=True))


def test_a_part_of_ones_own_is_saved_with_numpy_numbers(tmp_path: Path) -> None:
    dictionary = coder(decoder_norm=Own(np.float32(2.0)))
    dictionary.trained_on = {"share": np.float32(0.5), "n": np.int64(3)}
    dictionary.save(tmp_path / "coder")
    loaded = sd.load(tmp_path / "coder", parts=[Own])
    assert loaded.decoder_norm == Own(2.0)
    assert loaded.trained_on == {"share": 0.5, "n": 3}


def test_a_coefficient_for_each_latent_may_be_an_array() -> None:
    coefficient = np.linspace(0, 1, N_LATENTS, dtype=np.float32)
    first, second = coder(activation=sd.ReLU()), coder(activation=sd.ReLU())
    for dictionary, penalty in ((first, sd.L1(coefficient)), (second, sd.L1(torch.from_numpy(coefficient)))):
        sd.fit(dictionary, X, n_tokens=512, batch_size=128, penalties=[penalty], progress=False)
    assert torch.equal(first.encoder, second.encoder)
