"""Measurements in evaluation mode during training, and warnings if they differ from training mode."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import Dictionary
from sparsedict.latents import Encoding, fires
from sparsedict.parallel import Parallel
from sparsedict.penalties import Penalty

MAX_TOKENS = 1024
"""Tokens of the last batch on which the dictionary is evaluated."""

MIN_ROWS = 32
"""Smallest number of rows that are encoded at once."""

TOLERANCE = 0.2
"""Relative difference between L0 in training and in evaluation mode above which a warning is given."""


@torch.no_grad()
def evaluation_l0(dictionary: Dictionary, inputs: Float[Tensor, "n_tokens d_in"], parallel: Parallel) -> float:
    """Returns the mean number of active latents per token in evaluation mode, then restores training mode.

    Args:
        dictionary: The dictionary in training.
        inputs: Tokens, the same on all ranks.
        parallel: The ranks of the run.
    """
    # Small blocks need little memory compared with the weights.
    blocks = inputs.split(max(MIN_ROWS, dictionary.d_in // 16))
    dictionary.eval()
    try:
        fired = torch.stack([fires(dictionary.encode_sparse(block).values).sum() for block in blocks])
        return parallel.sum_latents(fired.sum()).item() / len(inputs)
    finally:
        dictionary.train()


@torch.no_grad()
def end_(dictionary: Dictionary, inputs: Float[Tensor, "n_tokens d_in"], *, n_steps: int, parallel: Parallel) -> None:
    """Updates the measured state of the activation on tokens of the last batch, with the final weights."""
    activation = dictionary.activation
    if activation.is_measured:
        latents = dictionary.encode_sparse(inputs)
        gather = None if dictionary.shard is None else parallel.values
        encoding = Encoding(latents.values, latents.values, latents.support, gather)
        activation.end_encoding_(encoding, dictionary.activation_state.entries(), n_steps=n_steps)


def warn_of_difference(label: str, dictionary: Dictionary, *, trained: float, evaluated: float, n_tokens: int) -> None:
    """Warns if L0 in evaluation mode differs clearly from L0 in the last training step.

    Args:
        label: Name of the dictionary in messages.
        dictionary: The trained dictionary.
        trained: L0 of the last training step.
        evaluated: L0 in evaluation mode.
        n_tokens: Number of tokens on which L0 was measured.
    """
    if not dictionary.activation.is_measured:
        # The activation measures nothing, so both modes compute the same. Only the last update changed the weights.
        return
    noise = 4 * math.sqrt(max(trained, evaluated) / max(n_tokens, 1))
    if not abs(evaluated - trained) > max(TOLERANCE * trained, noise):
        return
    checks.warn(
        f"L0 of {label} is {evaluated:.1f} in evaluation mode, but {trained:.1f} in the last training step. "
        f"{dictionary.activation} measured its state over too few steps, or over steps that differ from the last. "
        "Train for more steps, with larger batches, or with a learning rate that decays to the end."
    )


def warn_of_missed_targets(label: str, penalties: Sequence[Penalty], *, evaluated: float, n_tokens: int) -> None:
    """Warns if the run missed the target of a penalty, such as the L0 of `TargetL0`.

    Args:
        label: Name of the dictionary in messages.
        penalties: The penalties of the run.
        evaluated: L0 in evaluation mode.
        n_tokens: Number of tokens on which L0 was measured.
    """
    for penalty in penalties:
        missed = penalty.missed(evaluated, n_tokens)
        if missed is not None:
            checks.warn(f"{label[0].upper()}{label[1:]}: {missed}")
