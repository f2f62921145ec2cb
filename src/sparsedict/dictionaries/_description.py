"""The description of a dictionary that is saved with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import torch

from sparsedict.storage import Description, Named


def described(
    kind: type,
    arguments: Mapping[str, Any],
    parts: Mapping[str, Any],
    widths: Mapping[str, int],
    dtype: torch.dtype,
    trained_on: Mapping[str, Any],
) -> Description:
    """Returns the description of a dictionary.

    Args:
        kind: Class of the dictionary.
        arguments: Arguments of the constructor without activation and decoder norm. Dataclasses are stored as parts.
        parts: Activation and decoder norm, by role.
        widths: ``d_in``, ``d_out`` and ``n_latents``.
        dtype: Dtype of the weights.
        trained_on: Model, site and settings of the training run.
    """
    others = {role: value for role, value in arguments.items() if is_dataclass(value)}
    return Description(
        kind=Named.from_class(kind, {name: value for name, value in arguments.items() if name not in others}),
        parts={role: Named.from_part(part) for role, part in {**parts, **others}.items()},
        widths=dict(widths),
        dtype=str(dtype).removeprefix("torch."),
        trained_on=dict(trained_on),
    )
