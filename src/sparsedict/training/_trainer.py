"""The training of one dictionary, batch by batch."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsedict.batches import Activations
from sparsedict.dictionaries import ForwardPass, Rows
from sparsedict.kernels import Capacity, StepContext, Workspace
from sparsedict.penalties import Penalty
from sparsedict.storage import installed_version
from sparsedict.training._evaluated import MAX_TOKENS, end_, evaluation_l0, warn_of_difference, warn_of_missed
from sparsedict.training._history import History, Record
from sparsedict.training._meter import Meter
from sparsedict.training._state import attributes, restore, stateful
from sparsedict.training._trainee import Trainee
from sparsedict.training._units import Units


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite. The dictionary holds the last state known to be good.

    Attributes:
        found: What became NaN or infinite and when, without the remedy.
        lr: Peak learning rate of the run; None where it isn't known.

    Args:
        found: See the attribute.
        lr: See the attribute.
    """

    def __init__(self, found: str, lr: float | None = None) -> None:
        remedy = ", set `clip_norm`, or look for outliers in the activations."
        super().__init__(found if lr is None else f"{found} Lower `lr` (it was {lr:g}){remedy}")
        self.found = found
        self.lr = lr


Upcoming = Callable[[int], Iterator[Activations]]
"""Gives the next batches, of at least so many tokens in all or to the end of the run, without taking them."""


@dataclass
class Counters:
    """What a trainer counts from step to step. All of it goes into checkpoints: a new counter is a new field.

    Attributes:
        tokens_since_fired: For each latent, tokens seen since it last fired.
        step: Optimiser steps done.
        density: Share of entries that the last step stored; the next step's ``kernels.Capacity`` depends on it.
    """

    tokens_since_fired: Tensor
    step: int = 0
    density: float = 1.0


COUNTERS = tuple(field.name for field in fields(Counters))


