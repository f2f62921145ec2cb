"""`fit` and `fit_many`, which train one or several dictionaries in one pass over the data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import torch

from sparsedict.dictionaries import Dictionary
from sparsedict.losses import Loss, SquaredError
from sparsedict.parallel import Alone, Parallel
from sparsedict.penalties import Penalty
from sparsedict.torch_state import in_own_state
from sparsedict.training._history import History
from sparsedict.training._prepare import prepare
from sparsedict.training._run_options import RunOptions, check_same_options
from sparsedict.training._step_hook import StepHook
from sparsedict.training._trainee import DefaultLR, OptimizerFactory, Trainee
from sparsedict.training._units import RelativeLR
from sparsedict.training._validation import check_trainees
from sparsedict.training.callbacks import Callback
from sparsedict.training.schedules import Cosine, Schedule

ALONE = Alone()
COSINE = Cosine(warm_up=0.2)
SQUARED_ERROR = SquaredError()


def fit(
    dictionary: Dictionary,
    data: Any,
    *,
    n_tokens: int,
    lr: float | RelativeLR | DefaultLR | None = None,
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
    parallel: Parallel = ALONE,
) -> History:
    """Trains a dictionary in place. Training continues from the current weights if they were trained or set before.

    A new dictionary, whose weights are those of its constructor, is first initialised with the first batches of the
    data (:meth:`Dictionary.initialise_`).

    Args:
        dictionary: The dictionary to train.
        data: An ``ActivationStream``, a tensor of activations ``[n_tokens, d]`` for autoencoders, a tuple of two
            tensors (inputs and outputs), or an iterable of batches.
        n_tokens: Total number of training tokens, rounded up to whole batches. Finite data is repeated in a new order.
        lr: Peak learning rate of the optimiser, or a :class:`sparsedict.training.RelativeLR` or
            :class:`sparsedict.training.DefaultLR`, in units of the data. ``None`` is ``DefaultLR(1.0)``, which is
            suitable for Adam.
        batch_size: Tokens per step, 4,096 by default. Leave it out for data that defines its batch size.
        penalties: Sparsity penalties. Each is summed over latents and averaged over tokens.
        loss: Reconstruction loss, summed over ``d_out`` and averaged over tokens.
        step_hooks: Hooks that change the dictionary after each step, such as ``Resample``.
        optimizer: An optimiser class or a partial of a class, called with the parameters and ``lr``. Adam by default.
        schedule: Learning-rate schedule of the run.
        clip_norm: Maximum norm of all gradients together, or ``None``. It is in units of the data if the rate is.
        autocast: Type of the matrix products, such as ``torch.bfloat16``. ``None`` uses the type of the weights.
        seed: Seed of the order of the data, 0 by default. Leave it out for data that defines its seed. The initial
            weights and the tokens of the initialisation depend on the ``generator`` argument of the dictionary, or on
            ``torch.manual_seed`` before its construction.
        progress: Whether to show a progress bar.
        callbacks: Called with ``(name, record, dictionary)`` at each record. A callback may store gradients, because a
            step reuses the memory of a gradient only if nothing else refers to it.
        log_every: Number of steps between records. Measurements are copied from the device at records only.
        dead_after: Number of tokens without firing after which a latent counts as dead in the records.
        checkpoint: Folder of checkpoints, from which an interrupted run can be resumed. ``None`` writes no checkpoints.
        checkpoint_every: Steps or time between checkpoints, 10 minutes by default. A checkpoint is also written before
            the first step, after the last step and after Ctrl-C.
        checkpoint_keep: Number of checkpoints to keep, 2 by default.
        resume: Whether to resume from the newest checkpoint, if there is one. All other arguments must be those of the
            interrupted run, with the data from its beginning. On the same machine and with the same number of threads,
            the result is bit-identical to that of an uninterrupted run; on a GPU this needs ``deterministic=True``.
        deterministic: Whether PyTorch uses deterministic algorithms only, which may be slower on a GPU.
        parallel: The processes of the run: one by default, or all that ``torchrun`` started. Each makes the same call.

    Returns:
        The records of the run.

    Raises:
        TypeError: If an argument has the wrong type, such as tokens instead of activations.
        ValueError: If widths differ, parts are incompatible, the data is empty, the type or device of the weights can't
            be trained, or the checkpoints belong to a run with other parts, settings or data.
        FileExistsError: If the folder contains checkpoints already and ``resume`` isn't set.
        OSError: If a checkpoint can't be written, for instance on a full disk. Earlier checkpoints are left unchanged.
        KeyboardInterrupt: After Ctrl-C, once the step is finished and its checkpoint is written.
        NonFiniteLossError: If the loss becomes NaN or infinite. The last finite state is restored first.
        RankError: If another process of the run failed. The error names its rank.

    Example:
        >>> import torch, sparsedict as sd
        >>> sae = sd.SparseAutoencoder(8, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
        >>> history = sd.fit(sae, torch.randn(512, 8), n_tokens=2048, batch_size=256, progress=False)
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
        parallel=parallel,
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
    parallel: Parallel = ALONE,
) -> dict[str, History]:
    """Trains several dictionaries in one pass over the data, so that a sweep computes the activations once.

    Args:
        trainees: Dictionaries and their training options, by name.
        data: Training data, see :func:`fit`. ``ActivationStream({name: site, ...}, ...)`` gives data of several sites.
        n_tokens: Number of training tokens of each dictionary, rounded up to whole batches.
        batch_size: See :func:`fit`.
        autocast: See :func:`fit`.
        seed: See :func:`fit`.
        progress: See :func:`fit`.
        callbacks: See :func:`fit`.
        log_every: See :func:`fit`.
        dead_after: See :func:`fit`.
        checkpoint: See :func:`fit`. Each checkpoint contains all dictionaries.
        checkpoint_every: See :func:`fit`.
        checkpoint_keep: See :func:`fit`.
        resume: See :func:`fit`.
        deterministic: See :func:`fit`.
        parallel: See :func:`fit`.

    Returns:
        The records of each dictionary, by name.
    """
    if not isinstance(parallel, Parallel):
        raise TypeError(f"`parallel` must be sd.DataParallel() or another Parallel, got {parallel!r}.")
    with ExitStack() as stack:
        # Within this context, an error on one rank ends the run on all ranks.
        stack.enter_context(parallel.running())
        options = parallel.together(
            lambda: RunOptions(
                names=check_trainees(trainees),
                n_tokens=n_tokens,
                log_every=log_every,
                dead_after=dead_after,
                autocast=autocast,
                checkpoint=checkpoint,
                checkpoint_every=checkpoint_every,
                checkpoint_keep=checkpoint_keep,
                resume=resume,
                deterministic=deterministic,
                progress=progress,
                callbacks=callbacks,
            )
        )
        check_same_options(options, parallel)
        loop = prepare(trainees, data, options, stack, batch_size=batch_size, seed=seed, parallel=parallel)
        loop.run()
    return loop.histories
