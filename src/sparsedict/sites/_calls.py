"""Checks how often a forward pass calls the modules of a site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sparsedict.sites._axes import record_axes
from sparsedict.sites._modes import evaluating
from sparsedict.sites._points import CalledAgainError, Point
from sparsedict.sites._tokens import Call

_N_POSITIONS = 8


@torch.no_grad()
def check_called_once(model: nn.Module, call: Call, points: Iterable[Point]) -> bool:
    """Runs the whole model on a small part of a call, and checks that no module of a point is called twice.

    A capture stops after the site, so it can't detect a later call.

    Returns:
        Whether the check was possible.

    Raises:
        CalledAgainError: If a module is called more than once.
    """
    n_calls: Counter[Point] = Counter()

    def watch(point: Point) -> Callable[[Tensor], None]:
        def callback(value: Tensor) -> None:
            n_calls[point] += 1
            record_axes(point, shape, value.shape[:-1])
            point.is_call(n_calls[point] - 1, model)

        return callback

    values = [*call.args, *call.kwargs.values()]
    if not all(value is None or isinstance(value, Tensor | bool | int | float | str) for value in values):
        return False  # The call would fill a cache, for example.
    args = [_part(value, values) for value in call.args]
    kwargs = {name: _part(value, values) for name, value in call.kwargs.items()}
    tokens = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    shape = None if tokens is None or tokens.is_floating_point() else tokens.shape
    handles = [point.attach(watch(point)) for point in points]
    try:
        with evaluating(model):
            model(*args, **kwargs)
    except CalledAgainError:
        raise
    except Exception:  # Modules after the site may need further arguments.
        return len(n_calls) > 0
    finally:
        for handle in handles:
            handle.remove()
    return True


def _part(value: Any, values: list[Any]) -> Any:
    """Copies the first sequence of a call, and only a few positions of it if there are only token ids."""
    first = next((other for other in values if isinstance(other, Tensor) and other.ndim > 0), None)
    if not isinstance(value, Tensor):
        return value
    if first is None or value.ndim == 0 or len(value) != len(first):
        return value.clone()
    bare = len(values) == 1 and value.ndim == 2 and not value.is_floating_point()
    return (value[:1, :_N_POSITIONS] if bare else value[:1]).clone()


def n_occurrences(model: nn.Module, module: nn.Module) -> int:
    """Counts the paths that lead to a module and to its parents. Sharing a module at another path raises the count."""
    holders: dict[nn.Module, list[nn.Module]] = {}
    for holder in model.modules():
        for child in holder._modules.values():
            if child is not None:
                holders.setdefault(child, []).append(holder)
    waiting, seen, n = [module], set[nn.Module](), 0
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            n += len(holders.get(current, ()))
            waiting += holders.get(current, ())
    return n
