"""How often a forward pass calls the modules of a site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sparsedict.sites._modes import evaluating
from sparsedict.sites._points import CalledAgainError, Point
from sparsedict.sites._tokens import Call

_N_POSITIONS = 8


@torch.no_grad()
def check_called_once(model: nn.Module, call: Call, points: Iterable[Point]) -> bool:
    """Runs the whole model on a part of a call, and checks that no point is reached more often than it may be.

    Captures stop after the site, so they don't see a later call.

    Returns:
        Whether the check could be made.

    Raises:
        CalledAgainError: If a point is reached too often.
    """
    n_calls: Counter[Point] = Counter()

    def watch(point: Point) -> Callable[[Tensor], None]:
        def callback(_: Tensor) -> None:
            n_calls[point] += 1
            point.is_call(n_calls[point] - 1, model)

        return callback

    values = [*call.args, *call.kwargs.values()]
    if not all(value is None or isinstance(value, Tensor | bool | int | float | str) for value in values):
        return False  # A cache, say, would be filled by it.
    handles = [point.attach(watch(point)) for point in points]
    try:
        with evaluating(model):
            model(
                *(_part(value, values) for value in call.args), **{k: _part(v, values) for k, v in call.kwargs.items()}
            )
    except CalledAgainError:
        raise
    except Exception:  # Modules after the site may need more arguments than were given.
        return len(n_calls) > 0
    finally:
        for handle in handles:
            handle.remove()
    return True


def _part(value: Any, values: list[Any]) -> Any:
    """A copy of one sequence, and of bare token ids of a few positions: some models change their arguments in place."""
    first = next((other for other in values if isinstance(other, Tensor) and other.ndim > 0), None)
    if not isinstance(value, Tensor):
        return value
    if first is None or value.ndim == 0 or len(value) != len(first):
        return value.clone()
    bare = len(values) == 1 and value.ndim == 2 and not value.is_floating_point()
    return (value[:1, :_N_POSITIONS] if bare else value[:1]).clone()


def n_places(model: nn.Module, module: nn.Module) -> int:
    """Returns how often a module and those around it are listed in a model: more when one is put at a further place."""
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
