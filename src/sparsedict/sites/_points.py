"""Points of a model where activations are read or replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

Side = Literal["in", "out"]


@runtime_checkable
class Removable(Protocol):
    """Handle of an attached callback."""

    def remove(self) -> None: ...


class CalledAgainError(RuntimeError):
    """A module that should be called once was called again in the same forward pass."""


class NoModuleError(ValueError):
    """There is no module at a path."""

    def __init__(self, model: nn.Module, path: str, argument: str) -> None:
        self.path, self.argument = path, argument
        super().__init__(f"`{argument}` must name a module of the {type(model).__name__}, got {path!r}.")


class _LensHook:
    """A callback at a TransformerLens hook point.

    It is added to the list of the hook point, since TransformerLens computes some activations, with gradients, only if
    this list isn't empty. It is permanent, so that `reset_hooks` doesn't remove it.
    """

    def __init__(self, point: Any, callback: Callable[[Tensor], Tensor | None]) -> None:
        point.add_hook(lambda value, hook: callback(value), is_permanent=True)
        self._point = point
        self._handle = point.fwd_hooks[-1]

    def remove(self) -> None:
        self._handle.hook.remove()
        self._point.fwd_hooks[:] = [handle for handle in self._point.fwd_hooks if handle is not self._handle]


@dataclass(frozen=True)
class Point:
    """The input (``"in"``) or the output (``"out"``) of one module.

    A TransformerLens hook point returns its input, so both sides are the same. Its side is ``"out"``.

    Attributes:
        module: The module.
        side: Whether the point is the input or the output.
        path: Dotted path of the module in the model.
        call: Index of the module's call in a forward pass, from 0; ``None`` for a module that is called once.
    """

    module: nn.Module
    side: Side
    path: str = field(compare=False)
    call: int | None = None

    def __str__(self) -> str:
        return self.path if is_hook_point(self.module) else f"{self.path}:{self.side}"

    def is_in(self, model: nn.Module) -> bool:
        """Returns whether the module is still at its path, or the path leads to no module."""
        return find_module(model, self.path) in (None, self.module)

    def is_call(self, n_before: int, model: nn.Module) -> bool:
        """Returns whether the point selects the call after ``n_before`` earlier calls of this forward pass.

        Raises:
            CalledAgainError: If a module that should be called once is called again.
        """
        if self.call is None and n_before > 0:
            names = [name for name, module in model.named_modules(remove_duplicate=False) if module is self.module]
            why = "Models may run a module in a loop, or on chunks of the tokens."
            if len(names) > 1:
                why = f"The same module is at {', '.join(map(repr, names))}."
            raise CalledAgainError(
                f"`{self.path}` ({type(self.module).__name__}) was called more than once in one forward pass, so a "
                f"site there needs the index of the call: `Site(..., call=0)` for the first. {why}"
            )
        return n_before == (self.call or 0)

    def attach(self, callback: Callable[[Tensor], Tensor | None]) -> Removable:
        """Calls ``callback`` with the activation in every forward pass. A returned tensor replaces the activation.

        An activation that is divided among processes, a ``DTensor``, is made whole for the callback on all of them.
        """
        callback = _on_whole(callback)
        if is_hook_point(self.module):
            return _LensHook(self.module, callback)
        if self.side == "in":

            def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                where, key, value = _first_tensor(self, args, kwargs)
                new = callback(value)
                if new is None:
                    return None
                if where == "args":
                    return (*args[:key], new, *args[key + 1 :]), kwargs
                return args, {**kwargs, key: new}

            return self.module.register_forward_pre_hook(before, with_kwargs=True)

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, Tensor):
                return callback(output)
            if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
                new = callback(output[0])
                return None if new is None else (new, *output[1:])
            raise TypeError(
                f"`{self}` must return a tensor or a tuple that begins with one, got {type(output).__name__}. "
                "Choose a module inside it."
            )

        return self.module.register_forward_hook(after)


def _on_whole(callback: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], Tensor | None]:
    """Returns a callback for activations that may be divided among processes, given one for whole activations."""

    def on_any(value: Tensor) -> Tensor | None:
        whole = getattr(value, "full_tensor", None)
        if whole is None:
            return callback(value)
        new = callback(whole())
        return None if new is None else _divided_as(new, value)

    return on_any


def _divided_as(whole: Tensor, value: Any) -> Tensor:
    """Returns a whole tensor that is divided among processes like a ``DTensor``. The result is differentiable."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = value.device_mesh
    return DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False).redistribute(
        placements=value.placements
    )


