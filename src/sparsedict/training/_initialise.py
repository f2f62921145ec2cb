"""Initialisation of new dictionaries, and measurement of parameter units, on the first batches of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.batches import Activations
from sparsedict.training._batch_queue import BatchQueue
from sparsedict.training._trainee import Trainee
from sparsedict.training._units import Units, measure_units
from sparsedict.training._validation import check_widths

MAX_INITIAL_TOKENS = 32_768
"""Largest number of tokens for the initialisation of a dictionary. All of them are in memory at the same time."""

TOKENS_PER_LATENT = 4
"""Number of candidate tokens per latent, so that different seeds choose different tokens."""


def initialise_(
    trainees: Mapping[str, Trainee], queue: BatchQueue, n_tokens: int
) -> tuple[int, dict[str, Units | None]]:
    """Initialises new dictionaries with tokens of the first batches.

    Returns:
        The expected number of steps, and the parameter units of each trainee by name (``None`` for a trainee with an
        absolute learning rate).

    Raises:
        ValueError: If the widths of data and dictionary differ, or if the first batches aren't finite.
    """
    first = queue.peek(0)
    for name, trainee in trainees.items():
        check_widths(name, trainee, first.site(trainee.site))
    untouched = [trainee for trainee in trainees.values() if trainee.dictionary.is_untouched]
    # The latents of each layer are initialised separately.
    sizes = [block.n_latents for trainee in untouched for block in trainee.dictionary.blocks()]
    n_wanted = max(sizes, default=0)
    held = [first]
    n_held = first.n_tokens
    while n_held < min(TOKENS_PER_LATENT * n_wanted, MAX_INITIAL_TOKENS, n_tokens):
        held.append(queue.peek(len(held)))
        n_held += held[-1].n_tokens
    new = {id(trainee) for trainee in untouched}
    for trainee in untouched:
        dictionary = trainee.dictionary
        weight = dictionary.decoder_bias
        selected = [dictionary.select(batch.site(trainee.site)) for batch in held]
        inputs, targets = (torch.cat(parts).to(weight.device, weight.dtype) for parts in zip(*selected, strict=True))
        # A dictionary that is initialised with NaN would have no finite state to be restored to.
        for part in (inputs, targets):
            checks.finite("data", part, "Find their cause before you train on this data.")
        dictionary.initialise_(inputs, targets)
    for trainee in trainees.values():
        _begin_activation_(trainee, first.site(trainee.site), is_new=id(trainee) in new)
    units = {name: _units(trainee, first.site(trainee.site)) for name, trainee in trainees.items()}
    return math.ceil(n_tokens / first.n_tokens), units


def _begin_activation_(trainee: Trainee, batch: Activations, *, is_new: bool) -> None:
    dictionary = trainee.dictionary
    if type(dictionary.activation).begin_ is Activation.begin_:
        return
    weight = dictionary.decoder_bias
    inputs, targets = (part.to(weight.device, weight.dtype) for part in dictionary.select(batch))
    latents = dictionary.scales(inputs, targets).latents
    dictionary.activation.begin_(dictionary.activation_state.entries(), latents=latents, is_new=is_new)


def _units(trainee: Trainee, batch: Activations) -> Units | None:
    if not trainee.has_relative_lr:
        return None
    weight = trainee.dictionary.decoder_bias
    inputs, targets = (part.to(weight.device, weight.dtype) for part in trainee.dictionary.select(batch))
    return measure_units(trainee.dictionary, inputs, targets)
