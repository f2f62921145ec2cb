"""A model's logits and the tokens at their positions."""

from __future__ import annotations

import inspect

from torch import Tensor, nn

from sparsedict.sites._context import TokenContext
from sparsedict.sites._tokens import Tokens, prepare
from sparsedict.sites._watch import stack_modules, watched


class NoLogitsError(TypeError):
    """Raised if a model doesn't return logits."""


def is_seq2seq(model: nn.Module) -> bool:
    """Whether a model has an encoder and a decoder with separate tokens."""
    inner = getattr(model, "original_model", model)
    names = inspect.signature(getattr(inner, "forward", model.forward)).parameters
    return "decoder_input_ids" in names or {"src", "tgt"} <= names.keys()


def logits_of(model: nn.Module, tokens: Tokens) -> Tensor:
    """Returns the model's logits, with gradients if they are enabled.

    Raises:
        NoLogitsError: If the model doesn't return logits.
    """
    call = prepare(model, tokens)
    return logits_in(model(*call.args, **call.kwargs), model)


def logits_in(output: object, model: nn.Module) -> Tensor:
    """Returns the logits in the output of a model.

    Raises:
        NoLogitsError: If there are none.
    """
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if logits is None and isinstance(output, tuple) and output:
        logits = output[0]
    if not isinstance(logits, Tensor):
        raise NoLogitsError(
            f"`model` must return logits, got {type(output).__name__} from {type(model).__name__}. Load it with its "
            "language-model head."
        )
    return logits


def predictions(model: nn.Module, tokens: Tokens) -> tuple[Tensor, TokenContext]:
    """Returns the model's logits and the tokens at their positions. Encoder-decoder models return the decoder's.

    Raises:
        NoLogitsError: If the model doesn't return logits.
    """
    predicts = next(stack_modules(model, "decoder"), model) if is_seq2seq(model) else model
    with watched(model, [predicts]) as watch:
        logits = logits_of(model, tokens)
    return logits, watch.context(predicts)
