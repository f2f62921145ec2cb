"""Suggests MLPs of a model in error messages. Suggestions are verified like `Site.neurons`."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator

from torch import nn

from sparsedict import checks
from sparsedict.sites._ends import Ends
from sparsedict.sites._find import find_neurons
from sparsedict.sites._points import NoModuleError, find_module, is_hook_point, module_names, resolve_ends
from sparsedict.sites.families import candidates
from sparsedict.sites.families._candidate import linear_layers, matrix

_N_TRIED = 12


def mlps(model: nn.Module, near: str, *, below: str | None = None, max_items: int = 3) -> list[str]:
    """Returns arguments of `Site` for MLPs of a model: their paths in quotes, or ``reads=..., writes=...``.

    Args:
        model: The model.
        near: A name. If there are more than ``max_items`` MLPs, those with the most similar names are returned.
        below: Restricts the search to MLPs inside the module at this path.
        max_items: Largest number of MLPs to return.
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
        if len(found) == max_items or n_tried == _N_TRIED:
            break
    return [found[path] for path in sorted(found, key=by_number)]


def by_number(path: str) -> list[tuple[int, str]]:
    """Returns a sort key by which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def near_names(model: nn.Module, path: str, argument: str) -> list[str]:
    """Returns similar names of modules. For ``path``, they can be called and aren't part of an MLP."""
    names = list(set(module_names(model)) - {""})
    if argument == "path":
        names = [name for name in names if not is_part(model, name) and is_callable(find_module(model, name))]
    near = [name for name in names if similarity(name, path) >= 0.5]
    return sorted(near, key=lambda name: (-similarity(name, path), index_distances(name, path), by_number(name)))[:5]


def similarity(name: str, other: str) -> float:
    """Returns the similarity of two names from 0 to 1, ignoring numbers."""
    a, b = (re.sub(r"\d+", "*", one) for one in (name, other))
    return difflib.SequenceMatcher(a=a, b=b).ratio()


def index_distances(name: str, other: str) -> list[int]:
    """Returns the distances between the numbers in two names, in order."""
    numbers = (map(int, re.findall(r"\d+", one)) for one in (name, other))
    return [abs(a - b) for a, b in zip(*numbers, strict=False)]


def is_part(model: nn.Module, path: str) -> bool:
    """Whether a module is a linear layer, or one of the two modules of an MLP such as BERT's."""
    module = find_module(model, path)
    if module is None or is_hook_point(module):
        return False
    if matrix(module) is not None:
        return True
    parent_path, _, name = path.rpartition(".")
    parent = find_module(model, parent_path) if parent_path else model
    return parent is not None and name in ("intermediate", "output") and _separate_ends(parent, parent_path) is not None


def _nearest(model: nn.Module, near: str, below: str | None) -> list[str]:
    names = [name for name in set(module_names(model)) if name and not is_hook_point(find_module(model, name))]
    if below is not None:
        names = [name for name in names if name == below or name.startswith(f"{below}.") or not below]
    likely = ("mlp", "ffn", "feed_forward", "ff")

    def key(name: str) -> tuple[bool, float, list[int], list[tuple[int, str]]]:
        is_other = name.rpartition(".")[2] not in likely
        return is_other, -similarity(name, near), index_distances(name, near), by_number(name)

    return sorted(names, key=key)


def _forms(model: nn.Module, path: str, module: nn.Module) -> Iterator[tuple[str, Ends]]:
    """Yields the arguments that may make a site of a module, with its ends."""
    # Weights on the meta device have no values, so a block can't be verified as an MLP.
    if is_callable(module) and not (_is_meta(module) and _contains_more(module)):
        ends = resolve_ends(model, path, None, None)
        yield repr(path), Ends(model, *ends, name=path)
    # A wrapped layer of TransformerLens is the same as the layer that it wraps.
    names = {m: name for name, m in module.named_modules() if name and "_original_component" not in name}
    layers = [f"{path}.{names[layer]}" for layer in linear_layers(module) if layer in names]
    pairs = [(first, last) for last in reversed(layers) for first in layers if first != last]
    separate = _separate_ends(module, path)
    for reads, writes in ([separate] if separate is not None else []) + (pairs if len(layers) in (2, 3) else []):
        form = f"reads='{reads}:in', writes='{writes}:out'"
        yield form, Ends(model, *resolve_ends(model, None, f"{reads}:in", f"{writes}:out"), name=form)


