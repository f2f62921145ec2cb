"""Choice of the tokens at which the latents of a new dictionary start."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict.dictionaries._encoder_decoder import EncoderDecoder
from sparsedict.kernels import first_of_equal


def start_tokens(
    seed: int, n_latents: int, inputs: Float[Tensor, "n_tokens d_in"]
) -> tuple[Int[Tensor, " n_latents"], Bool[Tensor, " n_latents"]]:
    """Draws a token for each latent, without replacement until all distinct tokens are used.

    Args:
        seed: Seed of the draw.
        n_latents: Number of tokens to draw.
        inputs: Activations that the dictionary reads, one row per token.

    Returns:
        Indices of the tokens, and whether each latent shares its token with an earlier latent.
    """
    order = torch.randperm(len(inputs), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    order = order.to(inputs.device)
    is_first = first_of_equal(inputs[order])
    distinct = order[is_first]
    latents = torch.arange(n_latents, device=inputs.device)
    return distinct[latents % len(distinct)], latents >= len(distinct)


def keeping_frozen(
    start: Callable[[EncoderDecoder, Tensor, Tensor], None],
) -> Callable[[EncoderDecoder, Tensor, Tensor], None]:
    """Wraps an initialisation so that parameters with ``requires_grad=False`` don't change."""

    @wraps(start)
    def wrapped(dictionary: EncoderDecoder, inputs: Tensor, targets: Tensor) -> None:
        frozen = [(weight, weight.detach().clone()) for weight in dictionary.parameters() if not weight.requires_grad]
        start(dictionary, inputs, targets)
        with torch.no_grad():
            for weight, value in frozen:
                weight.copy_(value)

    return wrapped
