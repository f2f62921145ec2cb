"""Runs that are interrupted and resumed, with one case for each part of a checkpoint."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import sparsedict as sd
from sparsedict.data import SyntheticFeatures
from sparsedict.storage import read_checkpoint
from sparsedict.training._history import _NUMBERS

D, N_LATENTS, N_STEPS, BATCH = 6, 20, 12, 64
N_TOKENS = N_STEPS * BATCH


def rows(n: int = 500, seed: int = 0) -> Tensor:
    return SyntheticFeatures(D, 16, 2.0, seed=0).sample(n, seed)[0].inputs


def coder(activation: sd.Activation, seed: int = 0, **kwargs: Any) -> sd.SparseAutoencoder:
    generator = torch.Generator().manual_seed(seed)
    kwargs = {"decoder_norm": sd.UnitNorm()} | kwargs
    return sd.SparseAutoencoder(D, N_LATENTS, activation=activation, generator=generator, **kwargs)


def distiller(activation: sd.Activation, seed: int = 0) -> sd.SparseDistiller:
    generator = torch.Generator().manual_seed(seed)
    return sd.SparseDistiller(D, D, N_LATENTS, activation=activation, decoder_norm=sd.MaxNorm(), generator=generator)


class Noisy(sd.Penalty):
    """Draws from a global generator, and keeps a running mean of its own."""

    def __init__(self) -> None:
        self.mean = torch.zeros(())
        self.n_calls = 0

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        size = out.values.abs().sum() / out.n_tokens
        self.mean = 0.9 * self.mean + 0.1 * size.detach() * torch.rand(()) * random.random() * np.random.rand()
        self.n_calls += 1
        return size * self.mean * 0.01

    def __repr__(self) -> str:
        return "Noisy()"

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "n_calls": self.n_calls}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.mean, self.n_calls = state_dict["mean"], state_dict["n_calls"]


class Once:
    """Batches that can be gone through again but have no places."""

    def __iter__(self) -> Iterator[Tensor]:
        return (rows(BATCH - 8 * (i % 3), seed=i) for i in range(5))


class Placed:
    """Batches that know where they stand."""

    def __init__(self) -> None:
        self._next = 0
        self._after: int | None = None
        self.n_made = 0

    def __iter__(self) -> Iterator[Tensor]:
        self._next, self._after = self._after or 0, None
        while self._next < 5:
            self._next += 1
            self.n_made += 1
            yield rows(BATCH, seed=self._next)

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._after = state_dict["next"]


def two_sites() -> sd.ActivationStream:
    torch.manual_seed(0)
    mlps = [nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, D)) for _ in range(2)]
    model = nn.Sequential(nn.Embedding(30, D), *mlps, nn.Linear(D, 30))
    sites = {"first": sd.Site(model, "1"), "second": sd.Site(model, "2")}
    tokens = torch.randint(30, (20, 16), generator=torch.Generator().manual_seed(1))
    return sd.ActivationStream(sites, tokens, batch_size=BATCH, buffer_size=100)


@dataclass(frozen=True)
class Case:
    """A run, made anew each time: what is trained, and on what."""

    make: Callable[[], tuple[dict[str, sd.Trainee], Any]]
    batched: bool = False
    replays: bool = False

    def run(self, folder: Path | None = None, **kwargs: Any) -> Result:
        """Trains, from the beginning or from a checkpoint."""
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        trainees, data = self.make()
        size = {} if self.batched else {"batch_size": BATCH}
        kwargs = {"n_tokens": N_TOKENS, "log_every": 5, "dead_after": 200, "progress": False} | size | kwargs
        histories = sd.fit_many(trainees, data, checkpoint=folder, **kwargs)
        return Result({name: trainee.dictionary for name, trainee in trainees.items()}, histories, torch.rand(3))


@dataclass(frozen=True)
class Result:
    """What a run left."""

    dictionaries: dict[str, sd.Dictionary]
    histories: dict[str, sd.History]
    drawn: Tensor


def _single(dictionary: sd.Dictionary, data: Callable[[], Any], **kwargs: Any):
    return {"": sd.Trainee(dictionary, **{"lr": 1e-2} | kwargs)}, data()


def cross_layer() -> sd.CrossLayerDistiller:
    return sd.CrossLayerDistiller(
        {"first": D, "second": D},
        (N_LATENTS, 12),
        activation=sd.PerLayer(sd.BatchTopK(3)),
        decoder_norm=sd.PerPoint(sd.UnitNorm()),
        generator=torch.Generator().manual_seed(0),
    )


CASES: dict[str, Case] = {
    "two sites at once, resampling": Case(
        lambda: _single(
            cross_layer(),
            two_sites,
            penalties=[sd.AuxK(dead_after=100)],
            step_hooks=[sd.Resample(every=5, dead_after=100, n_inputs=128)],
        ),
        batched=True,
    ),
    "a tensor, AuxK, Adam": Case(
        lambda: _single(coder(sd.TopK(3)), rows, penalties=[sd.AuxK(dead_after=100, coefficient=1.0)])
    ),
    "a pair, BatchTopK, momentum": Case(
        lambda: _single(
            distiller(sd.BatchTopK(3)),
            lambda: (rows(), rows().relu()),
            optimizer=functools.partial(torch.optim.SGD, momentum=0.9),
            clip_norm=1.0,
        )
    ),
    "resampling, a penalty with a state": Case(
        lambda: _single(
            coder(sd.ReLU()),
            rows,
            penalties=[sd.WarmUp(sd.L1(0.02), n_steps=8), sd.WarmUp(Noisy(), n_steps=2)],
            step_hooks=[sd.Resample(every=4, dead_after=100)],
        )
    ),
    "two sites, two optimisers": Case(
        lambda: (
            {
                "one": sd.Trainee(distiller(sd.TopK(3)), site="first", lr=1e-2),
                "two": sd.Trainee(
                    coder(sd.JumpReLU(threshold=0.001, bandwidth=0.1)),
                    site="second",
                    penalties=[sd.L0(0.01)],
                    optimizer=functools.partial(torch.optim.AdamW, amsgrad=True),
                ),
                "three": sd.Trainee(coder(sd.ReLU(), seed=1), site="first", optimizer=torch.optim.Adadelta, lr=1.0),
            },
            two_sites(),
        ),
        batched=True,
    ),
    "batches that are read again": Case(lambda: _single(coder(sd.TopK(3)), Once), batched=True, replays=True),
    "a generator": Case(
        lambda: _single(coder(sd.TopK(3)), lambda: (rows(BATCH, seed=i) for i in range(20))), batched=True, replays=True
    ),
    "a loader that shuffles": Case(
        lambda: _single(
            coder(sd.TopK(3)),
            lambda: DataLoader(rows(300), BATCH, shuffle=True),
            penalties=[Noisy()],  # type: ignore
        ),
        batched=True,
        replays=True,
    ),
    "a generator that draws": Case(
        lambda: _single(coder(sd.TopK(3)), lambda: (torch.randn(BATCH, D) for _ in range(20))),
        batched=True,
        replays=True,
    ),
    "batches with places": Case(lambda: _single(coder(sd.TopK(3)), Placed), batched=True),
    "a list of batches, bf16": Case(
        lambda: _single(
            coder(sd.TopK(3), dtype=torch.bfloat16), lambda: [rows(BATCH, seed=i).bfloat16() for i in range(5)]
        ),
        batched=True,
    ),
}


def same(first: Any, second: Any, path: str = "") -> None:
    """Raises unless two nested values are the same, tensors bit for bit; times apart."""
    assert type(first) is type(second), path
    if isinstance(first, Tensor):
        assert first.dtype == second.dtype, path
        assert first.shape == second.shape, path
        a, b = (tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second))
        assert torch.equal(a, b), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key, value in first.items():
            if key == "records" and isinstance(value, Tensor):
                untimed = [index for index in range(value.shape[1]) if index != _NUMBERS.index("seconds")]
                same(value[:, untimed], second[key][:, untimed], f"{path}/{key}")
            elif key != "seconds":
                same(value, second[key], f"{path}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), path
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            same(a, b, f"{path}/{index}")
    else:
        assert first == second or (first != first and second != second), path


def same_results(first: Result, second: Result) -> None:
    """Raises unless two runs left the same, bit for bit."""
    same(first.drawn, second.drawn, "drawn")
    for name, dictionary in first.dictionaries.items():
        other = second.dictionaries[name]
        same(dict(dictionary.state_dict()), dict(other.state_dict()), name)
        same(dictionary.trained_on, other.trained_on, f"{name} trained on")
        assert not other.training
        same(first.histories[name].to_dict(), second.histories[name].to_dict(), f"{name} history")


def last_state(folder: Path) -> dict[str, Any]:
    """Returns the state in the newest checkpoint."""
    newest = max(item for item in folder.iterdir() if item.name.startswith("step-"))
    return read_checkpoint(newest)[1]
