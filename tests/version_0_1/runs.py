"""The runs whose files version 0.1 wrote into this folder: each is stopped in its middle, then continued by a test.

``python -m tests.version_0_1.runs`` wrote them with sparsedict 0.1.0, at commit bf9f105. Never write them again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparsedict as sd

FOLDER = Path(__file__).parent / "files"
N_TOKENS, EVERY, LOG_EVERY = 160, 3, 2


def weights(*shape: int) -> Tensor:
    """Returns values between -1 and 1 that don't depend on a random generator."""
    n = torch.Size(shape).numel()
    return torch.sin(torch.arange(1.0, n + 1) * 12.9898).reshape(shape)


class Block(nn.Module):
    """A residual MLP."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        for index, parameter in enumerate(self.mlp.parameters()):
            parameter.data = weights(*parameter.shape) * 0.7 + 0.1 * shift * index

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


def model() -> nn.Module:
    """Returns a model of two MLPs with weights that are the same on every machine."""
    embedding = nn.Embedding(12, 4)
    embedding.weight.data = weights(12, 4)
    return nn.Sequential(embedding, Block(1.0), Block(-1.0), nn.Linear(4, 12))


def tokens() -> Tensor:
    return (weights(20, 6).abs() * 1000).long() % 12


def sites() -> dict[str, sd.Site]:
    network = model()
    return {"0": sd.Site(network, "1.mlp"), "1": sd.Site(network, "2.mlp", exclude_first=1)}


def distiller() -> sd.SparseDistiller:
    generator = torch.Generator().manual_seed(1)
    return sd.SparseDistiller(4, 4, 10, activation=sd.TopK(3), decoder_norm=sd.UnitNorm(), generator=generator)


def autoencoder(reads: str = "outputs") -> sd.SparseAutoencoder:
    generator = torch.Generator().manual_seed(2)
    return sd.SparseAutoencoder(
        4, 12, activation=sd.BatchTopK(3), decoder_norm=sd.UnitNorm(), reads=reads, generator=generator
    )


def data(name: str) -> Any:
    """Returns the data of a run."""
    if name == "bare":
        return weights(120, 4)
    if name == "pair":
        return weights(120, 4), weights(120, 4).cos()
    if name == "batches":
        return [(weights(16, 4) * i, weights(16, 4).cos() * i) for i in range(1, 6)]
    if name == "site":
        return sd.ActivationStream(next(iter(sites().values())), tokens(), batch_size=16, seed=3)
    if name == "sites":
        return sd.ActivationStream(sites(), tokens(), batch_size=16, seed=3)
    return sd.ActivationStore(FOLDER / "activations", batch_size=16, seed=3)


def trainees(name: str) -> dict[str, sd.Trainee]:
    """Returns new trainees of a run."""
    if name == "bare":
        return {"": sd.Trainee(autoencoder())}
    if name == "sites" or name == "store":
        return {
            "a": sd.Trainee(distiller(), site="0"),
            "b": sd.Trainee(autoencoder("inputs"), penalties=[sd.AuxK(2, dead_after=32)], site="1"),
        }
    return {"": sd.Trainee(distiller(), penalties=[sd.L1(0.01)])}


RUNS = ("bare", "pair", "batches", "site", "sites", "store")


def run(name: str, folder: Path, *, resume: bool = False, stop_at: int | None = None) -> dict[str, sd.Trainee]:
    """Trains to the end, or until after a number of steps, and returns the trainees."""
    made = trainees(name)
    sized: dict[str, Any] = {"batch_size": 16, "seed": 3} if name in ("bare", "pair") else {}

    def stop(_: str, record: Any, __: Any) -> None:
        if stop_at is not None and record.step >= stop_at:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        sd.fit_many(
            made,
            data(name),
            n_tokens=N_TOKENS,
            log_every=LOG_EVERY,
            dead_after=64,
            progress=False,
            callbacks=[stop],
            checkpoint=folder,
            checkpoint_every=EVERY,
            checkpoint_keep=1,
            resume=resume,
            **sized,
        )
    return made


def write() -> None:
    stream = sd.ActivationStream(sites(), tokens(), batch_size=16, seed=3)
    stream.save_to(FOLDER / "activations", progress=False)
    for name in RUNS:
        run(name, FOLDER / name / "run", stop_at=4)
        whole = FOLDER / name / "whole"
        for key, trainee in run(name, FOLDER / "scratch" / name).items():
            trainee.dictionary.save(whole / (key or "only"))


if __name__ == "__main__":
    write()
