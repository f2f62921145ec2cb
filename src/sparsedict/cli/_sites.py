"""The sites that `--site` names."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from sparsedict import checks
from sparsedict.cli._errors import in_options, speaking_of
from sparsedict.sites import Site
from sparsedict.sites.models import experts_of, find_module, mlps

WILD = "*?["
TWO_ENDS = ".."


def sites_of(model: nn.Module, paths: Sequence[str], exclude_tokens: Sequence[int]) -> dict[str, Site]:
    """Returns the sites of a model by name, in the model's order.

    Args:
        model: The model.
        paths: Of modules, each a list with commas; ``*``, ``?`` and ranges such as ``[0-3]`` stand within one name.
            ``READS..WRITES`` are the modules at the two ends of an MLP that is spread over several.
        exclude_tokens: Ids whose positions are left out.

    Raises:
        ValueError: If there is no such module, or one isn't an MLP.
    """
    sites: dict[str, Site] = {}
    for path in (part.strip() for text in paths for part in text.split(",")):
        if not path:
            raise ValueError(f"--site must be the path of a module, or several with commas, got {','.join(paths)!r}.")
        with speaking_of(path="--site", reads="--site", writes="--site", exclude_tokens="--exclude-tokens"):
            for name, where in _places(model, path):
                sites[name] = Site(model, **where, exclude_tokens=exclude_tokens)
    return sites


def _places(model: nn.Module, path: str) -> list[tuple[str, dict[str, Any]]]:
    """Returns names of sites, each with the arguments that say where it is."""
    reads, two, writes = path.partition(TWO_ENDS)
    if not two:
        return [(name, {"path": name}) for name in _matching(model, reads)]
    (reads, _, start), (writes, _, end) = reads.partition(":"), writes.partition(":")
    is_wild = [any(character in part for character in WILD) for part in reads.split(".")]
    if sum(is_wild) != sum(part == "*" for part in writes.split(".")):
        raise ValueError(f"--site must have a * behind {TWO_ENDS!r} for each one before it, got {path!r}.")
    found = []
    for name in _matching(model, reads):
        given = iter([part for part, wild in zip(name.split("."), is_wild, strict=True) if wild])
        other = ".".join(next(given) if part == "*" else part for part in writes.split("."))
        ends = {"reads": f"{name}:{start or 'in'}", "writes": f"{other}:{end or 'out'}"}
        found.append((f"{name}{TWO_ENDS}{other}", ends))
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
    hint = f" Near names: {', '.join(map(repr, like))}." if like else ""
    raise ValueError(
        f"--site must match a module of the {type(model).__name__}, but {path!r} matches none; a * stands for one part "
        f"of a name.{hint}"
    )


@contextmanager
def warnings_of_sites(said: set[str]) -> Iterator[None]:
    """Lets warnings that are given within it speak of ``--site``; an error says more than they do.

    Args:
        said: Warnings that were given before, which aren't repeated; those of this context are added.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        message = in_options(str(warning.message).replace("`path`=", "--site "), {"path": "--site"})
        if message not in said:
            said.add(message)
            checks.warn(message, warning.category)


def n_neurons(site: Site, *, sure: bool) -> int | None:
    """Returns how many neurons an MLP has; ``None`` where that isn't known yet.

    Args:
        site: The MLP.
        sure: Whether it is a site of the model itself, whose neurons are found wherever they can be.

    Raises:
        ValueError: If it isn't known, naming the MLPs inside where the site is a whole block.
    """
    try:
        return site.neurons.n
    except ValueError as error:
        inside = _mlps_in(site)
        if inside:
            raise ValueError(
                f"--site must be an MLP, but {site.name!r} is a block around one. Give --site {' or '.join(inside)}; "
                "for dictionaries of the whole block, add --n-latents."
            ) from error
        if not sure:
            return None
        raise ValueError(_uncounted(site, error)) from error


def _uncounted(site: Site, error: ValueError) -> str:
    module = find_module(site.model, site.name)
    if module is None or experts_of(module) is not None:
        return f"--n-latents must be given, for the MLP's neurons can't be counted: {error}"
    found = mlps(site.model, site.name)
    hint = in_options(f" MLPs in this model: {'; '.join(found)}.", {}) if found else ""
    return (
        f"--site must be an MLP whose neurons can be counted, but none are found in {site.name!r} "
        f"({type(module).__name__}).{hint} To train on this module as it is, add --n-latents."
    )


def _mlps_in(site: Site) -> list[str]:
    """Returns the MLPs among the children of a module, by whether they have neurons."""
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
