"""A model's logits, with the tokens to which they belong."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sparsedict.sites._context import TokenContext
from sparsedict.sites._tokens import Tokens
from sparsedict.sites._watch import stack_modules, watched

if TYPE_CHECKING:
    from sparsedict.sites._site import Site


def is_seq2seq(model: nn.Module) -> bool:
    """Whether a model has an encoder and a decoder with tokens of their own."""
    inner = getattr(model, "original_model", model)
    names = inspect.signature(getattr(inner, "forward", model.forward)).parameters
    return "decoder_input_ids" in names or {"src", "tgt"} <= names.keys()


def predictions(site: Site, tokens: Tokens) -> tuple[Tensor, TokenContext]:
    """Returns the model's logits and the tokens at their positions: in an encoder-decoder model the decoder's.

    Raises:
        TypeError: If the model gives no logits.
    """
    model = site.model
    predicts = next(stack_modules(model, "decoder"), model) if is_seq2seq(model) else model
    with watched(model, [predicts]) as watch:
        logits = site.logits(tokens)
    return logits, watch.context(predicts)
