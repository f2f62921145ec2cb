"""The module of a model that looks up token ids."""

from __future__ import annotations

from torch import nn


def token_embedding(model: nn.Module) -> nn.Module | None:
    """Returns the module that looks up token ids, if the model has one."""
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