def _separate_ends(module: nn.Module, path: str) -> tuple[str, str] | None:
    intermediate, output = getattr(module, "intermediate", None), getattr(module, "output", None)
    encoder, decoder = matrix(getattr(intermediate, "dense", None)), matrix(getattr(output, "dense", None))
    if encoder is None or decoder is None or encoder[0].shape[0] != decoder[0].shape[1]:
        return None
    prefix = f"{path}." if path else ""
    return f"{prefix}intermediate", f"{prefix}output.dense"


def hints(model: nn.Module, error: NoModuleError) -> str:
    """Returns suggestions for a wrong path."""
    near = near_names(model, error.path, error.argument)
    parts = [f"Similar names: {', '.join(map(repr, near))}."] if near else []
    found = mlps(model, error.path)
    if found:
        parts.append(f"MLPs in this model: {'; '.join(found) if '=' in ''.join(found) else ', '.join(found)}.")
    if not parts:
        parts.append(f"Its first modules: {', '.join(map(repr, list(module_names(model))[:5]))}.")
    return " ".join(parts)


def check_module(model: nn.Module, path: str) -> None:
    """Warns if a path leads to a part of an MLP, or to more than an MLP.

    Raises:
        ValueError: If the module can't be called.
    """
    module = find_module(model, path)
    assert module is not None
    what = f"`path`={path!r} ({type(module).__name__})"
    if not is_callable(module):
        found = mlps(model, path, below=path)
        raise ValueError(
            f"{what} must be a module that the model calls, but it is a container. "
            + (f"Choose an MLP in it: {'; '.join(found)}." if found else "Choose a module in it.")
        )
    if matrix(module) is None and is_part(model, path):
        found = mlps(model, path, below=path.rpartition(".")[0], max_items=1)
        if found:
            checks.warn(f"{what} is part of an MLP. The whole MLP is {found[0]}.")
    elif _contains_more(module) and experts_of(module) is None:
        found = mlps(model, path, below=path, max_items=1)
        if found and found[0] != repr(path):
            checks.warn(f"{what} contains more than an MLP. An MLP in it is {found[0]}.")
    elif _takes_residual(module):
        found = mlps(model, path, below=path, max_items=1)
        remedy = f" The MLP alone is {found[0]}." if found else ""
        checks.warn(
            f"{what} receives the residual stream as an argument, so the output of the site includes it.{remedy} "
            "Use `reads=` and `writes=` to exclude it."
        )


def _takes_residual(module: nn.Module) -> bool:
    """Returns whether a module requires the residual stream, which it adds to its output, as in BLOOM and MPT."""
    found = inspect.signature(module.forward).parameters.get("residual")
    return found is not None and found.default is inspect.Parameter.empty


def wrapper_hint(model: object) -> str:
    """Returns a hint for an object of another library that wraps a model."""
    for name in ("_model", "_module", "model", "module", "hf_model"):
        if isinstance(vars(model).get(name) if hasattr(model, "__dict__") else None, nn.Module):
            held = f" It wraps a model: for a {type(model).__name__} `wrapper`, write `Site(wrapper.{name}, ...)`."
            lazy = any(p.is_meta for p in vars(model)[name].parameters())
            return held + (" Load its weights first, which are on the meta device." if lazy else "")
    return ""


def experts_of(module: nn.Module) -> nn.Module | None:
    """Returns the experts of a mixture of experts, else None."""
    held = (getattr(inner, "experts", None) for inner in module.modules())
    return next((experts for experts in held if isinstance(experts, nn.Module)), None)


def is_callable(module: nn.Module | None) -> bool:
    """Whether a module can be called. Containers such as `nn.ModuleDict` can't."""
    # A compiled module has `forward` as an instance attribute.
    return module is not None and getattr(module.forward, "__func__", module.forward) is not nn.Module.forward


def _contains_more(module: nn.Module) -> bool:
    """Whether a module has more linear layers than an MLP."""
    return sum(matrix(inner) is not None for inner in module.modules()) > 3


def _is_meta(module: nn.Module) -> bool:
    return any(weight.is_meta for weight in module.parameters())


def _is_proven(ends: Ends) -> bool:
    return find_neurons(ends)[0] is not None