class DictionaryTrainer:
    """Trains one dictionary on batches; holds its optimiser, history and counters.

    Args:
        name: For messages.
        trainee: What is trained, and how.
        optimizer: Of its parameters, new.
        n_steps: Steps that the run is planned for.
        dead_after: Tokens without firing after which a latent counts as dead.
        autocast: Type in which products are computed, or ``None``.
        units: Of the parameters, where the learning rate is relative to them.
        workspace: Memory that steps use again; trainers that take turns may share it.
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
    ) -> None:
        self.name = name
        self.trainee = trainee
        self.history = History()
        dictionary = trainee.dictionary
        self._dictionary = dictionary
        self._optimizer = optimizer
        self._units = units
        if units is not None:
            units.scale_(optimizer, dictionary)
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        self._n_steps = n_steps
        self._dead_after = dead_after
        self._autocast = autocast
        self._workspace = Workspace() if workspace is None else workspace
        weight = dictionary.decoder
        self._counters = Counters(torch.zeros(dictionary.n_latents, dtype=torch.int64, device=weight.device))
        self._parts_keep_state = any(True for _ in stateful([trainee.loss, *trainee.penalties], ""))
        self._penalty_names = penalty_names(trainee.penalties)
        self._meter = Meter(self._penalty_names, dictionary.d_out, weight.device)
        self._good: tuple[int, dict[str, Tensor]] = (0, {})
        self._trained_before = dict(dictionary.trained_on)
        self._begin = time.perf_counter()
        self._last_inputs = torch.empty(0, dictionary.d_in, dtype=weight.dtype, device=weight.device)
        self._keep()

    def learn(self, batch: Activations, upcoming: Upcoming | None = None) -> None:
        """Makes one optimiser step.

        Args:
            batch: What to learn from.
            upcoming: Gives the next batches, of at least so many tokens in all, without taking them.
        """
        inputs, targets = self._rows(batch)
        self._set_rate()
        capacity = Capacity(self._counters.density)
        out, parts = self._differentiated(inputs, targets, batch, capacity)
        if not capacity.was_sufficient():
            out, parts = self._differentiated(inputs, targets, batch)
        self._counters.density = capacity.density
        self._meter.add(out, parts)
        self._last_inputs = inputs[:MAX_TOKENS]
        self._update_weights()
        self._after_step(out, upcoming)
        self._counters.step += 1
        self.history.n_steps = self._counters.step
        self.history.n_tokens += len(inputs)

    def _drop_gradients(self) -> None:
        parameters = self._dictionary.parameters()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self._optimizer.zero_grad()
        self._workspace.reclaim(gradients)

    def _differentiated(
        self, inputs: Tensor, targets: Tensor, batch: Activations, capacity: Capacity | None = None
    ) -> tuple[ForwardPass, list[Tensor]]:
        """Gives every parameter its gradient; returns the pass, and the objective, loss and penalties."""
        trainee = self.trainee
        self._drop_gradients()
        # The caller's autocast would keep casted weights of the step before.
        torch.clear_autocast_cache()
        try:
            with torch.enable_grad():
                with self._precision(inputs.device):
                    context = StepContext(workspace=self._workspace, capacity=capacity)
                    out = self._forward_pass(inputs, targets, batch, context)
                    terms = [trainee.loss(out), *(penalty(out) for penalty in trainee.penalties)]
                    objective = torch.stack(terms).sum()
                objective.backward()
        finally:
            self._workspace.release()
        return out, [objective, *terms]

    def _forward_pass(self, inputs: Tensor, targets: Tensor, batch: Activations, context: StepContext) -> ForwardPass:
        counters = self._counters
        since = counters.tokens_since_fired
        forward = partial(
            self._dictionary.forward_pass, inputs, targets, step=counters.step, tokens_since_fired=since, batch=batch
        )
        out = forward(context=context)
        # A part with state must be called once a step only: before it is, the entries must be right.
        if context.capacity is not None and self._parts_keep_state and not context.capacity.was_sufficient():
            return forward(context=replace(context, capacity=None))
        return out

    def record(self, *, is_last: bool = False) -> Record:
        """Reads what was measured since the last record, the only place that waits for the device.

        Args:
            is_last: Whether the run ends here, so that the activation measures once more.

        Raises:
            NonFiniteLossError: If the loss or a weight isn't finite; the last good state is put back first.
        """
        means, first_bad = self._meter.read()
        if first_bad is not None or not self._weights_are_finite():
            self._fail(first_bad)
        if is_last:
            end_(self._dictionary, self._last_inputs, n_steps=self._counters.step)
        self._keep()
        record = Record(
            step=self._counters.step,
            n_tokens=self.history.n_tokens,
            objective=means["objective"],
            loss=means["loss"],
            penalties={name: means[f"penalty:{name}"] for name in self._penalty_names},
            fvu=means["fvu"],
            l0=means["l0"],
            dead=self._dead_share(),
            lr=self._rate(),
            seconds=time.perf_counter() - self._begin,
            eval_l0=evaluation_l0(self._dictionary, self._last_inputs),
        )
        self.history.records.append(record)
        self.history.seconds = record.seconds
        return record

    def warn_of_evaluation(self) -> None:
        """Warns where L0 in evaluation mode clearly isn't that of the last training step, or that of a target."""
        if not self.history.records:
            return
        trained, evaluated = self._meter.last_l0.item(), self.history.last.eval_l0
        n_tokens = len(self._last_inputs)
        warn_of_difference(self._owner, self._dictionary, trained=trained, evaluated=evaluated, n_tokens=n_tokens)
        warn_of_missed(self._owner, self.trainee.penalties, evaluated=evaluated, n_tokens=n_tokens)

    @property
    def _owner(self) -> str:
        return f"dictionary {self.name!r}" if self.name else "the dictionary"

    def _dead_share(self) -> float:
        """Returns the share of latents that haven't fired for ``dead_after`` tokens; NaN before these were seen."""
        if self.history.n_tokens < self._dead_after:
            return math.nan
        return (self._counters.tokens_since_fired >= self._dead_after).double().mean().item()

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the next steps depend on, and the history: tensors and plain values."""
        good_step, good = self._good
        return {
            "dictionary": self._dictionary.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "counters": attributes(self._counters, COUNTERS),
            "meter": self._meter.state_dict(),
            # At a record both are the same.
            "good": {"step": good_step, "dictionary": None if good_step == self._counters.step else good},
            "history": self.history.state_dict(),
            "seconds": time.perf_counter() - self._begin,
            "trained_before": self._trained_before,
            "training_state": self._dictionary.activation_state.training_state(),
            "units": None if self._units is None else self._units.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where another trainer of the same settings stood."""
        self._dictionary.load_state_dict(state["dictionary"])
        for name, value in self._dictionary.activation_state.training_state().items():
            value.copy_(state["training_state"][name])
        load_optimizer(self._optimizer, state["optimizer"])
        restore(self._counters, state["counters"], COUNTERS)
        self._meter.load_state_dict(state["meter"])
        good = state["good"]
        self._keep()
        if good["dictionary"] is not None:
            for name, value in self._good[1].items():
                value.copy_(good["dictionary"][name])
        self._good = good["step"], self._good[1]
        self.history.load_state_dict(state["history"])
        self._begin = time.perf_counter() - state["seconds"]
        self._trained_before = dict(state["trained_before"])

    def note_training(self, data: str, facts: Mapping[str, Any]) -> None:
        """Writes into the dictionary what it has been trained on, by this run and before.

        Args:
            data: What the data is, in one line.
            facts: Of the site, such as its model.
        """
        trained_on = self._dictionary.trained_on
        trained_on.update(self._trained_before)
        trained_on["n_tokens"] = self._trained_before.get("n_tokens", 0) + self.history.n_tokens
        trained_on["data"] = data
        trained_on.update(facts)
        trained_on["library_version"] = installed_version()
        trained_on["lr"] = self.trainee.peak_lr
        trained_on["penalties"] = [repr(penalty) for penalty in self.trainee.penalties]

    def _set_rate(self) -> None:
        factor = self.trainee.schedule.factor(self._counters.step, self._n_steps)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor

    def _rate(self) -> float:
        """Returns the rate of the last step, in units of the data where it is relative."""
        if self._units is None:
            return self._optimizer.param_groups[0]["lr"]
        return self.trainee.peak_lr * self.trainee.schedule.factor(self._counters.step - 1, self._n_steps)

    def _precision(self, device: torch.device):
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(device.type, self._autocast)

    def _update_weights(self) -> None:
        decoder, norm = self._dictionary.decoder, self._dictionary.decoder_norm
        if decoder.grad is not None:
            norm.project_gradient_(decoder, decoder.grad)
        if self.trainee.clip_norm is not None:
            if self._units is None:
                torch.nn.utils.clip_grad_norm_(self._dictionary.parameters(), self.trainee.clip_norm)
            else:
                self._units.clip_gradients_(self._dictionary, self.trainee.clip_norm)
        self._optimizer.step()
        if decoder.requires_grad:
            norm.constrain_(decoder)

    def _after_step(self, out: ForwardPass, upcoming: Upcoming | None) -> None:
        state = self._dictionary.activation_state.entries()
        self._dictionary.activation.measure_(out.values.detach(), state, step=self._counters.step)
        with torch.no_grad():
            for penalty in self.trainee.penalties:
                penalty.after_step_(out)
        fired = out.firing_counts() > 0
        since = self._counters.tokens_since_fired
        torch.where(fired, torch.zeros_like(since), since + out.n_tokens, out=since)
        if upcoming is not None:
            out = replace(out, upcoming=lambda n_tokens: map(self._rows, upcoming(n_tokens)))
        for step_hook in self.trainee.step_hooks:
            step_hook(out, self._optimizer)

    def _rows(self, batch: Activations) -> Rows:
        weight = self._dictionary.decoder
        inputs, targets = (part.to(weight.device, weight.dtype) for part in self._dictionary.select(batch))
        return inputs, targets

    def _weights_are_finite(self) -> bool:
        # The largest magnitude, which takes no memory, is NaN or infinite where any is.
        weights = [p.detach() for p in self._dictionary.parameters() if p.numel()]
        return all(torch.linalg.vector_norm(weight, ord=torch.inf).isfinite().item() for weight in weights)

    def _keep(self) -> None:
        """Writes the weights over those kept before: memory for two copies would be more than a step takes."""
        kept = self._good[1]
        for name, value in self._dictionary.state_dict().items():
            if name in kept:
                kept[name].copy_(value)
            else:
                kept[name] = value.detach().clone()
        self._good = self._counters.step, kept

    def _fail(self, first_bad: int | None) -> None:
        good_step, state = self._good
        self._dictionary.load_state_dict(state)
        where = (
            f"at step {first_bad}" if first_bad is not None else f"between steps {good_step} and {self._counters.step}"
        )
        what = "The loss" if first_bad is not None else "A weight"
        raise NonFiniteLossError(
            f"{what} of {self._owner} became NaN or infinite {where}. The dictionary was put back to its "
            f"state after step {good_step}, the last one known to be good.",
            self.trainee.peak_lr,
        )


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads a state as it was saved; by itself an optimiser converts it to the parameters' type, which may round."""
    optimizer.load_state_dict(state)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, saved in state["state"].items():
        held = optimizer.state[parameters[index]]
        for name, value in saved.items():
            if isinstance(value, Tensor) and held[name].dtype != value.dtype:
                held[name] = value.to(held[name].device)


def penalty_names(penalties: Sequence[Penalty]) -> list[str]:
    """Names penalties by their class, numbered where one class occurs several times."""
    names = [type(penalty).__name__ for penalty in penalties]
    totals, seen = Counter(names), Counter()
    for i, name in enumerate(names):
        if totals[name] > 1:
            seen[name] += 1
            names[i] = f"{name} {seen[name]}"
    return names
