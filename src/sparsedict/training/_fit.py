"""`fit` and `fit_many`: one loop that trains any number of dictionaries on one pass over the data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import timedelta
from typing import Any

import torch

from sparsedict import checks
from sparsedict.data import as_batches
from sparsedict.dictionaries import Dictionary
from sparsedict.kernels import Workspace
from sparsedict.losses import Loss, SquaredError
from sparsedict.penalties import Penalty
from sparsedict.torch_state import in_own_state, without_inference_
from sparsedict.training._batch_queue import BatchQueue
from sparsedict.training._checkpoints import Checkpoints
from sparsedict.training._deterministic import deterministic_algorithms
from sparsedict.training._history import History
from sparsedict.training._initialise import initialise_
from sparsedict.training._loop import Loop
from sparsedict.training._settings import devices_of, environment, of_run
from sparsedict.training._step_hook import StepHook
from sparsedict.training._trainee import OptimizerFactory, Trainee
from sparsedict.training._trainer import DictionaryTrainer
from sparsedict.training._units import RelativeLR, units_from
from sparsedict.training._validation import check_callbacks, check_checkpoint, check_points, check_trainees
from sparsedict.training.callbacks import Callback
from sparsedict.training.schedules import Cosine, Schedule

COSINE = Cosine(warm_up=0.2)
SQUARED_ERROR = SquaredError()
TEN_MINUTES = timedelta(minutes=10)
KEPT = 2


def fit(
    dictionary: Dictionary,
    data: Any,
    *,
    n_tokens: int,
    lr: float | RelativeLR | None = None,
    batch_size: int | None = None,
    penalties: Sequence[Penalty] = (),
    loss: Loss = SQUARED_ERROR,
    step_hooks: Sequence[StepHook] = (),
    optimizer: OptimizerFactory | None = None,
    schedule: Schedule = COSINE,
    clip_norm: float | None = None,
    autocast: torch.dtype | None = None,
    seed: int | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    log_every: int = 100,
    dead_after: int = 500_000,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | timedelta | None = None,
    checkpoint_keep: int | None = None,
    resume: bool = False,
    deterministic: bool = False,
) -> History:
    """Trains a dictionary in place. A loaded or already trained one goes on training.

    A dictionary whose weights are still those that its constructor drew is first started from the first batches
    (:meth:`Dictionary.initialise_`); weights that you set yourself are left as they are.

    Args:
        dictionary: What to train.
        data: An ``ActivationStream``; a tensor of activations ``[n_tokens, d]`` (for autoencoders); a tuple of two
            tensors, inputs and outputs; or an iterable of batches.
        n_tokens: Tokens to train on in all, rounded up to whole batches. A finite source is repeated, reshuffled.
        lr: Peak learning rate of the optimiser, or a :class:`sparsedict.training.RelativeLR`, in units of the data.
            ``None`` is ``RelativeLR(default_lr(dictionary))``, made for Adam.
        batch_size: Tokens per step, where the data doesn't have its own (4,096 by default).
        penalties: What presses the latents to be sparse; each is summed over latents, mean over tokens.
        loss: How far the reconstruction is from the target: summed over ``d_out``, mean over tokens.
        step_hooks: Called after each step to change the dictionary, such as ``Resample``.
        optimizer: An optimiser class or a partial of one, called with the parameters and ``lr``; Adam by default.
        schedule: Course of the learning rate over the run.
        clip_norm: Largest norm of all gradients together, or ``None``; in units of the data where the rate is.
        autocast: Type in which products are computed, such as ``torch.bfloat16``; ``None`` for the weights' own.
        seed: Seed of the order of the data, where the data doesn't have its own (0 by default). The initial weights and
            the tokens that a dictionary starts from depend on the ``generator`` that it was made with, or on
            ``torch.manual_seed`` before it was made.
        progress: Whether to show a progress bar.
        callbacks: Called with ``(name, record, dictionary)`` at each record. Gradients that a callback keeps stay as
            they are: a step reuses the memory of gradients to which nothing else refers.
        log_every: Steps between records. Only then are results read from the device.
        dead_after: Tokens without firing after which a latent counts as dead in the records.
        checkpoint: Folder to write checkpoints to, from which a run that was stopped can go on; ``None`` for none.
        checkpoint_every: Steps from one to the next, or a time; 10 minutes where left out. One is written before the
            first step, one at the end, and one at Ctrl-C.
        checkpoint_keep: How many are kept; 2 where left out.
        resume: Whether to go on from the newest checkpoint, or begin where there is none. All else must be given as
            it was: data from its beginning, the same parts and settings. On the same machine with as many threads the
            result is then the same to the bit as without the stop, on a GPU with ``deterministic=True``.
        deterministic: Whether PyTorch is to use deterministic algorithms alone, which may be slower on a GPU.

    Returns:
        The records of the run.

    Raises:
        TypeError: If an argument isn't what it must be, such as tokens for activations.
        ValueError: If widths don't fit, parts can't serve each other, the data is empty, weights are of a type or at a
            place where they can't be trained, or the checkpoints are those of a run with other parts, settings or data.
        FileExistsError: If the folder holds checkpoints already and ``resume`` isn't set.
        OSError: If a checkpoint can't be written, such as where the disk is full; those that were there stay.
        KeyboardInterrupt: After Ctrl-C, when the step is finished and its checkpoint written.
        NonFiniteLossError: If the loss became NaN or infinite; the last good state is put back first.

    Example:
        >>> import torch, sparsedict as sd
        >>> coder = sd.SparseAutoencoder(8, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
        >>> history = sd.fit(coder, torch.randn(512, 8), n_tokens=2048, batch_size=256, progress=False)
        >>> history.n_steps
        8
    """
    trainee = Trainee(dictionary, penalties, loss, step_hooks, lr, schedule, optimizer, clip_norm)
    return fit_many(
        {"": trainee},
        data,
        n_tokens=n_tokens,
        batch_size=batch_size,
        autocast=autocast,
        seed=seed,
        progress=progress,
        callbacks=callbacks,
        log_every=log_every,
        dead_after=dead_after,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        checkpoint_keep=checkpoint_keep,
        resume=resume,
        deterministic=deterministic,
    )[""]


@in_own_state
def fit_many(
    trainees: Mapping[str, Trainee],
    data: Any,
    *,
    n_tokens: int,
    batch_size: int | None = None,
    autocast: torch.dtype | None = None,
    seed: int | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    log_every: int = 100,
    dead_after: int = 500_000,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | timedelta | None = None,
    checkpoint_keep: int | None = None,
    resume: bool = False,
    deterministic: bool = False,
) -> dict[str, History]:
    """Trains several dictionaries in one pass over the data: a sweep is one call and harvests once.

    Args:
        trainees: Dictionaries by name, each with its own loss, penalties, rate and, for data of several sites, site.
        data: As for :func:`fit`; of several sites where it is ``ActivationStream({name: site, ...}, ...)``.
        n_tokens: Tokens to train each on, rounded up to whole batches.
        batch_size: As for :func:`fit`, and so are all that follow.
        autocast: See :func:`fit`.
        seed: See :func:`fit`.
        progress: See :func:`fit`.
        callbacks: See :func:`fit`.
        log_every: See :func:`fit`.
        dead_after: See :func:`fit`.
        checkpoint: See :func:`fit`; there is one folder for all, and each checkpoint holds all.
        checkpoint_every: See :func:`fit`.
        checkpoint_keep: See :func:`fit`.
        resume: See :func:`fit`.
        deterministic: See :func:`fit`.

    Returns:
        The records of each, by name.
    """
    n_tokens = checks.at_least("n_tokens", n_tokens, 1)
    log_every = checks.at_least("log_every", log_every, 1)
    dead_after = checks.at_least("dead_after", dead_after, 1)
    if autocast not in (None, torch.bfloat16):
        raise ValueError(f"`autocast` must be torch.bfloat16 or None, got {autocast}.")
    check_checkpoint(checkpoint, checkpoint_every, checkpoint_keep, resume)
    callbacks = check_callbacks(callbacks)
    check_trainees(trainees)
    for trainee in trainees.values():
        without_inference_(trainee.dictionary)
    with ExitStack() as stack:
        checkpoints = None
        if checkpoint is not None:
            every = TEN_MINUTES if checkpoint_every is None else checkpoint_every
            keep = KEPT if checkpoint_keep is None else checkpoint_keep
            checkpoints = Checkpoints(checkpoint, every=every, keep=keep, resume=resume)
            stack.enter_context(closing(checkpoints))
        stack.enter_context(deterministic_algorithms(deterministic))
        optimizers = {name: trainee.make_optimizer() for name, trainee in trainees.items()}
        batches = as_batches(data, batch_size=batch_size, seed=seed)
        batches.expect(n_tokens)
        queue = BatchQueue(batches)
        check_points(trainees, queue.batches)
        asked = {"n_tokens": n_tokens, "log_every": log_every, "dead_after": dead_after, "autocast": autocast}
        settings = of_run(trainees, optimizers, queue.batches.description, deterministic=deterministic, **asked)
        state = None if checkpoints is None else checkpoints.begin(settings, environment(devices_of(trainees)))
        if state is None:
            n_planned, units = initialise_(trainees, queue, n_tokens)
        else:
            n_planned = state["n_planned"]
            units = {name: units_from(own.get("units")) for name, own in state["learners"].items()}
        plan: dict[str, Any] = {"n_steps": n_planned, "dead_after": dead_after, "autocast": autocast}
        plan["workspace"] = Workspace()
        trainers = [
            DictionaryTrainer(name, trainee, optimizers[name], units=units[name], **plan)
            for name, trainee in trainees.items()
        ]
        loop = Loop(
            trainers,
            queue,
            n_tokens=n_tokens,
            n_planned=n_planned,
            log_every=log_every,
            callbacks=callbacks,
            checkpoints=checkpoints,
            progress=progress,
        )
        if state is not None:
            loop.load_state_dict(state)
        loop.run()
    return {trainer.name: trainer.history for trainer in trainers}
