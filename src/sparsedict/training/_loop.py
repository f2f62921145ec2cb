"""The training loop: steps, records, checkpoints and signals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import Any

from sparsedict.batches import Activations, names_of
from sparsedict.display import shown
from sparsedict.parallel import Alone, Parallel, of_rank, per_rank
from sparsedict.progress import Progress, progress_bar
from sparsedict.torch_state import callers_state
from sparsedict.training._batch_queue import BatchQueue
from sparsedict.training._checkpoints import Checkpoints
from sparsedict.training._history import History, Record
from sparsedict.training._interrupt import Interrupt, WaitInterrupted
from sparsedict.training._random import random_state, set_random_state
from sparsedict.training._run_options import RunOptions
from sparsedict.training._state import Stateful, restore, stateful
from sparsedict.training._trainee import Trainee
from sparsedict.training._trainer import DictionaryTrainer

ALONE = Alone()


class Loop:
    """Runs several trainers on the same batches until they have seen ``n_tokens`` tokens.

    Args:
        trainers: One trainer for each dictionary.
        queue: The batches.
        options: The options of the run.
        n_planned: Expected number of steps.
        checkpoints: The folder that checkpoints are written to. ``None`` writes no checkpoints.
        parallel: The ranks of the run. Only rank 0 shows progress and calls callbacks.
    """

    def __init__(
        self,
        trainers: Sequence[DictionaryTrainer],
        queue: BatchQueue,
        options: RunOptions,
        *,
        n_planned: int,
        checkpoints: Checkpoints | None,
        parallel: Parallel = ALONE,
    ) -> None:
        self.n_steps = 0
        self.n_seen = 0
        self._trainers = trainers
        self._queue = queue
        self._n_tokens = options.n_tokens
        self._n_planned = n_planned
        self._log_every = options.log_every
        self._callbacks = options.callbacks
        self._checkpoints = checkpoints
        self._progress = options.progress and parallel.is_main
        self._parallel = parallel
        # Other ranks may have no callbacks.
        self._has_callbacks = parallel.share(bool(options.callbacks))
        parts = [found for trainer in trainers for found in _parts(trainer.name, trainer.trainee)]
        self._stateful = dict((*parts, *stateful(options.callbacks, "callbacks")))

    @property
    def histories(self) -> dict[str, History]:
        """The records of each dictionary, by name."""
        return {trainer.name: trainer.history for trainer in self._trainers}

    def run(self) -> None:
        """Trains from the current step to the end.

        Raises:
            KeyboardInterrupt: After Ctrl-C, once the step is finished and its checkpoint is written.
            Terminated: After another signal that ends processes, such as SIGTERM, also after the checkpoint.
        """
        dictionaries = [trainer.trainee.dictionary for trainer in self._trainers]
        try:
            for dictionary in dictionaries:
                dictionary.train()
            self._train()
        finally:
            for dictionary, trainer in zip(dictionaries, self._trainers, strict=True):
                dictionary.eval()
                batches, trainee = self._queue.batches, trainer.trainee
                points = (*names_of(dictionary.reads), *names_of(dictionary.writes))
                trainer.record_provenance(batches.description, batches.metadata(batches.sites_of(points, trainee.site)))

    def _train(self) -> None:
        done = min(self.n_seen, self._n_tokens)
        with progress_bar("fit", total=self._n_tokens, initial=done, unit="tok", shown=self._progress) as bar:
            if self._checkpoints is not None and self._checkpoints.last_step is None:
                # A write error before the first step costs no work.
                self._write(self._checkpoints)
            with Interrupt() as interrupt:
                while self.n_seen < self._n_tokens:
                    with suppress(WaitInterrupted):
                        self._step(bar, interrupt)
                    if self._agree(interrupt):
                        break
            if interrupt.received is not None:
                interrupt.stop(self._stop_message())
            for trainer in self._trainers:
                trainer.warn_of_result()

    def state_dict(self) -> dict[str, Any]:
        """Returns the complete state of the run."""
        return {
            "n_steps": self.n_steps,
            "n_seen": self.n_seen,
            "n_planned": self._n_planned,
            "learners": {trainer.name: trainer.state_dict() for trainer in self._trainers},
            "parts": {path: part.state_dict() for path, part in self._stateful.items()},
            "feed": self._queue.state_dict(),
            "random": per_rank(self._parallel, random_state()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state of another loop with the same settings."""
        restore(self, state, ("n_steps", "n_seen"))
        for trainer in self._trainers:
            trainer.load_state_dict(state["learners"][trainer.name])
        for path, part in self._stateful.items():
            # A callback that was added after the checkpoint has no saved state and starts here.
            if path in state["parts"] or not path.startswith("callbacks"):
                part.load_state_dict(state["parts"][path])
        if self.n_seen < self._n_tokens:
            self._queue.load_state_dict(state["feed"])
        # Restored last, because reading the data again may draw random numbers.
        own = of_rank(self._parallel, state["random"])
        if own is not None:
            set_random_state(own)

    def _step(self, bar: Progress, interrupt: Interrupt) -> None:
        batch = self._queue.next_batch(interrupt)
        n = self._queue.n_latest
        for trainer in self._trainers:
            upcoming = partial(self._upcoming, trainer.trainee, n)
            trainer.train_step(batch.site(trainer.trainee.site), upcoming, n)
        self.n_steps += 1
        self.n_seen += n
        bar.update(min(n, self._n_tokens - self.n_seen + n))
        if self.n_seen >= self._n_tokens or self.n_steps % self._log_every == 0:
            is_last = self.n_seen >= self._n_tokens
            records = [trainer.record(is_last=is_last) for trainer in self._trainers]
            bar.set_postfix_str(_summary(records))
            if self._has_callbacks:
                self._parallel.on_main(partial(self._call_back, records))

    def _call_back(self, records: Sequence[Record]) -> None:
        for trainer, record in zip(self._trainers, records, strict=True):
            for callback in self._callbacks:
                with callers_state():
                    callback(trainer.name, record, trainer.trainee.dictionary)

    def _upcoming(self, trainee: Trainee, n_now: int, n_tokens: int) -> Iterator[Activations]:
        """Yields the batches that follow the current batch of ``n_now`` tokens, up to the end of the run."""
        left = min(n_tokens, self._n_tokens - self.n_seen - n_now)
        index = 0
        while left > 0:
            batch = self._queue.peek(index)
            yield batch.site(trainee.site)
            left, index = left - self._queue.size(index), index + 1

    def _agree(self, interrupt: Interrupt) -> bool:
        """Writes a checkpoint if it is due, and returns whether the run stops because of a signal to any rank."""
        checkpoints = self._checkpoints
        is_due = checkpoints is not None and (self.n_seen >= self._n_tokens or checkpoints.is_due(self.n_steps))
        own, ends = interrupt.received, interrupt.ends
        rows = self._parallel.exchange(own or 0, int(ends), int(is_due))
        # The clocks of ranks differ, so rank 0 decides.
        if checkpoints is not None and (any(row[0] for row in rows) or rows[0][2]):
            self._write(checkpoints)
        if own is not None and not ends:
            interrupt.call_handler()
        ending = next((row[0] for row in rows if row[1]), None)
        if ending is not None:
            interrupt.receive(ending)
        return ending is not None

    def _write(self, checkpoints: Checkpoints) -> None:
        if checkpoints.last_step == self.n_steps:
            return
        checkpoints.write(self.n_steps, self.state_dict())

    def _stop_message(self) -> str:
        where = f"Stopped after step {self.n_steps:,} of about {self._n_planned:,}"
        if self._checkpoints is None:
            return f"{where}. The trained weights are kept. Pass `checkpoint=FOLDER` to be able to resume a run."
        return (
            f"{where}. The checkpoint of this step is in {self._checkpoints.folder}. Make the same call with "
            f"checkpoint={str(self._checkpoints.folder)!r} and resume=True to resume the run."
        )


def _parts(name: str, trainee: Trainee) -> Iterator[tuple[str, Stateful]]:
    """Yields the paths and parts of a trainee that have a state. The trainer stores that of the dictionary itself."""
    for field in fields(trainee):
        if field.name != "dictionary":
            yield from stateful(getattr(trainee, field.name), f"{name}.{field.name}")


def _summary(records: Sequence[Record]) -> str:
    parts = []
    for name, form in (("loss", ".3g"), ("fvu", ".3f"), ("l0", ".1f"), ("eval_l0", ".1f"), ("dead", ".1%")):
        values = [getattr(record, name) for record in records]
        low, high = shown(min(values), form), shown(max(values), form)
        parts.append(f"{name} {low}" if low == high else f"{name} {low} to {high}")
    return ", ".join(parts)
