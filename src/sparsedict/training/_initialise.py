"""Initialisation of new dictionaries, and measurement of parameter units, on the first batches of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.batches import Activations
from sparsedict.dictionaries import Dictionary
from sparsedict.parallel import Alone, Parallel
from sparsedict.training._batch_queue import BatchQueue
from sparsedict.training._trainee import Trainee
from sparsedict.training._units import Units, measure_units
from sparsedict.training._validation import check_widths

ALONE = Alone()
MAX_INITIAL_TOKENS = 32_768
"""Largest number of tokens for the initialisation of a dictionary. All of them are in memory at the same time."""

TOKENS_PER_LATENT = 4
"""Number of candidate tokens per latent, so that different seeds choose different tokens."""


def initialise_(
    trainees: Mapping[str, Trainee], queue: BatchQueue, n_tokens: int, parallel: Parallel = ALONE
) -> tuple[int, dict[str, Units | None]]:
    """Initialises new dictionaries with tokens of the first batches of all ranks, equally on all ranks.

    Returns:
        The expected number of steps, and the parameter units of each trainee by name (``None`` for a trainee with an
        absolute learning rate).

    Raises:
        ValueError: If the widths of data and dictionary differ, or if the first batches aren't finite or have an
            extreme scale.
    """
    first = queue.peek(0)
    for name, trainee in trainees.items():
        check_widths(name, trainee, first.site(trainee.site))
    for trainee in trainees.values():
        _share_start_(trainee.dictionary, parallel)
    is_new = parallel.share([trainee.dictionary.is_untouched for trainee in trainees.values()])
    untouched = [trainee for trainee, new in zip(trainees.values(), is_new, strict=True) if new]
    # The latents of each layer are initialised separately.
    sizes = [block.n_latents for trainee in untouched for block in trainee.dictionary.blocks()]
    n_wanted = max(sizes, default=0)
    held = [first]
    n_held = queue.size(0)
    while n_held < min(TOKENS_PER_LATENT * n_wanted, MAX_INITIAL_TOKENS, n_tokens):
        n_held += queue.size(len(held))
        held.append(queue.peek(len(held)))
    new = {id(trainee) for trainee in untouched}
    for trainee in trainees.values():
        # Random directions of the constructor are a part of the start.
        parallel.broadcast_(start_tensors(trainee.dictionary))
    for trainee in untouched:
        inputs, targets = (
            torch.cat(parts) for parts in zip(*(_rows(trainee, own, parallel) for own in held), strict=True)
        )
        # A dictionary that is initialised with NaN would have no finite state to be restored to.
        for part in (inputs, targets):
            checks.finite("data", part, "Find their cause before you train on this data.")
        trainee.dictionary.initialise_(inputs, targets)
    units = {}
    for name, trainee in trainees.items():
        inputs, targets = _rows(trainee, first, parallel)
        _begin_activation_(trainee.dictionary, inputs, targets, is_new=id(trainee) in new)
        measured = measure_units(trainee.dictionary, inputs, targets)
        units[name] = measured if trainee.has_relative_lr else None
        # Processors of different kinds round differently.
        parallel.broadcast_(start_tensors(trainee.dictionary))
    return math.ceil(n_tokens / queue.size(0)), parallel.share(units)


def _share_start_(dictionary: Dictionary, parallel: Parallel) -> None:
    """Gives a dictionary the start seed and the provenance of the dictionary of rank 0."""
    if parallel.n_ranks > 1:
        dictionary.start_seed, dictionary.trained_on = parallel.share((dictionary.start_seed, dictionary.trained_on))


def start_tensors(dictionary: Dictionary) -> list[Tensor]:
    """Returns all tensors that must be equal on the ranks that train replicas of a dictionary."""
    return [*dictionary.state_dict().values(), *dictionary.activation_state.training_state().values()]


def _rows(trainee: Trainee, batch: Activations, parallel: Parallel) -> tuple[Tensor, Tensor]:
    """Returns the inputs and targets of a batch over all ranks."""
    weight = trainee.dictionary.decoder_bias
    selected = trainee.dictionary.select(batch.site(trainee.site))
    inputs, targets = (parallel.rows(part.to(weight.device, weight.dtype)) for part in selected)
    return inputs, targets


def _begin_activation_(dictionary: Dictionary, inputs: Tensor, targets: Tensor, *, is_new: bool) -> None:
    if type(dictionary.activation).begin_ is Activation.begin_:
        return
    latents = dictionary.scales(inputs, targets).latents
    dictionary.activation.begin_(dictionary.activation_state.entries(), latents=latents, is_new=is_new)
