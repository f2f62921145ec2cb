"""Runs that are executed by one process and by several ranks, which must agree."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cases
import sparsedict as sd
from sparsedict.parallel import Alone, DataParallel, Parallel, RankError

BATCH, N_STEPS = 30, 8
N_TOKENS = BATCH * N_STEPS
N_SAME = 5 * BATCH
"""Tokens of runs whose steps are alike: two records, a resampling, and a comparison of the ranks' weights."""
N_STREAMED = 9 * 2 * BATCH
"""Tokens of runs on a stream: more than one pass over its sequences, and several fills of its buffer."""
WIDTHS = {
    "cross_layer": {"0": (2, 3), "1": (4, 2)},
    "cross_layer_skip": {"0": (3, 2), "1": (3, 3)},
    "cross_layer_tied": {"0": (2, 3), "1": (4, 3)},
    "crosscoder": {"0": (4, 4), "1": (2, 2)},
}


def draw(n_rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(n_rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data_of(kind: str, dictionary: sd.Dictionary, n_rows: int = 200) -> Any:
    """Returns random activations at the points of a kind."""
    if kind in WIDTHS:
        return {
            site: (draw(n_rows, d_in, index), draw(n_rows, d_out, index + 10))
            for index, (site, (d_in, d_out)) in enumerate(WIDTHS[kind].items())
        }
    x = draw(n_rows, dictionary.d_in, 0)
    return x if dictionary.reads == dictionary.writes else (x, draw(n_rows, dictionary.d_out, 1))


def outcome(dictionary: sd.Dictionary, history: sd.History) -> dict[str, Any]:
    """Returns all numbers of a finished run."""
    columns = ("loss", "objective", "fvu", "l0", "eval_l0", "dead", "n_tokens")
    return {
        "weights": {name: value.clone() for name, value in dictionary.state_dict().items()},
        "history": {name: torch.tensor(history.column(name), dtype=torch.float64) for name in columns},
    }


def train(dictionary: sd.Dictionary, data: Any, parallel: Parallel, **options: Any) -> dict[str, Any]:
    options = {"n_tokens": N_TOKENS, "log_every": 3, "progress": False, "dead_after": 60} | options
    if isinstance(data, tuple | dict | Tensor):
        options.setdefault("batch_size", BATCH)
    return outcome(dictionary, sd.fit(dictionary, data, parallel=parallel, **options))


def new(activation: sd.Activation | None = None, rank: int = 0, dtype: torch.dtype = torch.float64) -> sd.Dictionary:
    """Returns a new dictionary. Its weights depend on the rank, as without a seed in the user's script."""
    generator = torch.Generator().manual_seed(rank)
    parts = {"activation": activation or sd.TopK(3), "decoder_norm": sd.UnitNorm()}
    return sd.SparseDistiller(6, 5, 24, generator=generator, dtype=dtype, **parts)


@dataclass(frozen=True)
class Variant:
    """A run of a kind with an activation from set weights, or of a new dictionary with penalties and hooks."""

    kind: str = ""
    activation: str = ""
    parts: Callable[[], dict[str, Any]] = dict
    of: Callable[[], sd.Activation] = lambda: sd.TopK(3)

    def __call__(self, parallel: Parallel, folder: Path) -> Any:
        dictionary = cases.make(self.kind, self.activation) if self.kind else new(self.of(), parallel.rank)
        kind = self.kind or "distiller"
        return train(dictionary, data_of(kind, dictionary), parallel, n_tokens=N_SAME, lr=1e-2, **self.parts())


def pairs() -> list[tuple[str, str]]:
    """Returns each kind once and each activation once, or more."""
    activations, kinds = list(cases.ACTIVATIONS), list(cases.KINDS)
    n = max(len(activations), len(kinds))
    return [(kinds[i % len(kinds)], activations[i % len(activations)]) for i in range(n)]


PARTS: dict[str, Variant] = {
    "new": Variant(),
    "batch_top_k": Variant(of=lambda: sd.BatchTopK(2.5)),
    "target_l0": Variant(of=sd.JumpReLU, parts=lambda: {"penalties": [sd.TargetL0(4.0)]}),
    "target_l0_coefficient": Variant(
        of=sd.JumpReLU, parts=lambda: {"penalties": [sd.TargetL0(4.0, coefficient=1.0), sd.Frequency(0.1)]}
    ),
    "l1_clipped": Variant(of=sd.ReLU, parts=lambda: {"penalties": [sd.L1(0.1)], "clip_norm": 0.5}),
    "annealed": Variant(of=sd.ReLU, parts=lambda: {"penalties": [sd.AnnealedLp(0.1, begin=0.1)]}),
    "resampled": Variant(
        of=lambda: sd.TopK(1),
        parts=lambda: {
            "penalties": [sd.AuxK(dead_after=60)],
            "step_hooks": [
                sd.Resample(every=3, dead_after=60, n_inputs=50),
                sd.Resample(every=2, dead_after=60, n_inputs=50, decoder_rows="errors"),
            ],
        },
    ),
    "balanced": Variant(parts=lambda: {"loss": sd.BalancedError()}),
    "nested_sgd": Variant(parts=lambda: {"loss": sd.Nested([8]), "optimizer": torch.optim.SGD}),
    "uneven": Variant(parts=lambda: {"batch_size": 31}),
}


def _ties(parallel: Parallel, folder: Path) -> Any:
    """Trains on few different rows, whose entries are equal on several tokens of a batch."""
    dictionary = new(sd.BatchTopK(2.5), parallel.rank)
    data = (draw(20, 6, 0).repeat(10, 1), draw(20, 5, 1).repeat(10, 1))
    return train(dictionary, data, parallel, n_tokens=N_SAME, lr=1e-2)


SAME: dict[str, Callable[[Parallel, Path], Any]] = {
    "ties": _ties,
    **{f"{kind}-{activation}": Variant(kind, activation) for kind, activation in pairs()},
    **PARTS,
}
"""Runs whose result on several ranks is that of one process."""


def _items(parallel: Parallel, folder: Path) -> Any:
    items = [(draw(20 + index, 6, index), draw(20 + index, 5, index + 9)) for index in range(6)]
    return train(new(rank=parallel.rank), items, parallel)


def _generator(parallel: Parallel, folder: Path) -> Any:
    items = ((draw(30, 6, index), draw(30, 5, index + 9)) for index in range(8))
    return train(new(rank=parallel.rank), items, parallel)


class Counting(torch.nn.Module):
    """A model of one MLP that counts the positions on which it ran."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.embedding = torch.nn.Embedding(40, 6, dtype=torch.float64)
        self.mlp = torch.nn.Linear(6, 5, dtype=torch.float64)
        self.n_positions = 0
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))

    def forward(self, tokens: Tensor) -> Tensor:
        self.n_positions += tokens.numel()
        return self.mlp(self.embedding(tokens))


def stream_of(model: Counting, **options: Any) -> sd.ActivationStream:
    tokens = torch.randint(40, (options.pop("n_sequences", 40), 10), generator=torch.Generator().manual_seed(5))
    options = {"batch_size": 2 * BATCH, "buffer_size": 200, "model_batch_size": 3} | options
    return sd.ActivationStream(sd.Site(model, "mlp", exclude_tokens=[0]), options.pop("tokens", tokens), **options)


def _stream(parallel: Parallel, folder: Path, **options: Any) -> Any:
    model = Counting()
    n_tokens = options.pop("n_tokens", N_STREAMED)
    found = train(new(rank=parallel.rank), stream_of(model, **options), parallel, n_tokens=n_tokens)
    return {**found, "n_positions": torch.tensor(float(model.n_positions))}


def _documents(parallel: Parallel, folder: Path) -> Any:
    generator = torch.Generator().manual_seed(7)
    rows = [torch.randint(40, (length,), generator=generator).tolist() for length in (9, 3, 12, 30, 5, 7, 11, 2) * 4]
    return _stream(parallel, folder, tokens=rows, n_tokens=360)


def _store(parallel: Parallel, folder: Path) -> Any:
    path = folder / "store"
    if parallel.is_main and not path.exists():
        stream_of(Counting(), n_sequences=60).save_to(path, dtype=torch.float32, progress=False)
    parallel.exchange(0)
    store = sd.ActivationStore(path, batch_size=2 * BATCH, buffer_size=300)
    return train(new(rank=parallel.rank), store, parallel, n_tokens=900)


DATA: dict[str, Callable[[Parallel, Path], Any]] = {
    "items": _items,
    "generator": _generator,
    "stream": _stream,
    "stream_whole": lambda parallel, folder: _stream(parallel, folder, buffer_size=2000),
    "documents": _documents,
    "store": _store,
}


def _checkpointed(parallel: Parallel, folder: Path, n_steps: int | None = None, **options: Any) -> Any:
    """Trains with checkpoints, and stops by a signal to the last rank after ``n_steps`` steps."""
    is_last = parallel.rank == parallel.n_ranks - 1
    loss = Signalling(n_steps if is_last and n_steps else -1)
    options = {"checkpoint": folder, "checkpoint_every": 2, "resume": True, "loss": loss, "log_every": 3} | options
    try:
        return train(new(sd.BatchTopK(3), parallel.rank), data_of("distiller", new()), parallel, **options)
    except (KeyboardInterrupt, sd.training.Terminated) as error:
        return type(error).__name__, str(error)


class Changing:
    """A part that differs between ranks, or between runs. Its settings are those of its class."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class Signalling(Changing, sd.Loss):
    """A squared error that sends this process a signal at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        if out.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
        return sd.SquaredError()(out)


class Failing(Changing, sd.Loss):
    """A loss that fails, or isn't finite, on one rank."""

    def __init__(self, parallel: Parallel, with_nan: bool) -> None:
        self.parallel = parallel
        self.with_nan = with_nan

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        if self.parallel.rank == 1 and out.step == 4:
            if not self.with_nan:
                raise ValueError("this rank can't")
            return sd.SquaredError()(out) * torch.nan
        return sd.SquaredError()(out)


class Perturbing(Changing, sd.StepHook):
    """A hook that changes one rank."""

    def __init__(self, parallel: Parallel) -> None:
        self.parallel = parallel

    def __call__(self, out: sd.ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            out.dictionary.encoder[0, 0] += 1e-6 * (self.parallel.rank == 1)


def _stopped(parallel: Parallel, folder: Path) -> Any:
    """Returns an uninterrupted run, an interrupted one, the resumed one, and the steps of the checkpoints."""
    whole = _checkpointed(parallel, folder / "whole")
    stopped = _checkpointed(parallel, folder / "stopped", 5)
    steps = sorted(int(path.name[5:]) for path in (folder / "stopped").glob("step-*"))
    parallel.exchange(0)  # the next run removes checkpoints
    resumed = _checkpointed(parallel, folder / "stopped")
    return {"whole": whole, "stopped": stopped, "steps": steps, "resumed": resumed}


def _for_others(parallel: Parallel, folder: Path) -> Any:
    return _checkpointed(parallel, folder / "for_others", 5), _checkpointed(parallel, folder / "from_one")


def _nan(parallel: Parallel, folder: Path) -> Any:
    dictionary = new(rank=parallel.rank)
    try:
        train(dictionary, data_of("distiller", dictionary), parallel, loss=Failing(parallel, True), log_every=2)
    except sd.training.NonFiniteLossError as error:
        return str(error), {name: value.clone() for name, value in dictionary.state_dict().items()}


def _other_call(parallel: Parallel, folder: Path) -> Any:
    return _error(lambda: train(new(), data_of("distiller", new()), parallel, lr=0.01 * (1 + parallel.rank)))


def _disk(parallel: Parallel, folder: Path) -> Any:
    """Returns the error of each rank if rank 0 can't write."""
    path = folder / "file"
    path.write_text("", encoding="utf-8")
    return _error(lambda: train(new(), data_of("distiller", new()), parallel, checkpoint=path))


def _small(parallel: Parallel, folder: Path) -> Any:
    return _error(lambda: train(new(), data_of("distiller", new()), parallel, batch_size=1))


def _callback(parallel: Parallel, folder: Path) -> Any:
    """Returns the number of calls of a callback on each rank, and the error of a callback that fails."""
    calls: list[str] = []

    def fails(*_: Any) -> None:
        raise RuntimeError("no connection")

    dictionary = new(rank=parallel.rank)
    train(dictionary, data_of("distiller", dictionary), parallel, callbacks=[lambda name, *_: calls.append(name)])
    return len(calls), _error(lambda: train(dictionary, data_of("distiller", new()), parallel, callbacks=[fails]))


def _differing(parallel: Parallel, folder: Path) -> Any:
    """Returns the error of a hook that changes the weights of one rank."""
    return _error(lambda: train(new(), data_of("distiller", new()), parallel, step_hooks=[Perturbing(parallel)]))


def _collectives(parallel: Parallel, folder: Path) -> Any:
    rows = torch.arange(5)[parallel.part :: parallel.n_parts]
    values = torch.tensor([3.0, 1.0, 2.0]) if parallel.rank == 0 else torch.tensor([2.0, 5.0])
    return {
        "rows": parallel.rows(rows).tolist(),
        "uneven": parallel.rows(torch.arange(3 * parallel.rank)).tolist(),
        "largest": parallel.among_largest(
            values, 3, lambda: torch.arange(len(values)) * 2 + 1 - parallel.rank
        ).tolist(),
        "fewer": parallel.among_largest(values, 9, lambda: torch.arange(len(values))).tolist(),
        "exchange": parallel.exchange(parallel.rank, 7),
        "share": parallel.share({"rank": parallel.rank}),
        "sum": parallel.sum(torch.tensor([1, parallel.rank])).tolist(),
        "failed": _error(lambda: parallel.together(lambda: 1 // parallel.rank)),
    }


def _error(function: Callable[[], Any]) -> tuple[str, str] | None:
    try:
        function()
    except Exception as error:
        return type(error).__name__, str(error)
    return None


def _failed(parallel: Parallel, folder: Path) -> Any:
    """Returns the errors of the ranks if one of them raises in a step. It ends the connection, so it is the last."""
    dictionary = new(rank=parallel.rank)
    first = _error(lambda: train(dictionary, data_of("distiller", dictionary), parallel, loss=Failing(parallel, False)))
    return first, _error(lambda: train(dictionary, data_of("distiller", dictionary), parallel))


DIVIDED = ("ties", "batch_top_k", "target_l0", "resampled", "uneven", "items", "stream", "documents", "store")
"""Runs that divide tokens, or agree on numbers, in another way on four ranks than on two."""

RANKS_ONLY: dict[str, Callable[[Parallel, Path], Any]] = {
    "collectives": _collectives,
    "stopped": _stopped,
    "for_others": _for_others,
    "nan": _nan,
    "other_call": _other_call,
    "disk": _disk,
    "small": _small,
    "callback": _callback,
    "differing": _differing,
    "failed": _failed,
}
CASES = {**SAME, **DATA, **RANKS_ONLY}


@cache
def alone(name: str) -> dict[str, Any]:
    """Returns the result of a case in one process. Ranks that are forked later find it computed."""
    with tempfile.TemporaryDirectory() as folder:
        return CASES[name](Alone(), Path(folder))


def run_rank(rank: int, n_ranks: int, path: Path, names: Sequence[str] = tuple(CASES)) -> None:
    """Runs cases on one rank, and writes their results to a file."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}/init", rank=rank, world_size=n_ranks)
    parallel = DataParallel(check_every=4)
    torch.save({name: CASES[name](parallel, path) for name in names}, path / f"{rank}.pt")


__all__ = ["Alone", "RankError", "run_rank"]
