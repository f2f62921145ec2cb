"""What a dictionary does in evaluation mode, measured while it is trained."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.activations import Activation
from sparsedict.dictionaries import Dictionary
from sparsedict.latents import fires
from sparsedict.penalties import Penalty

MAX_TOKENS = 1024
"""Tokens of the last batch on which it is measured."""

MIN_ROWS = 32
"""Rows encoded at once, at least."""

CLEARLY = 0.2
"""Share of the L0 in training by which that in evaluation may differ without a warning."""


@torch.no_grad()
def evaluation_l0(dictionary: Dictionary, inputs: Float[Tensor, "n_tokens d_in"]) -> float:
    """Returns how many latents fire in evaluation mode, mean over tokens; puts the dictionary back to training mode."""
    # Few rows at once take little memory beside the weights.
    blocks = inputs.split(max(MIN_ROWS, dictionary.d_in // 16))
    dictionary.eval()
    try:
        fired = torch.stack([fires(dictionary.encode_sparse(block).values).sum() for block in blocks])
        return fired.sum().item() / len(inputs)
    finally:
        dictionary.train()


@torch.no_grad()
def end_(dictionary: Dictionary, inputs: Float[Tensor, "n_tokens d_in"], *, n_steps: int) -> None:
    """Lets the activation measure once more, on tokens of the last batch, with the weights as they stay."""
    activation = dictionary.activation
    if type(activation).end_ is not Activation.end_:
        values = dictionary.encode_sparse(inputs).values
        activation.end_(values, dictionary.activation_state.entries(), n_steps=n_steps)


def warn_of_difference(owner: str, dictionary: Dictionary, *, trained: float, evaluated: float, n_tokens: int) -> None:
    """Warns where clearly more or fewer latents fire in evaluation mode than in the last training step.

    Args:
        owner: The dictionary in words.
        dictionary: What was trained.
        trained: L0 of the last training step.
        evaluated: L0 in evaluation mode.
        n_tokens: Tokens on which it was measured.
    """
    kind = type(dictionary.activation)
    if kind.measure_ is Activation.measure_ and kind.after_step_ is Activation.after_step_:
        # Nothing is measured: the last step moved the weights, and evaluation does what training does.
        return
    noise = 4 * math.sqrt(max(trained, evaluated) / max(n_tokens, 1))
    if not abs(evaluated - trained) > max(CLEARLY * trained, noise):
        return
    warnings.warn(
        f"L0 of {owner} is {evaluated:.1f} in evaluation mode, but {trained:.1f} in the last training step: what "
        f"{dictionary.activation} measures while training comes from too few steps, or from steps unlike the last. "
        "Train for more steps, with larger batches, or with a learning rate that decays to the end.",
        stacklevel=7,
    )


def warn_of_missed(owner: str, penalties: Sequence[Penalty], *, evaluated: float, n_tokens: int) -> None:
    """Warns of what penalties asked for and the run missed.

    Args:
        owner: The dictionary in words.
        penalties: Those that it was trained with.
        evaluated: L0 in evaluation mode.
        n_tokens: Tokens on which it was measured.
    """
    for penalty in penalties:
        missed = penalty.missed(evaluated, n_tokens)
        if missed is not None:
            warnings.warn(f"{owner[0].upper()}{owner[1:]}: {missed}", stacklevel=7)
