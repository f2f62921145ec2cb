"""MLPs of a model for messages: what is suggested passes the same proof as what is given out."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterator

from torch import nn

from sparsedict.sites._ends import Ends
from sparsedict.sites._find import find
from sparsedict.sites._points import NoModuleError, find_module, is_hook_point, module_names, resolve_ends
from sparsedict.sites.families import candidates
from sparsedict.sites.families._candidate import linear_layers, matrix

_N_TRIED = 12


def mlps(model: nn.Module, near: str, *, below: str | None = None, most: int = 3) -> list[str]:
    """Returns how to name MLPs of a model: their paths in quotes, or ``reads=..., writes=...``.

    Args:
        model: The model.
        near: Names that are similar to this one come first where there are more than ``most``.
        below: Only MLPs inside the module at this path.
        most: How many to return.
    """
    found: dict[str, str] = {}
    failed: set[str] = set()
    n_tried = 0
    for path in _nearest(model, near, below):
        kind = re.sub(r"\d+", "*", path)
        module = find_module(model, path)
        if module is None or kind in failed or next(candidates(module), None) is None:
            continue
        form = next((form for form, ends in _forms(model, path, module) if _is_proven(ends)), None)
        n_tried += 1
        if form is None:
            failed.add(kind)
        elif not any(path.startswith(f"{other}.") or other.startswith(f"{path}.") for other in found):
            found[path] = form
        if len(found) == most or n_tried == _N_TRIED:
            break
    return [found[path] for path in sorted(found, key=by_number)]


def by_number(path: str) -> list[tuple[int, str]]:
    """Returns the key by which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def near_names(model: nn.Module, path: str, argument: str) -> list[str]:
    """Returns names of modules that are spelled alike; for a ``path`` none that can't be called, no part of an MLP."""
    names = list(set(module_names(model)) - {""})
    if argument == "path":
        names = [name for name in names if not is_part(model, name) and is_callable(find_module(model, name))]
    near = [name for name in names if likeness(name, path) >= 0.5]
    return sorted(near, key=lambda name: (-likeness(name, path), layers_apart(name, path), by_number(name)))[:5]


def likeness(name: str, other: str) -> float:
    """Returns from 0 to 1 how alike two names are spelled, whatever the numbers in them."""
    a, b = (re.sub(r"\d+", "*", one) for one in (name, other))
    return difflib.SequenceMatcher(a=a, b=b).ratio()


def layers_apart(name: str, other: str) -> list[int]:
    """Returns how far the numbers in two names lie apart, one after the other."""
    numbers = (map(int, re.findall(r"\d+", one)) for one in (name, other))
    return [abs(a - b) for a, b in zip(*numbers, strict=False)]


def is_part(model: nn.Module, path: str) -> bool:
    """Whether a module is a linear layer, or one of the two modules over which an MLP is spread."""
    module = find_module(model, path)
    if module is None or is_hook_point(module):
        return False
    if matrix(module) is not None:
        return True
    parent_path, _, name = path.rpartition(".")
    parent = find_module(model, parent_path) if parent_path else model
    return parent is not None and name in ("intermediate", "output") and _spread_ends(parent, parent_path) is not None


def _nearest(model: nn.Module, near: str, below: str | None) -> list[str]:
    names = [name for name in set(module_names(model)) if name and not is_hook_point(find_module(model, name))]
    if below is not None:
        names = [name for name in names if name == below or name.startswith(f"{below}.") or not below]
    likely = ("mlp", "ffn", "feed_forward", "ff")

    def key(name: str) -> tuple[bool, float, list[int], list[tuple[int, str]]]:
        is_other = name.rpartition(".")[2] not in likely
        return is_other, -likeness(name, near), layers_apart(name, near), by_number(name)

    return sorted(names, key=key)


