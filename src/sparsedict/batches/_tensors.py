"""The tensors in `Activations`: checks, and operations that act once on a tensor that several points share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

PER_TOKEN = ("tokens", "positions", "mask", "attention_mask")
"""Names of the tensors with one value per token. No point may have one of these reserved names."""


def check_points(points: Mapping[str, Tensor]) -> None:
    """Raises an error if an object isn't a mapping of names of points to tensors of activations."""
    try:
        named = points.items()
    except AttributeError:  # A check of the type would take time in each step.
        got = type(points).__name__
        raise TypeError(f"`points` must be a mapping of names to tensors, got {got}.") from None
    for name, value in named:
        check_point(name, value)


def check_point(name: object, value: object) -> None:
    if not isinstance(name, str):
        raise TypeError(
            f"`points` must have strings such as 'inputs' as keys, got {name!r} of type {type(name).__name__}."
        )
    if name in PER_TOKEN:
        raise ValueError(f"`points` must not have a point {name!r}: pass it as the argument `{name}`.")
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 1:
        kind = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"`points[{name!r}]` must be a floating-point tensor [*shape, width], got {kind}.")


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Concatenates activations on the device of the first, since the sites of a model may be on several devices.

    Parts that are the columns of one contiguous tensor aren't copied.
    """
    if _are_columns(parts):
        width = sum(part.shape[-1] for part in parts)
        return parts[0].as_strided((*parts[0].shape[:-1], width), (*parts[0].stride()[:-1], 1))
    return torch.cat([part.to(parts[0].device) for part in parts], dim=-1)


def _are_columns(parts: Sequence[Tensor]) -> bool:
    """Returns whether the parts are all columns of one contiguous tensor, in their order."""
    first, width = parts[0], sum(part.shape[-1] for part in parts)
    expected = torch.empty((*first.shape[:-1], width), device="meta").stride()[:-1]
    end = first.storage_offset()
    for part in parts:
        if (
            part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
            or (part.dtype, part.device, part.shape[:-1]) != (first.dtype, first.device, first.shape[:-1])
            or part.requires_grad
            or part.stride() != (*expected, 1)
            or part.storage_offset() != end
        ):
            return False
        end += part.shape[-1]
    return first.numel() > 0


def join_columns(tensors: Mapping[str, Tensor], groups: Iterable[Sequence[str]]) -> dict[str, Tensor]:
    """Returns the same tensors, in which those of each group are the columns of one tensor.

    Tensors of several groups, and tensors with several names, stay as they are.

    Args:
        tensors: Tensors by name.
        groups: Names of tensors.
    """
    joined, left = dict(tensors), set(tensors)
    uses = Counter(identity(value) for value in tensors.values())
    for names in filter(left.issuperset, groups):
        parts = [tensors[name] for name in names]
        alike = len({(part.device, part.dtype) for part in parts}) == 1
        if len(parts) < 2 or not alike or any(uses[identity(part)] > 1 for part in parts):
            continue
        left.difference_update(names)
        widths = [part.shape[-1] for part in parts]
        joined.update(zip(names, side_by_side(parts).split(widths, dim=-1), strict=True))
    return joined


def identity(tensor: Tensor) -> object:
    """Returns a key that is equal for two tensors that view the same memory in the same way."""
    if not tensor.numel():
        # An empty tensor has no address.
        return id(tensor)
    return tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride()


def map_distinct(function: Callable[..., Tensor], batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the results of a function of the tensors with one name in several batches, by name.

    The function is called once for names that share their tensors.

    Args:
        function: A function of as many tensors as there are batches.
        batches: Tensors by name. The names are those of the first batch.
    """
    results: dict[object, Tensor] = {}
    found: dict[str, Tensor] = {}
    for name in batches[0]:
        tensors = [batch[name] for batch in batches]
        key = tuple(map(identity, tensors))
        if key not in results:
            results[key] = function(*tensors)
        found[name] = results[key]
    return found
