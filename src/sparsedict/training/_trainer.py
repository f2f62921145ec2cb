"""`DictionaryTrainer`, which trains one dictionary batch by batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sparsedict.batches import Activations
from sparsedict.dictionaries import ForwardPass, Rows
from sparsedict.kernels import Workspace
from sparsedict.parallel import Alone, Parallel, WholeBatch
from sparsedict.storage import installed_version
from sparsedict.training._evaluation import MAX_TOKENS, end_, evaluation_l0, warn_of_difference, warn_of_missed_targets
from sparsedict.training._good_state import GoodState
from sparsedict.training._gradients import Gradients
from sparsedict.training._history import History, Record, warn_of_divergence
from sparsedict.training._latent_rows import LatentState
from sparsedict.training._meter import Meter
from sparsedict.training._state import load_optimizer, restore
from sparsedict.training._trainee import Trainee
from sparsedict.training._units import Units
from sparsedict.training._weight_update import WeightUpdate

ALONE = Alone()
Upcoming = Callable[[int], Iterator[Activations]]
"""Yields upcoming batches with at least the given number of tokens, or up to the end of the run, without removal."""


@dataclass
class Counters:
    """The counters of a trainer. Checkpoints store every field.

    Attributes:
        tokens_since_fired: Number of tokens since each latent last fired, ``[n_latents]``.
        step: Number of optimiser steps done.
        density: Share of the latent entries that the last step stored. It sets the ``kernels.Capacity`` of the next
            step.
    """

    tokens_since_fired: Tensor
    step: int = 0
    density: float = 1.0


class DictionaryTrainer:
    """Trains one dictionary on batches, and holds its optimiser, history and counters.

    Args:
        name: Name of the dictionary in messages.
        trainee: The dictionary and its training options.
        optimizer: A new optimiser of its parameters.
        n_steps: Planned number of steps.
        dead_after: Number of tokens without firing after which a latent counts as dead.
        autocast: Type of the matrix products, or ``None``.
        units: Units of the parameters if the learning rate is relative, or ``None``.
        workspace: Memory that is reused between steps. Trainers that run in turn may share a workspace.
        parallel: The ranks of the run.
    """

    def __init__(
        self,
        name: str,
        trainee: Trainee,
        optimizer: torch.optim.Optimizer,
        *,
        n_steps: int,
        dead_after: int,
        autocast: torch.dtype | None,
        units: Units | None = None,
        workspace: Workspace | None = None,
        parallel: Parallel = ALONE,
    ) -> None:
        self._parallel = parallel
        self.name = name
        self.trainee = trainee
        self.history = History()
        dictionary = trainee.dictionary
        self._dictionary = dictionary
        self._optimizer = optimizer
        self._n_steps = n_steps
        self._dead_after = dead_after
        workspace = Workspace() if workspace is None else workspace
        self._gradients = Gradients(trainee, optimizer, autocast=autocast, workspace=workspace, parallel=parallel)
        self._update = WeightUpdate(trainee, optimizer, units=units, n_steps=n_steps)
        weight = dictionary.decoder_bias
        self._counters = Counters(torch.zeros(dictionary.n_latents, dtype=torch.int64, device=weight.device))
        self._meter = Meter(trainee.penalties, dictionary.d_out, weight.device, parallel)
        self._good_state = GoodState(dictionary)
        self._trained_before = dict(dictionary.trained_on)
        self._start_time = time.perf_counter()
        self._n_evaluated = 0
        self._last_inputs = torch.empty(0, dictionary.d_in, dtype=weight.dtype, device=weight.device)

    def train_step(self, batch: Activations, upcoming: Upcoming | None = None, n_total: int | None = None) -> None:
        """Performs one optimiser step.

        Args:
            batch: This rank's part of the training batch.
            upcoming: Yields upcoming batches with at least the given number of tokens, without removal.
            n_total: Number of tokens of the batch over all ranks; by default those of ``batch``.
        """
        whole = WholeBatch(self._parallel, batch.n_tokens, batch.n_tokens if n_total is None else n_total)
        with ExitStack() as stack:
            for step_hook in self.trainee.step_hooks:
                stack.enter_context(step_hook.during(self._dictionary, step=self._counters.step, n_steps=self._n_steps))
            self._train_step(batch, upcoming, whole)

    def _train_step(self, batch: Activations, upcoming: Upcoming | None, whole: WholeBatch) -> None:
        # The rows may be the last reference to all inputs of the previous step.
        self._last_inputs = self._last_inputs.new_empty(0, self._dictionary.d_in)
        rows = self._rows(batch)
        self._update.set_rate(self._counters.step)
        density = self._counters.density
        out, terms, self._counters.density = self._gradients.compute_(rows, batch, whole, density, self._position())
        if self._dictionary.shard is not None:
            self._dictionary.shard.finish_gradients_()
        self._parallel.mean_gradients_(self._dictionary.parameters(), whole.share)
        firing_counts = out.encoding.firing_counts()
        self._meter.add(out, terms, firing_counts)
        self._last_inputs = out.inputs[: math.ceil(MAX_TOKENS / self._parallel.n_parts)]
        self._update.apply_()
        self._after_step(out, whole, self._parallel.sum(firing_counts) > 0, upcoming)
        self._parallel.check_equal(self._dictionary.state_dict(), self._counters.step + 1)
        self._counters.step += 1
        self.history.n_steps = self._counters.step
        self.history.n_tokens += whole.total

    def _position(self) -> dict[str, Any]:
        counters = self._counters
        return {"step": counters.step, "n_steps": self._n_steps, "tokens_since_fired": counters.tokens_since_fired}

    def record(self, *, is_last: bool = False) -> Record:
        """Returns the measurements since the last record. Only this method synchronises with the device.

        Args:
            is_last: Whether the run ends with this record, so that the activation updates its state once more.

        Raises:
            NonFiniteLossError: If the loss or a weight isn't finite. The last finite state is restored first.
        """
        means, first_bad = self._meter.read()
        self._good_state.check(first_bad, self._counters.step, self._label, self.trainee.peak_lr)
        last_inputs = self._parallel.rows(self._last_inputs)[:MAX_TOKENS]
        self._n_evaluated = len(last_inputs)
        if is_last:
            end_(self._dictionary, last_inputs, n_steps=self._counters.step, parallel=self._parallel)
        self._good_state.save(self._counters.step)
        record = Record(
            **means,
            step=self._counters.step,
            n_tokens=self.history.n_tokens,
            dead=self._dead_share(),
            lr=self._update.rate(self._counters.step - 1),
            seconds=time.perf_counter() - self._start_time,
            eval_l0=evaluation_l0(self._dictionary, last_inputs, self._parallel),
        )
        self.history.records.append(record)
        self.history.seconds = record.seconds
        return record

    def warn_of_result(self) -> None:
        """Warns if training diverged, or if L0 in evaluation mode differs from L0 in the last step or from a target."""
        if not self.history.records or not self._parallel.is_main:
            return
        warn_of_divergence(self._label, self.history.records)
        trained, evaluated = self._meter.last_l0.item(), self.history.last.eval_l0
        n_tokens = self._n_evaluated
        warn_of_difference(self._label, self._dictionary, trained=trained, evaluated=evaluated, n_tokens=n_tokens)
        warn_of_missed_targets(self._label, self.trainee.penalties, evaluated=evaluated, n_tokens=n_tokens)

    @property
    def _label(self) -> str:
        return f"dictionary {self.name!r}" if self.name else "the dictionary"

    def _dead_share(self) -> float:
        """Returns the share of latents without firing for ``dead_after`` tokens; NaN for a shorter run."""
        if self.history.n_tokens < self._dead_after:
            return math.nan
        dictionary = self._dictionary
        n_latents = dictionary.n_latents if dictionary.shard is None else dictionary.shard.n_latents
        n_dead = (self._counters.tokens_since_fired >= self._dead_after).sum()
        return self._parallel.sum_latents(n_dead).item() / n_latents

    def state_dict(self) -> dict[str, Any]:
        """Returns the complete state of the trainer as plain values, tensors, and `LatentRows` of divided latents."""
        state = {
            "dictionary": self._dictionary.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "counters": dict(vars(self._counters)),
            "meter": self._meter.state_dict(),
            "good": self._good_state.state_dict(self._counters.step),
            "history": self.history.state_dict(),
            "seconds": time.perf_counter() - self._start_time,
            "trained_before": self._trained_before,
            "training_state": self._dictionary.activation_state.training_state(),
            "units": self._update.units_state(),
        }
        if self._dictionary.shard is None:
            return state
        return LatentState(self._dictionary, self._optimizer).with_rows(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state of another trainer with the same settings, from any number of ranks."""
        if self._dictionary.shard is not None:
            state = self._parallel.together(partial(LatentState(self._dictionary, self._optimizer).own, state))
        self._dictionary.load_state_dict(state["dictionary"])
        for name, value in self._dictionary.activation_state.training_state().items():
            value.copy_(state["training_state"][name])
        load_optimizer(self._optimizer, state["optimizer"])
        restore(self._counters, state["counters"], list(vars(self._counters)))
        self._meter.load_state_dict(state["meter"])
        self._good_state.load_state_dict(state["good"])
        self.history.load_state_dict(state["history"])
        self._start_time = time.perf_counter() - state["seconds"]
        self._trained_before = dict(state["trained_before"])

    def record_provenance(self, data: str, facts: Mapping[str, Any]) -> None:
        """Records in ``dictionary.trained_on`` the data and settings of this run, in addition to earlier runs.

        Args:
            data: One-line description of the data.
            facts: Facts of the site, such as its model.
        """
        trained_on = self._dictionary.trained_on
        trained_on.update(self._trained_before)
        trained_on["n_tokens"] = self._trained_before.get("n_tokens", 0) + self.history.n_tokens
        trained_on["data"] = data
        trained_on.update(facts)
        trained_on["library_version"] = installed_version()
        trained_on["lr"] = self.trainee.peak_lr
        trained_on["penalties"] = [repr(penalty) for penalty in self.trainee.penalties]

    def _after_step(
        self, out: ForwardPass, whole: WholeBatch, fired: Bool[Tensor, " n_latents"], upcoming: Upcoming | None
    ) -> None:
        if self._dictionary.activation.is_measured:
            state = self._dictionary.activation_state.entries()
            is_part = self._parallel.n_ranks > 1
            encoding = replace(out.encoding, gather=self._parallel.values) if is_part else out.encoding
            self._dictionary.activation.measure_encoding_(encoding, state, step=self._counters.step)
        with torch.no_grad():
            for penalty in self.trainee.penalties:
                penalty.after_step_(out)
        since = self._counters.tokens_since_fired
        torch.where(fired, torch.zeros_like(since), since + whole.total, out=since)
        if upcoming is not None:
            out = replace(out, upcoming=lambda n_tokens: map(self._rows, upcoming(n_tokens)))
        for step_hook in self.trainee.step_hooks:
            step_hook(out, self._optimizer)

    def _rows(self, batch: Activations) -> Rows:
        weight = self._dictionary.decoder_bias
        inputs, targets = (part.to(weight.device, weight.dtype) for part in self._dictionary.select(batch))
        return inputs, targets
