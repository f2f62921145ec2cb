"""Loading of a finished run: its sites, dictionaries and held-out tokens."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsedict import zoo
from sparsedict.cli._model import DTYPES, choose_device, load_config, load_model, load_tokenizer, special_tokens
from sparsedict.cli._sites import sites_of
from sparsedict.cli._vocabulary import vocabulary
from sparsedict.loading import load
from sparsedict.pages import TokenStrings, token_strings
from sparsedict.sites import Site
from sparsedict.storage import DESCRIPTION, StorageError, read_json

KINDS = ("distiller", "autoencoder")
NEURONS = "neurons"


@dataclass(frozen=True)
class FinishedRun:
    """The sites of a finished run.

    Attributes:
        sites: Sites by name.
        dictionaries: For each site, the dictionaries by their kind.
        held_out: Held-out tokens, ``[n_sequences, context]``.
        strings: Function from token ids to text.
    """

    sites: Mapping[str, Site]
    dictionaries: Mapping[str, Mapping[str, Any]]
    held_out: Tensor
    strings: TokenStrings

    def units(self, site: str) -> dict[str, Any]:
        """Returns the dictionaries of a site by their kind, and the neurons of its MLP.

        Prints a warning if the MLP has no readable neurons.
        """
        found = dict(self.dictionaries[site])
        try:
            found[NEURONS] = self.sites[site].neurons
        except ValueError as error:
            print(f"sparsedict: warning: the neurons of {site} are left out: {error}", file=sys.stderr)
        return found


def run_options(folder: Path) -> dict[str, Any]:
    """Returns the options of the command that wrote a folder.

    Raises:
        FileNotFoundError: If the folder contains no finished run.
    """
    try:
        run = read_json(folder / "run.json")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"RUN must be the folder of a finished run of `sparsedict demo` or `sparsedict train`, but "
            f"{str(folder)!r} has no run.json."
        ) from None
    options = run.get("options") if isinstance(run, dict) else None
    if not isinstance(options, dict) or options.get("command") not in ("demo", "train"):
        raise StorageError(f"{folder / 'run.json'} must contain the options of a run.")
    return options


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
    loaded = _demo(options) if options["command"] == "demo" else _trained(options, where, progress)
    sites, held_out, strings = loaded
    for site in sites.values():
        nn.Module.to(site.model, where)
    dictionaries = dictionaries_of(folder, list(sites), where)
    return FinishedRun(sites, dictionaries, held_out, strings)


def dictionaries_of(folder: Path, sites: Sequence[str], device: Any) -> dict[str, dict[str, Any]]:
    """Loads the dictionaries of a finished run, for each site by their kind.

    Raises:
        FileNotFoundError: If there are none.
    """
    places = {name: folder if len(sites) == 1 else folder / name for name in sites}
    found = {
        name: {kind: load(place / kind).to(device) for kind in KINDS if (place / kind / DESCRIPTION).is_file()}
        for name, place in places.items()
    }
    if not any(found.values()):
        raise FileNotFoundError(f"RUN must contain dictionaries, but {str(folder)!r} has none.")
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
    _, held_out = tokens_of(args, config, tokenizer)
    model = load_model(args.model, device=device, dtype=DTYPES[args.dtype], progress=progress)
    strings = tokenizer if args.vocabulary is None else vocabulary(Path(args.vocabulary))
    return sites_of(model, args.site, excluded), held_out, token_strings(strings)