def _first_tensor(point: Point, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Any, Tensor]:
    for index, value in enumerate(args):
        if isinstance(value, Tensor):
            return "args", index, value
    for key in ("hidden_states", "x", "input", *kwargs):
        if isinstance(kwargs.get(key), Tensor):
            return "kwargs", key, kwargs[key]
    raise TypeError(
        f"`{point}` must be called with a tensor, got {len(args)} positional arguments and the keyword arguments "
        f"{sorted(kwargs)}."
    )


def is_hook_point(module: object) -> bool:
    """Whether this is a TransformerLens hook point. It is identified by class name, to avoid the import."""
    return any(kind.__name__ == "HookPoint" for kind in type(module).__mro__)


def resolve_point(model: nn.Module, name: str, argument: str) -> Point:
    """Returns the point of a name: ``"module.path:in"``, ``"module.path:out"`` or the name of a hook.

    Raises:
        ValueError: If there is no such module, or a side is missing.
    """
    if not isinstance(name, str):
        raise TypeError(f"`{argument}` must be a string such as 'h.0.mlp:in', got {type(name).__name__}.")
    path, _, side = name.partition(":")
    module = resolve_module(model, path, argument)
    if side not in ("", "in", "out"):
        raise ValueError(f"`{argument}` must end in ':in' or ':out', got {name!r}.")
    if is_hook_point(module):
        return Point(module, "out", _canonical(model, module, path))
    if side == "":
        raise ValueError(
            f"`{argument}` must name a side of the module, got {name!r}. Write '{path}:in' for its input or "
            f"'{path}:out' for its output."
        )
    return Point(module, "in" if side == "in" else "out", path)


def _canonical(model: nn.Module, module: nn.Module, path: str) -> str:
    """Returns the canonical name of a hook if it leads to the same hook, since there are aliases."""
    own = getattr(module, "name", None)
    return own if isinstance(own, str) and find_module(model, own) is module else path


def find_module(model: nn.Module, path: str) -> nn.Module | None:
    """Returns the module at a dotted path, or None."""
    current: object = model
    for part in path.split("."):
        current = getattr(current, part, None) if part else None
    if isinstance(current, nn.Module):
        return current
    # Some hook names exist only in TransformerLens' table, such as those of its compatibility mode.
    hook = _hooks(model).get(path)
    return hook if isinstance(hook, nn.Module) else None


def resolve_module(model: nn.Module, path: str, argument: str = "path") -> nn.Module:
    """Returns the module at a dotted path.

    Raises:
        NoModuleError: If there is no module.
    """
    module = find_module(model, path)
    if module is None:
        raise NoModuleError(model, path, argument)
    return module


def resolve_ends(model: nn.Module, path: str | None, reads: str | None, writes: str | None) -> tuple[Point, Point]:
    """Returns the points that a site reads and writes.

    Raises:
        ValueError: Unless either ``path`` or both ``reads`` and ``writes`` are given.
    """
    if path is not None:
        if reads is not None or writes is not None:
            raise ValueError(
                f"`path` must be omitted if `reads` or `writes` is given, got path={path!r}, reads={reads!r}, "
                f"writes={writes!r}."
            )
        return _ends_of_module(model, path)
    if reads is None or writes is None:
        raise ValueError(
            f"A site must have a `path`, or both `reads` and `writes`, got reads={reads!r}, writes={writes!r}."
        )
    return resolve_point(model, reads, "reads"), resolve_point(model, writes, "writes")


def _ends_of_module(model: nn.Module, path: str) -> tuple[Point, Point]:
    if not isinstance(path, str):
        raise TypeError(f"`path` must be a string such as 'blocks.1.mlp', got {type(path).__name__}.")
    module = resolve_module(model, path)
    hooks = [getattr(module, name, None) for name in ("hook_in", "hook_out")]
    if is_hook_point(module):
        point = resolve_point(model, path, "path")
        return point, point
    if all(is_hook_point(hook) for hook in hooks):
        ends = (f"{path}.hook_in", f"{path}.hook_out")
        # A wrapper without a name wraps no module and is never called. Version 3 drops edits there.
        if getattr(module, "name", "") is None and hasattr(module, "in") and hasattr(module, "out"):
            ends = (f"{path}.in.hook_in", f"{path}.out.hook_out")
        return resolve_point(model, ends[0], "path"), resolve_point(model, ends[1], "path")
    return Point(module, "in", path), Point(module, "out", path)


def module_names(model: nn.Module) -> Iterator[str]:
    """Yields the names of modules that users see, without the internals of TransformerLens' wrappers."""
    for name in _hooks(model):
        yield name
        yield name.rpartition(".")[0]
    for name, _ in model.named_modules():
        if name and "_original_component" not in name:
            yield name


def _hooks(model: nn.Module) -> dict[str, Any]:
    table = getattr(model, "hook_dict", None)
    return table if isinstance(table, dict) else {}
