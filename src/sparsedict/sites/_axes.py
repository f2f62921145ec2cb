"""The order of the first two axes of activations: sequences first, or positions first.

The shape of a batch with as many sequences as positions doesn't show the order. Another forward pass shows it: an
earlier one, or one of a single sequence.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sparsedict.sites._arguments import DECODER_IDS, IDS
from sparsedict.sites._devices import input_device
from sparsedict.sites._embedding import token_embedding
from sparsedict.sites._modes import evaluating
from sparsedict.sites._passes import uncompiled
from sparsedict.sites._points import Point, Removable

_POSITIONS_FIRST: WeakKeyDictionary[nn.Module, dict[str, bool]] = WeakKeyDictionary()
"""Whether positions are the first axis, by module and side of a point."""


def is_ambiguous(tokens: torch.Size | None, shape: torch.Size) -> bool:
    """Returns whether a batch doesn't show the order of its axes.

    Args:
        tokens: Shape of the tokens, ``(n_sequences, n_positions)``; None if it is unknown.
        shape: Leading shape of the activations.
    """
    return tokens == shape and len(shape) == 2 and shape[0] == shape[1] > 1


def record_axes(point: Point, tokens: Sequence[int] | None, shape: Sequence[int]) -> None:
    """Records the order of axes that a forward pass shows.

    Args:
        point: The point.
        tokens: Shape of the tokens, ``(n_sequences, n_positions)``; None if it is unknown.
        shape: Leading shape of the activations.
    """
    if tokens is None or not len(tokens) == len(shape) == 2 or shape[0] == shape[1]:
        return
    if sorted(tokens) == sorted(shape):
        _POSITIONS_FIRST.setdefault(point.module, {})[point.side] = tuple(shape) != tuple(tokens)


def check_axes(model: nn.Module, points: Iterable[Point], n: int) -> None:
    """Checks that activations of ``n`` sequences of ``n`` positions have sequences as their first axis.

    It can't be checked in a model that needs more than token ids or is divided among processes.

    Raises:
        ValueError: If positions are the first axis.
    """
    points = tuple(points)
    unknown = [point for point in points if point.side not in _POSITIONS_FIRST.get(point.module, {})]
    # A forward pass of a model that is divided among processes waits for all of them.
    divided = any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
    if unknown and not divided and token_embedding(model) is not None:
        _measure(model, unknown)
    for point in points:
        if _POSITIONS_FIRST.get(point.module, {}).get(point.side):
            raise ValueError(
                f"The activations at `{point}` must have sequences as their first dimension, as the tokens ({n}, {n}) "
                "do, but their first dimension is the position. Call the model with one sequence at a time, or choose "
                "a site that keeps the order of the tokens."
            )


@torch.no_grad()
def _measure(model: nn.Module, points: Iterable[Point]) -> None:
    """Runs the model on one sequence, and stores the order at each point that the forward pass reaches."""
    ids = torch.tensor([[0, 1, 1, 0]], device="cpu").to(input_device(model))
    parameters = inspect.signature(model.forward).parameters
    named = {name: ids for name in (*IDS, *DECODER_IDS) if name in parameters}
    shapes: dict[Point, torch.Size] = {}

    def watch(point: Point) -> Removable:
        def callback(value: Tensor) -> None:
            shapes.setdefault(point, value.shape)

        return point.attach(callback)

    handles: list[Removable] = []
    try:
        with evaluating(model), uncompiled(model, points):
            handles += map(watch, points)
            model(**named) if named else model(ids)
    except Exception:  # Models that need more than token ids raise various errors, some of them after the site.
        pass
    finally:
        for handle in handles:
            handle.remove()
    for point, shape in shapes.items():
        record_axes(point, ids.shape, shape[:-1])
