"""Loading of a finished run: its sites, dictionaries and held-out tokens."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsedict import zoo
from sparsedict.cli._errors import translate, translated_errors
from sparsedict.cli._model import DTYPES, choose_device, load_config, load_model
from sparsedict.cli._run_file import places_of_run, run_options
from sparsedict.cli._sites import in_model_order, sites_of
from sparsedict.cli._tokenizer import load_tokenizer, special_tokens
from sparsedict.cli._vocabulary import vocabulary
from sparsedict.loading import load
from sparsedict.pages import TokenStrings, token_strings
from sparsedict.sites import Site, Sites
from sparsedict.storage import DESCRIPTION
from sparsedict.studies import KINDS

NEURONS = "neurons"


@dataclass(frozen=True)
class RunPart:
    """The dictionaries of a run whose results are in one folder: those of one site, or those that have all sites.

    Attributes:
        name: Name of the site; empty for dictionaries that have all sites.
        subfolder: Their folder within the run.
        site: The site, or all sites.
        dictionaries: The dictionaries by their kind.
    """

    name: str
    subfolder: str
    site: Site | Sites
    dictionaries: Mapping[str, Any]

    @property
    def names(self) -> list[str]:
        """The names of the sites."""
        return [self.name] if isinstance(self.site, Site) else list(self.site)

    @property
    def transcoders(self) -> dict[str, Any]:
        """The dictionaries that compute the outputs of MLPs from their inputs, by their kind."""
        return {kind: own for kind, own in self.dictionaries.items() if KINDS[kind].is_transcoder}

    def units(self) -> dict[str, Any]:
        """Returns the dictionaries by their kind, and the neurons of each MLP, in the form that `collect` takes.

        Prints a warning if an MLP has no readable neurons.
        """
        found = dict(self.dictionaries)
        for name, site in {self.name: self.site}.items() if isinstance(self.site, Site) else self.site.items():
            try:
                own = {NEURONS: site.neurons}
            except ValueError as error:
                print(
                    f"sparsedict: warning: the neurons of {name} are left out: {translate(str(error), {})}",
                    file=sys.stderr,
                )
                continue
            found |= own if isinstance(self.site, Site) else {name: own}
        return found

    def with_sites(self) -> dict[str, tuple[Site | Sites, Any]]:
        """Returns all units by the names of their records, with the site or the sites that they read."""
        found: dict[str, tuple[Site | Sites, Any]] = {}
        for name, own in self.units().items():
            if isinstance(own, Mapping) and isinstance(self.site, Sites):
                found |= {f"{name}.{kind}": (self.site[name], neurons) for kind, neurons in own.items()}
            else:
                found[name] = self.site, own
        return found


@dataclass(frozen=True)
class FinishedRun:
    """The sites of a finished run.

    Attributes:
        sites: Sites by name.
        parts: The dictionaries: a part for each site, or one part of dictionaries that have all sites.
        held_out: Held-out tokens, ``[n_sequences, context]``.
        strings: Function from token ids to text.
    """

    sites: Mapping[str, Site]
    parts: Sequence[RunPart]
    held_out: Tensor
    strings: TokenStrings


def finished_run(folder: Path, *, device: str | None = None, progress: bool = True) -> FinishedRun:
    """Loads the model, the dictionaries and the held-out tokens of a finished run.

    Args:
        folder: The folder of the run.
        device: Device of the model and the dictionaries.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: If the folder contains no finished run, or its model or data are gone.
    """
    options = run_options(folder)
    where = choose_device(device)
    if options["command"] == "demo":
        sites, held_out, strings = _demo(options)
    else:
        with places_of_run(folder):
            sites, held_out, strings = _trained(options, where, progress)
    for site in sites.values():
        nn.Module.to(site.model, where)
    dictionaries = dictionaries_of(folder, list(sites), where)
    parts = [
        RunPart(name, _subfolder(name, sites), sites[name] if name else Sites(sites), own)
        for name, own in dictionaries.items()
        if own
    ]
    return FinishedRun(sites, parts, held_out, strings)


def tokenizer_of(folder: Path) -> Any | None:
    """Returns the tokenizer of the model of a finished run, or None if it has none.

    Raises:
        FileNotFoundError: If the folder contains no finished run, or its model or data are gone.
        ValueError: If the tokenizer can't be loaded.
    """
    options = run_options(folder)
    if options["command"] == "demo":
        return zoo.load_tokenizer()
    with places_of_run(folder):
        load_config(options["MODEL"])
        return load_tokenizer(options["MODEL"])


def _subfolder(name: str, sites: Collection[str]) -> str:
    """Returns the subfolder of a site; the folder of the run itself for a single site and for all sites together."""
    return name if len(sites) > 1 else ""


def dictionaries_of(folder: Path, sites: Sequence[str], device: Any, option: str = "RUN") -> dict[str, dict[str, Any]]:
    """Loads the dictionaries of a finished run, for each site by their kind.

    The key of dictionaries that have all sites is empty.

    Args:
        folder: The folder of the run.
        sites: Names of the sites.
        device: Device of the dictionaries.
        option: The option of the folder, for error messages.

    Raises:
        FileNotFoundError: If there are none.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in (*sites, ""):
        place = folder / _subfolder(name, sites)
        kinds = [kind for kind in KINDS.values() if kind.is_joint is not bool(name)]
        files = {kind.name: place / kind.name for kind in kinds}
        with translated_errors(path=option):
            found[name] = {kind: load(at).to(device) for kind, at in files.items() if (at / DESCRIPTION).is_file()}
    if not any(found.values()):
        raise FileNotFoundError(f"{option} must contain dictionaries, but {str(folder)!r} has none.")
    return found


def _demo(options: Mapping[str, Any]) -> tuple[dict[str, Site], Tensor, TokenStrings]:
    from sparsedict.cli.demo import BOS

    site = Site(zoo.load_model(), f"transformer.h.{options['--layer']}.mlp", exclude_tokens=[BOS])
    return {site.name: site}, zoo.tokens("evaluation"), token_strings(zoo.load_tokenizer())


def _trained(options: Mapping[str, Any], device: Any, progress: bool) -> tuple[dict[str, Site], Tensor, TokenStrings]:
    from sparsedict.cli.train import tokens_of

    args = argparse.Namespace(
        **{name.removeprefix("--").replace("-", "_").lower(): value for name, value in options.items()}
    )
    config, tokenizer = load_config(args.model), load_tokenizer(args.model)
    excluded = special_tokens(config, tokenizer) if args.exclude_tokens is None else args.exclude_tokens
    # Earlier versions ignored options without effect.
    _, held_out = tokens_of(args, config, tokenizer, strict=False)
    model = load_model(args.model, device=device, dtype=DTYPES[args.dtype], progress=progress)
    strings = tokenizer if args.vocabulary is None else vocabulary(Path(args.vocabulary))
    return in_model_order(sites_of(model, args.site, excluded)), held_out, token_strings(strings)