def _forms(model: nn.Module, path: str, module: nn.Module) -> Iterator[tuple[str, Ends]]:
    """Yields the ways in which a module may be named as a site, with its ends."""
    # Without numbers, as on the meta device, nothing would prove that a block is an MLP.
    if is_callable(module) and not (_is_meta(module) and _holds_more(module)):
        ends = resolve_ends(model, path, None, None)
        yield repr(path), Ends(model, *ends, name=path)
    # A wrapped layer of TransformerLens is one with what it wraps.
    names = {m: name for name, m in module.named_modules() if name and "_original_component" not in name}
    layers = [f"{path}.{names[layer]}" for layer in linear_layers(module) if layer in names]
    pairs = [(first, last) for last in reversed(layers) for first in layers if first != last]
    separate = _spread_ends(module, path)
    for reads, writes in ([separate] if separate is not None else []) + (pairs if len(layers) in (2, 3) else []):
        form = f"reads='{reads}:in', writes='{writes}:out'"
        yield form, Ends(model, *resolve_ends(model, None, f"{reads}:in", f"{writes}:out"), name=form)


def _spread_ends(module: nn.Module, path: str) -> tuple[str, str] | None:
    intermediate, output = getattr(module, "intermediate", None), getattr(module, "output", None)
    encoder, decoder = matrix(getattr(intermediate, "dense", None)), matrix(getattr(output, "dense", None))
    if encoder is None or decoder is None or encoder[0].shape[0] != decoder[0].shape[1]:
        return None
    prefix = f"{path}." if path else ""
    return f"{prefix}intermediate", f"{prefix}output.dense"


def hints(model: nn.Module, error: NoModuleError) -> str:
    """Returns which names may have been meant."""
    near = near_names(model, error.path, error.argument)
    parts = [f"Near names: {', '.join(map(repr, near))}."] if near else []
    found = mlps(model, error.path)
    if found:
        parts.append(f"MLPs in this model: {'; '.join(found) if '=' in ''.join(found) else ', '.join(found)}.")
    if not parts:
        parts.append(f"It begins: {', '.join(map(repr, list(module_names(model))[:5]))}.")
    return " ".join(parts)


def check_module(model: nn.Module, path: str) -> None:
    """Warns where a path names a part of an MLP, or more than one.

    Raises:
        ValueError: If the module can't be called.
    """
    module = find_module(model, path)
    assert module is not None
    what = f"`path`={path!r} ({type(module).__name__})"
    if not is_callable(module):
        found = mlps(model, path, below=path)
        raise ValueError(
            f"{what} must be a module that the model calls, but it only holds others. "
            + (f"Name an MLP in it: {'; '.join(found)}." if found else "Name one of these.")
        )
    if matrix(module) is None and is_part(model, path):
        found = mlps(model, path, below=path.rpartition(".")[0], most=1)
        if found:
            warnings.warn(f"{what} is a part of an MLP. The whole MLP is {found[0]}.", stacklevel=3)
    elif _holds_more(module) and experts_of(module) is None:
        found = mlps(model, path, below=path, most=1)
        if found and found[0] != repr(path):
            warnings.warn(f"{what} holds more than an MLP. An MLP in it is {found[0]}.", stacklevel=3)


def experts_of(module: nn.Module) -> nn.Module | None:
    """Returns the experts where a module sends each token to some of several MLPs, else None."""
    held = (getattr(inner, "experts", None) for inner in module.modules())
    return next((experts for experts in held if isinstance(experts, nn.Module)), None)


def is_callable(module: nn.Module | None) -> bool:
    """Whether a module can be called: containers such as `nn.ModuleDict` only hold others."""
    # A compiled module has `forward` as an attribute of its own.
    return module is not None and getattr(module.forward, "__func__", module.forward) is not nn.Module.forward


def _holds_more(module: nn.Module) -> bool:
    """Whether a module has more linear layers than an MLP."""
    return sum(matrix(inner) is not None for inner in module.modules()) > 3


def _is_meta(module: nn.Module) -> bool:
    return any(weight.is_meta for weight in module.parameters())


def _is_proven(ends: Ends) -> bool:
    return find(ends)[0] is not None
