"""Finds the first and the last layer of a model: its token embedding, and the module that computes its logits."""

from __future__ import annotations

from torch import nn


def token_embedding(model: nn.Module) -> nn.Module | None:
    """Returns the model's token embedding, or None if it has none."""
    if callable(getattr(model, "get_input_embeddings", None)):
        found = _from_getter(model, "get_input_embeddings")
        return found if isinstance(found, nn.Module) and "Embedding" in type(found).__name__ else None
    own = getattr(model, "embed", None)
    if isinstance(own, nn.Module):
        return own
    return next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)


def output_embedding(model: nn.Module) -> nn.Module | None:
    """Returns the module that computes the logits, or None if it isn't known."""
    found = _from_getter(model, "get_output_embeddings")
    if isinstance(found, nn.Module):
        return found
    named = {name.rpartition(".")[2]: module for name, module in model.named_modules()}
    return next((named[name] for name in ("unembed", "lm_head", "embed_out", "head") if name in named), None)


def _from_getter(model: nn.Module, name: str) -> object:
    """Returns the result of a method of a Hugging Face model; None if the model has no such method or no result."""
    getter = getattr(model, name, None)
    try:
        return getter() if callable(getter) else None
    except (NotImplementedError, AttributeError):
        return None
