"""Finds the token embedding of a model."""

from __future__ import annotations

from torch import nn


def token_embedding(model: nn.Module) -> nn.Module | None:
    """Returns the model's token embedding, or None if it has none."""
    getter = getattr(model, "get_input_embeddings", None)
    if callable(getter):
        try:
            found = getter()
        except (NotImplementedError, AttributeError):
            found = None
        return found if isinstance(found, nn.Module) and "Embedding" in type(found).__name__ else None
    own = getattr(model, "embed", None)
    if isinstance(own, nn.Module):
        return own
    return next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)
