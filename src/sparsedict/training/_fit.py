"""`fit` and `fit_many`: one loop that trains any number of dictionaries on one pass over the data."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from tqdm.auto import tqdm

from sparsedict import checks
from sparsedict.data import AnyBatch, Batches, as_batches
from sparsedict.dictionaries import Dictionary
from sparsedict.losses import Loss, SquaredError
from sparsedict.penalties import Penalty
from sparsedict.training._history import History, Record
from sparsedict.training._learner import Learner
from sparsedict.training._trainee import OptimizerFactory, Trainee
from sparsedict.training._upkeep import Upkeep
from sparsedict.training.callbacks import Callback
from sparsedict.training.schedules import Cosine, Schedule
from sparsedict.types import ActivationBatch

COSINE = Cosine(warm_up=0.2)
SQUARED_ERROR = SquaredError()
MOST_INITIAL_TOKENS = 32_768
"""Most tokens that a new dictionary is started from: they are held in memory together."""


def fit(
    dictionary: Dictionary,
    data: Any,
    *,
    n_tokens: int,
    lr: float = 1e-3,
    batch_size: int | None = None,
    penalties: Sequence[Penalty] = (),
    loss: Loss = SQUARED_ERROR,
    upkeep: Sequence[Upkeep] = (),
    optimizer: OptimizerFactory | None = None,
    schedule: Schedule = COSINE,
    clip_norm: float | None = None,
    autocast: torch.dtype | None = None,
    seed: int | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    log_every: int = 100,
    dead_after: int = 500_000,
) -> History:
    """Trains a dictionary in place. A loaded or already trained one goes on training.

    A dictionary whose weights are still those that its constructor drew is first started from the first batches
    (:meth:`Dictionary.initialise_`); weights that you set yourself are left as they are.

    Args:
        dictionary: What to train.
        data: An ``ActivationStream``; a tensor of activations ``[n_tokens, d]`` (for autoencoders); a tuple of two
            tensors, inputs and outputs; or an iterable of batches.
        n_tokens: Tokens to train on in all, rounded up to whole batches. A finite source is repeated, reshuffled.
        lr: Peak learning rate.
        batch_size: Tokens per step, where the data doesn't have its own (4,096 by default).
        penalties: What presses the latents to be sparse; each is summed over latents, mean over tokens.
        loss: How far the reconstruction is from the target: summed over ``d_out``, mean over tokens.
        upkeep: What is done to the dictionary between steps, such as ``Resample``.
        optimizer: An optimiser class or a partial of one, called with the parameters and ``lr``; Adam by default.
        schedule: Course of the learning rate over the run.
        clip_norm: Largest norm of all gradients together, or ``None``.
        autocast: Type in which products are computed, such as ``torch.bfloat16``; ``None`` for the weights' own.
        seed: Seed of the shuffle, where the data doesn't have its own (0 by default).
        progress: Whether to show a progress bar.
        callbacks: Called with ``(name, record, dictionary)`` at each record.
        log_every: Steps between records. Only then are results read from the device.
        dead_after: Tokens without firing after which a latent counts as dead in the records.

    Returns:
        The records of the run.

    Raises:
        TypeError: If an argument isn't what it must be, such as tokens for activations.
        ValueError: If widths don't fit, parts can't serve each other, or the data is empty.
        NonFiniteLossError: If the loss became NaN or infinite; the last good state is put back first.

    Example:
        >>> import torch, sparsedict as sd
        >>> coder = sd.SparseAutoencoder(8, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
        >>> history = sd.fit(coder, torch.randn(512, 8), n_tokens=2048, batch_size=256, progress=False)
        >>> history.n_steps
        8
    """
    trainee = Trainee(dictionary, penalties, loss, upkeep, lr, schedule, optimizer, clip_norm)
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
    )[""]


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

    Returns:
        The records of each, by name.
    """
    checks.at_least("n_tokens", n_tokens, 1)
    checks.at_least("log_every", log_every, 1)
    checks.at_least("dead_after", dead_after, 1)
    if autocast not in (None, torch.bfloat16):
        raise ValueError(f"`autocast` must be torch.bfloat16 or None, got {autocast}.")
    _check_trainees(trainees)
    batches = as_batches(data, batch_size=batch_size, seed=seed)
    _check_sites(trainees, batches)
    first = batches.next_batch()
    for name, trainee in trainees.items():
        _check_widths(name, trainee, _of_site(first, trainee, batches))
    waiting = _initialise_(trainees, batches, first, n_tokens)
    n_steps = math.ceil(n_tokens / len(_any_site(first)))
    learners = [
        Learner(name, trainee, n_steps=n_steps, dead_after=dead_after, autocast=autocast)
        for name, trainee in trainees.items()
    ]
    bar = tqdm(total=n_tokens, unit="tok", unit_scale=True, disable=not progress, desc="fit")
    try:
        _set_mode(trainees, training=True)
        _train(learners, batches, waiting, n_tokens, log_every, callbacks, bar)
    finally:
        bar.close()
        _set_mode(trainees, training=False)
        for learner in learners:
            _note_training(learner, batches)
    return {learner.name: learner.history for learner in learners}


def _train(
    learners: list[Learner],
    batches: Batches,
    waiting: deque[AnyBatch],
    n_tokens: int,
    log_every: int,
    callbacks: Sequence[Callback],
    bar: tqdm,
) -> None:
    n_seen = n_steps = 0
    while True:
        batch = waiting.popleft() if waiting else batches.next_batch()
        for learner in learners:
            learner.learn(_of_site(batch, learner.trainee, batches))
        n_steps += 1
        n_seen += len(_any_site(batch))
        bar.update(min(len(_any_site(batch)), n_tokens - bar.n))
        done = n_seen >= n_tokens
        if done or n_steps % log_every == 0:
            records = [learner.record() for learner in learners]
            bar.set_postfix_str(_summary(records))
            for learner, record in zip(learners, records, strict=True):
                for callback in callbacks:
                    callback(learner.name, record, learner.trainee.dictionary)
        if done:
            return


def _initialise_(trainees: Mapping[str, Trainee], batches: Batches, first: AnyBatch, n_tokens: int) -> deque[AnyBatch]:
    """Starts new dictionaries from the first batches, one token for each latent; returns these, to be trained on."""
    untouched = [trainee for trainee in trainees.values() if trainee.dictionary.is_untouched]
    waiting = deque([first])
    n_wanted = max((trainee.dictionary.n_latents for trainee in untouched), default=0)
    n_held = len(_any_site(first))
    while n_held < min(n_wanted, MOST_INITIAL_TOKENS, n_tokens):
        waiting.append(batches.next_batch())
        n_held += len(_any_site(waiting[-1]))
    for trainee in untouched:
        dictionary = trainee.dictionary
        weight = dictionary.decoder
        selected = [dictionary.select(_of_site(batch, trainee, batches)) for batch in waiting]
        inputs, targets = (torch.cat(parts).to(weight.device, weight.dtype) for parts in zip(*selected, strict=True))
        # A dictionary that starts from NaN has no good state to be put back to.
        for part in (inputs, targets):
            checks.finite("data", part, "Look where they come from before training on the rest.")
        dictionary.initialise_(inputs, targets)
    return waiting


def _note_training(learner: Learner, batches: Batches) -> None:
    trainee = learner.trainee
    trained_on = trainee.dictionary.trained_on
    trained_on["n_tokens"] = trained_on.get("n_tokens", 0) + learner.history.n_tokens
    trained_on["data"] = batches.description
    trained_on["lr"] = trainee.lr
    trained_on["penalties"] = [repr(penalty) for penalty in trainee.penalties]


def _summary(records: list[Record]) -> str:
    parts = []
    for name, form in (("loss", ".3g"), ("fvu", ".3f"), ("l0", ".1f"), ("dead", ".1%")):
        values = [getattr(record, name) for record in records]
        low, high = format(min(values), form), format(max(values), form)
        parts.append(f"{name} {low}" if low == high else f"{name} {low} to {high}")
    return ", ".join(parts)


def _set_mode(trainees: Mapping[str, Trainee], *, training: bool) -> None:
    for trainee in trainees.values():
        trainee.dictionary.train(training)


def _any_site(batch: AnyBatch) -> ActivationBatch:
    return next(iter(batch.values())) if isinstance(batch, dict) else batch


def _of_site(batch: AnyBatch, trainee: Trainee, batches: Batches) -> ActivationBatch:
    chosen = batch[trainee.site] if isinstance(batch, dict) and trainee.site is not None else _any_site(batch)
    # A bare tensor is whatever the autoencoder reads, neurons' activations included.
    return chosen if batches.has_pairs(trainee.site) else replace(chosen, neurons=chosen.inputs)


def _check_trainees(trainees: Mapping[str, Trainee]) -> None:
    if not isinstance(trainees, Mapping) or not trainees:
        raise ValueError(f"`trainees` must map at least one name to a Trainee, got {trainees!r}.")
    owners: dict[int, str] = {}
    for name, trainee in trainees.items():
        if not isinstance(trainee, Trainee):
            raise TypeError(f"`trainees[{name!r}]` must be a Trainee(dictionary, ...), got {type(trainee).__name__}.")
        other = owners.setdefault(id(trainee.dictionary), name)
        if other != name:
            raise ValueError(f"`trainees` {other!r} and {name!r} train the same dictionary: make a copy of it.")


def _check_sites(trainees: Mapping[str, Trainee], batches: Batches) -> None:
    for name, trainee in trainees.items():
        label = f"trainees[{name!r}].site" if name else "site"
        if batches.names is None and trainee.site is not None:
            raise ValueError(f"`{label}` must be None, for the data has one site without a name, got {trainee.site!r}.")
        if batches.names is not None and len(batches.names) > 1 and trainee.site is None:
            raise ValueError(f"`{label}` must be one of the data's sites {list(batches.names)}, got None.")
        if batches.names is not None and trainee.site is not None and trainee.site not in batches.names:
            raise ValueError(f"`{label}` must be one of the data's sites {list(batches.names)}, got {trainee.site!r}.")
        dictionary = trainee.dictionary
        if not batches.has_pairs(trainee.site) and dictionary.reads != dictionary.writes:
            raise TypeError(
                f"`data` must hold inputs and outputs for a {type(dictionary).__name__}, which reads an MLP's "
                f"{dictionary.reads} and gives its {dictionary.writes}, got one tensor. Pass a tuple of two tensors or "
                "an ActivationStream."
            )


def _check_widths(name: str, trainee: Trainee, batch: ActivationBatch) -> None:
    dictionary = trainee.dictionary
    label = f"trainees[{name!r}]" if name else "dictionary"
    inputs, targets = dictionary.select(batch)
    for role, part, width, attribute in (
        (dictionary.reads, inputs, dictionary.d_in, "d_in"),
        (dictionary.writes, targets, dictionary.d_out, "d_out"),
    ):
        if part.shape[-1] != width:
            raise ValueError(
                f"`{label}.{attribute}` must equal the width of the data's {role}, {part.shape[-1]}, got {width}."
            )
