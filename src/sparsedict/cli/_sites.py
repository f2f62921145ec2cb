"""The sites of the option `--site`."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from sparsedict import checks
from sparsedict.cli._errors import translate, translated_errors
from sparsedict.sites import Site
from sparsedict.sites.models import experts_of, find_module, mlps

WILD = "*?["
SEPARATOR = ".."


def sites_of(model: nn.Module, paths: Sequence[str], exclude_tokens: Sequence[int]) -> dict[str, Site]:
    """Returns the sites of a model by name, in the order of the paths, and of the model for each path.

    Args:
        model: The model.
        paths: Comma-separated paths of modules. Each part of a path may contain ``*``, ``?`` and ranges such as
            ``[0-3]``. ``READS..WRITES`` are the first and the last module of an MLP without a module of its own.
        exclude_tokens: Ids whose positions are excluded.

    Raises:
        ValueError: If a module doesn't exist or isn't an MLP.
    """
    sites: dict[str, Site] = {}
    for path in (part.strip() for text in paths for part in text.split(",")):
        if not path:
            raise ValueError(f"--site must be a comma-separated list of module paths, got {','.join(paths)!r}.")
        with translated_errors(path="--site", reads="--site", writes="--site", exclude_tokens="--exclude-tokens"):
            for name, where in _site_arguments(model, path):
                sites[name] = Site(model, **where, exclude_tokens=exclude_tokens)
    return sites


def in_model_order(sites: Mapping[str, Site]) -> dict[str, Site]:
    """Returns sites in the order in which the model defines the modules that they write."""
    modules = {module: place for place, module in enumerate(next(iter(sites.values())).model.modules())}
    return dict(sorted(sites.items(), key=lambda item: modules.get(item[1].writes.module, len(modules))))


def _site_arguments(model: nn.Module, path: str) -> list[tuple[str, dict[str, Any]]]:
    """Returns the names of the sites of a path, with the arguments of `Site`."""
    reads, two, writes = path.partition(SEPARATOR)
    if not two:
        return [(name, {"path": name}) for name in _matching(model, reads)]
    (reads, _, start), (writes, _, end) = reads.partition(":"), writes.partition(":")
    is_wild = [any(character in part for character in WILD) for part in reads.split(".")]
    if sum(is_wild) != sum(part == "*" for part in writes.split(".")):
        raise ValueError(f"--site must have the same number of * before and after {SEPARATOR!r}, got {path!r}.")
    found = []
    for name in _matching(model, reads):
        given = iter([part for part, wild in zip(name.split("."), is_wild, strict=True) if wild])
        other = ".".join(next(given) if part == "*" else part for part in writes.split("."))
        ends = {"reads": f"{name}:{start or 'in'}", "writes": f"{other}:{end or 'out'}"}
        found.append((f"{name}{SEPARATOR}{other}", ends))
    return found


def _matching(model: nn.Module, path: str) -> list[str]:
    if not any(character in path for character in WILD):
        return [path]
    pattern = path.split(".")
    names = [name.split(".") for name, _ in model.named_modules()]
    found = [name for name in names if len(name) == len(pattern) and all(map(fnmatchcase, name, pattern))]
    if found:
        return [".".join(name) for name in found]
    like = difflib.get_close_matches(path, [".".join(name) for name in names], n=3, cutoff=0.5)
    hint = f" Similar names: {', '.join(map(repr, like))}." if like else ""
    raise ValueError(
        f"--site must match a module of the {type(model).__name__}, but {path!r} matches none. A * matches one part "
        f"of a path.{hint}"
    )


@contextmanager
def warnings_of_sites(seen: set[str]) -> Iterator[None]:
    """Returns a context that replaces arguments in warnings by ``--site``. If an error occurs, no warning is given.

    Args:
        seen: Earlier warnings, which aren't repeated. New warnings are added.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        message = translate(str(warning.message).replace("`path`=", "--site "), {"path": "--site"})
        if message not in seen:
            seen.add(message)
            checks.warn(message, warning.category)


def n_neurons(site: Site, *, is_loaded: bool) -> int | None:
    """Returns the number of neurons of an MLP, or ``None`` if it is unknown for a model on the meta device.

    Args:
        site: The site of the MLP.
        is_loaded: Whether the weights of the model are loaded.

    Raises:
        ValueError: If the number is unknown. For a site that is a whole block, the message lists the MLPs inside.
    """
    try:
        return site.neurons.n
    except ValueError as error:
        inside = _mlps_in(site)
        if inside:
            raise ValueError(
                f"--site must be an MLP, but {site.name!r} is a block that contains one. Use --site "
                f"{' or '.join(inside)}, or add --n-latents to train on the whole block."
            ) from error
        if not is_loaded:
            return None
        raise ValueError(_unknown_neurons(site, error)) from error


def _unknown_neurons(site: Site, error: ValueError) -> str:
    module = find_module(site.model, site.name)
    if module is None or experts_of(module) is not None:
        return f"--n-latents is required, because the number of neurons of the MLP is unknown: {error}"
    found = mlps(site.model, site.name)
    hint = translate(f" MLPs in this model: {'; '.join(found)}.", {}) if found else ""
    return (
        f"--site must be an MLP with a known number of neurons, but {site.name!r} ({type(module).__name__}) has no "
        f"known neurons.{hint} Add --n-latents to train on this module."
    )


def _mlps_in(site: Site) -> list[str]:
    """Returns the paths of the children of a module that have neurons."""
    found = []
    module = dict(site.model.named_modules()).get(site.name)
    for name, _ in () if module is None else module.named_children():
        path = f"{site.name}.{name}"
        try:
            _ = Site(site.model, path).neurons
        except (ValueError, TypeError):
            continue
        found.append(path)
    return found
