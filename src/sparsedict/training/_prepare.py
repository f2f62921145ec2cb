"""The preparation of a run: batches, settings, initial or saved state, and the loop that will run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch

from sparsedict.data import as_batches
from sparsedict.kernels import Workspace
from sparsedict.parallel import Parallel
from sparsedict.torch_state import without_inference_
from sparsedict.training._batch_queue import BatchQueue
from sparsedict.training._checkpoints import Checkpoints
from sparsedict.training._deterministic import deterministic_algorithms
from sparsedict.training._initialise import initialise_
from sparsedict.training._loop import Loop
from sparsedict.training._run_options import RunOptions
from sparsedict.training._settings import devices_of, environment, run_settings
from sparsedict.training._trainee import Trainee
from sparsedict.training._trainer import DictionaryTrainer
from sparsedict.training._units import Units
from sparsedict.training._validation import check_points, check_same_call

DEFAULT_EVERY = timedelta(minutes=10)
DEFAULT_KEEP = 2


def prepare(
    trainees: Mapping[str, Trainee],
    data: Any,
    options: RunOptions,
    stack: ExitStack,
    *,
    batch_size: int | None,
    seed: int | None,
    parallel: Parallel,
) -> Loop:
    """Returns the loop of a new run, or of an interrupted run at the step of its checkpoint.

    Args:
        trainees: Dictionaries and their training options, by name.
        data: See `fit`.
        options: The options of the run.
        stack: Receives the contexts that end with the run.
        batch_size: See `fit`.
        seed: See `fit`.
        parallel: See `fit`.
    """
    for trainee in trainees.values():
        without_inference_(trainee.dictionary)
    checkpoints = _open_checkpoints(options, parallel)
    if checkpoints is not None:
        stack.enter_context(closing(checkpoints))
    stack.enter_context(deterministic_algorithms(options.deterministic))
    trainees = {name: _divided(trainee, parallel, stack) for name, trainee in trainees.items()}
    optimizers = {name: trainee.make_optimizer() for name, trainee in trainees.items()}
    batches = parallel.together(lambda: as_batches(data, batch_size=batch_size, seed=seed, parallel=parallel))
    batches.expect(options.n_tokens)
    queue = BatchQueue(batches, parallel, check_points(trainees, batches))
    settings = run_settings(trainees, optimizers, batches.description, **options.settings())
    check_same_call(settings, parallel)
    here = environment(devices_of(trainees), parallel.n_ranks)
    state = None if checkpoints is None else checkpoints.load(settings, here)
    if state is None:
        n_planned, units = initialise_(trainees, queue, options.n_tokens, parallel)
    else:
        n_planned, units = _saved_plan(state)
    for trainee in trainees.values():
        parallel.begin_(trainee)
    plan = {"n_steps": n_planned, "dead_after": options.dead_after, "autocast": options.autocast}
    trainers = _make_trainers(trainees, optimizers, units, parallel=parallel, **plan)
    loop = Loop(trainers, queue, options, n_planned=n_planned, checkpoints=checkpoints, parallel=parallel)
    if state is not None:
        loop.load_state_dict(state)
    return loop


def _divided(trainee: Trainee, parallel: Parallel, stack: ExitStack) -> Trainee:
    """Returns the trainee with the dictionary that this rank trains."""
    dictionary = stack.enter_context(parallel.divided(trainee.dictionary))
    return trainee if dictionary is trainee.dictionary else replace(trainee, dictionary=dictionary)


def _open_checkpoints(options: RunOptions, parallel: Parallel) -> Checkpoints | None:
    """Opens the folder of checkpoints, with defaults for options that were left out."""
    if options.checkpoint is None:
        return None
    every = DEFAULT_EVERY if options.checkpoint_every is None else options.checkpoint_every
    keep = DEFAULT_KEEP if options.checkpoint_keep is None else options.checkpoint_keep
    return Checkpoints(options.checkpoint, every=every, keep=keep, resume=options.resume, parallel=parallel)


def _saved_plan(state: Mapping[str, Any]) -> tuple[int, dict[str, Units | None]]:
    """Returns the planned number of steps and the units of each trainee from a checkpoint."""
    units = {name: Units.from_state(trainer.get("units")) for name, trainer in state["learners"].items()}
    return state["n_planned"], units


def _make_trainers(
    trainees: Mapping[str, Trainee],
    optimizers: Mapping[str, torch.optim.Optimizer],
    units: Mapping[str, Units | None],
    **plan: Any,
) -> list[DictionaryTrainer]:
    """Returns a trainer for each trainee. They run in turn, so they share a workspace."""
    workspace = Workspace()
    return [
        DictionaryTrainer(name, trainee, optimizers[name], units=units[name], workspace=workspace, **plan)
        for name, trainee in trainees.items()
    ]
