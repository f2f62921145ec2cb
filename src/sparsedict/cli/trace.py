"""`sparsedict trace`, the attribution graph of a prompt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict import circuits, pages
from sparsedict.cli._errors import translate, translated_errors
from sparsedict.cli._finished_run import NEURONS, FinishedRun, finished_run, tokenizer_of
from sparsedict.cli._options import set_threads
from sparsedict.cli._run_file import run_options
from sparsedict.cli._traced_latents import features_of, pages_of
from sparsedict.pages.exports import write_circuit_tracer_graph
from sparsedict.pages.graphs import check_graph_folder
from sparsedict.sites import Site, Sites
from sparsedict.sites.models import input_device
from sparsedict.storage import replace_folder
from sparsedict.studies import KINDS

__all__ = ["run", "stop_message"]


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    run_options(args.run)
    with translated_errors(path="--out"):
        check_graph_folder(args.out.absolute(), args.force)
    set_threads(args)
    tokenizer = tokenizer_of(args.run)
    prompt, targets = _prompt(args, tokenizer)
    loaded = finished_run(args.run, device=args.device, progress=not args.quiet)
    sites, dictionaries = parts_of(loaded, others=args.others)
    features = features_of(args.run, loaded, dictionaries) if args.features else {}
    device = input_device(sites.models[0])
    with translated_errors(tokens="PROMPT", token="--target", targets="--target"):
        graph = circuits.attribute(
            sites,
            dictionaries,
            prompt.to(device),
            targets=targets,
            max_latents=args.max_latents,
            check=args.check,
            progress=not args.quiet,
        )
    print(graph)
    latents = pages_of(args.run, loaded, dictionaries)
    title = f"Attribution graph of {args.run.resolve().name}"
    number = {name: layer for layer, name in enumerate(graph.layers)}

    def fill(target: Path) -> None:
        pages.write_graph(target, graph, strings=loaded.strings, latents=latents, title=title)
        write_circuit_tracer_graph(
            target / "circuit-tracer",
            graph,
            strings=loaded.strings,
            records={number[name]: records for name, (records, _) in features.items()},
            effects={number[name]: effects for name, (_, effects) in features.items() if effects is not None},
        )

    folder = args.out.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The page and the folder for circuit-tracer appear together, or an interruption leaves neither.
    replace_folder(folder, fill)
    print(f"Open {folder / 'index.html'} in a browser.")


def parts_of(loaded: FinishedRun, *, others: str) -> tuple[Sites, dict[str, Any]]:
    """Returns all MLPs of the model of a run, and their replacements: distillers, and neurons of other MLPs.

    Args:
        loaded: The run.
        others: ``"neurons"`` to replace MLPs without a distiller by their neurons, ``"errors"`` to leave them.

    Raises:
        ValueError: If the run has no distiller.
    """
    found = {part.name or kind: own for part in loaded.parts for kind, own in part.transcoders.items()}
    if not found:
        kinds = " or ".join(kind.name for kind in KINDS.values() if kind.is_transcoder)
        trained = ", ".join(dict.fromkeys(kind for part in loaded.parts for kind in part.dictionaries))
        raise ValueError(f"RUN must have a distiller, but it has only: {trained}. Train with --kind {kinds}.")
    replaced = {name for part in loaded.parts if part.transcoders for name in part.names}
    sites = all_sites(loaded.sites)
    if others == NEURONS:
        for name, site in sites.items():
            if name in replaced:
                continue
            try:
                found[name] = site.neurons
            except ValueError as error:
                print(f"sparsedict: warning: {name} has error terms only: {translate(str(error), {})}", file=sys.stderr)
    return sites, found


def all_sites(given: Mapping[str, Site]) -> Sites:
    """Returns the sites of a run with those of the other MLPs of the model, in the order of the model."""
    first = next(iter(given.values()))
    excluded = first.exclusion.tokens
    try:
        found = circuits.find_sites(first.model)
    except ValueError:
        return Sites(dict(given))
    known = {site.writes: name for name, site in given.items()}
    sites: dict[str, Site] = {}
    for other in found.values():
        name = known.pop(other.writes, None)
        if name is not None:
            sites[name] = given[name]
            continue
        reads, two, writes = other.name.partition(" -> ")
        ends: dict[str, Any] = {"reads": reads, "writes": writes} if two else {"path": reads}
        sites[other.name] = Site(other.model, **ends, exclude_tokens=excluded)
    return Sites({**sites, **{name: given[name] for name in known.values()}})


def _prompt(args: argparse.Namespace, tokenizer: Any) -> tuple[Tensor, list[int] | None]:
    """Returns the token ids of the prompt and of the targets."""
    if args.ids:
        targets = None if args.target is None else [_target_id(text) for text in args.target]
        return torch.tensor(_ids(args.prompt, "PROMPT"), device="cpu"), targets
    if tokenizer is None:
        raise ValueError("PROMPT must have token ids, such as '0,17,4', with --ids, since the model has no tokenizer.")
    tokens = list(tokenizer(_text(args.prompt)).input_ids)
    if not args.prompt or not tokens:
        raise ValueError("PROMPT must be a text with at least one token, got an empty text.")
    if args.target is None:
        return torch.tensor(tokens, device="cpu"), None
    targets = []
    for text in args.target:
        ids = list(tokenizer(_text(text), add_special_tokens=False).input_ids)
        if len(ids) != 1:
            raise ValueError(f"--target must be the text of one token, got {text!r}, which has {len(ids)} tokens.")
        targets.append(ids[0])
    return torch.tensor(tokens, device="cpu"), targets


def _text(text: str) -> str:
    """Returns an argument of the command line, whose invalid bytes Python represents as lone surrogates."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _ids(text: str, option: str) -> list[int]:
    try:
        found = [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise ValueError(f"{option} must have token ids, such as '0,17,4', with --ids, got {text!r}.")
    return found


def _target_id(text: str) -> int:
    found = _ids(text, "--target")
    if len(found) != 1:
        raise ValueError(f"--target must be one token id with --ids, got {text!r}. Repeat it for several targets.")
    return found[0]


def stop_message(args: argparse.Namespace) -> str:
    """Returns a message about an interrupted command."""
    return "nothing was written."
