"""`write`, the pages of the latents of several dictionaries."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.analysis import LatentRecords, collect, site_dictionaries
from sparsedict.batches import Points
from sparsedict.pages._earlier import has_earlier
from sparsedict.pages._facts import DictionaryFacts, Scores, check_scores, gather
from sparsedict.pages._saved_records import RECORDS, save_records
from sparsedict.pages._shards import Shards, TokenNumbers, dictionary_entry, sample, script, table
from sparsedict.pages._strings import TokenStrings, strings_of
from sparsedict.progress import progress_bar
from sparsedict.sites import Site, Sites
from sparsedict.storage import replace_folder

PROGRAM = ("index.html", "pages.css", "base.js", "query.js", "list.js", "latent.js", "app.js")
"""Files of the package that are copied to the folder."""
MANIFEST = "data/manifest.js"
N_MEASURED = 8
"""Number of data files of each dictionary by which the size of a folder is estimated."""


def write(
    path: str | os.PathLike[str],
    site: Site | Sites,
    dictionaries: Mapping[str, Any],
    tokens: Any = None,
    *,
    records: Mapping[str, LatentRecords] | None = None,
    tokenizer: Any = None,
    scores: Scores | None = None,
    title: str | None = None,
    threshold: float = 0.8,
    reads: Points | None = None,
    keep_records: bool = False,
    progress: bool = True,
    **options: Any,
) -> Path:
    """Writes the pages of the latents of several dictionaries to a folder that any browser opens from disk.

    Open ``index.html``. It lists the latents of each dictionary, and each latent has a page with a histogram, examples
    of the largest activations and of every quantile, promoted and suppressed tokens, and related latents and neurons.

    Args:
        path: The folder. It must be new or empty, or hold earlier pages, which are replaced.
        site: The site or the sites of the dictionaries.
        dictionaries: Dictionaries by name. See `sparsedict.analysis.collect`. Add ``site.neurons`` to have the pages of
            the MLP's own neurons.
        tokens: Tokens of the pass. Needed if there are no ``records``.
        records: The result of `sparsedict.analysis.collect` for these dictionaries, instead of ``tokens``.
        tokenizer: Text of the tokens: a tokenizer, a vocabulary, or a function, see `token_strings`. By default that of
            the model's attribute ``tokenizer``, or numbers.
        scores: Scores to show, by name of the dictionary and name of the score: ``[n_latents]`` each, or a
            `sparsedict.analysis.scores.LatentScores`, whose words are shown with the latents.
        title: Title of the pages.
        threshold: Decoder cosine with a neuron above which a latent is a simulator.
        reads: The activations that objects of another library read.
        keep_records: Whether to save the records with the pages, see `read_records`.
        progress: Whether to show progress bars and the size of the folder, before it is written.
        options: Other arguments of `sparsedict.analysis.collect`.

    Returns:
        The path of ``index.html``.

    Raises:
        FileExistsError: If the folder contains other files.
        TypeError: If there are both or neither of ``tokens`` and ``records``.
        ValueError: If names or lengths of records or scores differ from those of the dictionaries.

    Example:
        >>> import tempfile
        >>> import sparsedict as sd
        >>> site = sd.Site(sd.zoo.load_model(), "transformer.h.1.mlp", exclude_tokens=[0])
        >>> tokens = sd.zoo.tokens("evaluation", n_tokens=4096)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     options = {"tokenizer": sd.zoo.load_tokenizer(), "progress": False}
        ...     index = sd.pages.write(folder, site, {"neurons": site.neurons}, tokens, **options)
        ...     index.name
        'index.html'
    """
    check_folder(checks.path("path", path, "a folder"))
    checks.instance("site", site, Site | Sites, "a site or sites, such as `sd.Site(model, path)`")
    if title is not None:
        checks.instance("title", title, str, "text")
    keep_records, progress = checks.boolean("keep_records", keep_records), checks.boolean("progress", progress)
    if (tokens is None) == (records is None):
        raise TypeError("Pass either `tokens` or `records`.")
    if records is not None and options:
        raise TypeError(f"`{next(iter(options))}` is an argument of `collect`, which doesn't run with `records`.")
    # Arguments are checked before the pass over the tokens, which may be long.
    model = site.model if isinstance(site, Site) else site.models[0]
    strings = strings_of("tokenizer", getattr(model, "tokenizer", None) if tokenizer is None else tokenizer)
    threshold = checks.in_range("threshold", threshold, -1.0, 1.0)
    if records is None:
        resolved = site_dictionaries(site, dictionaries, reads)
        check_scores({} if scores is None else scores, {own.name: own.adapter.n_latents for own in resolved})
        records = collect(site, dictionaries, tokens, reads=reads, progress=progress, **options)
    facts = gather(site, dictionaries, records, scores=scores, threshold=threshold, reads=reads)
    if title is None:
        title = f"Latents of {site.name if isinstance(site, Site) else 'sites ' + ', '.join(site)}"
    return write_pages(path, facts, strings=strings, title=title, keep_records=keep_records, progress=progress)


def write_pages(
    path: str | os.PathLike[str],
    facts: Mapping[str, DictionaryFacts],
    *,
    strings: TokenStrings | None = None,
    title: str = "Latents",
    keep_records: bool = False,
    progress: bool = True,
) -> Path:
    """Writes the pages of facts that `gather` returned. See `write`.

    The pages are written beside the folder, and then take its place.

    Args:
        path: The folder.
        facts: Facts by name of the dictionary.
        strings: Function from token ids to text. By default tokens are shown as numbers.
        title: Title of the pages.
        keep_records: Whether to save the records with the pages, see `read_records`.
        progress: Whether to show a progress bar and the size of the folder, before it is written.

    Returns:
        The path of ``index.html``.

    Raises:
        FileExistsError: If the folder contains other files.
    """
    folder = checks.path("path", path, "a folder").resolve()
    check_folder(folder)
    checks.mapping("facts", facts, DictionaryFacts, "a mapping of names to facts, as `gather` returns them")
    checks.instance("title", title, str, "text")
    strings = strings_of("strings", strings)
    keep_records, progress = checks.boolean("keep_records", keep_records), checks.boolean("progress", progress)
    numbers = TokenNumbers(facts)
    if progress:
        size = sum(map(len, _fixed(facts, numbers, strings, title).values())) + _size_of_shards(facts, numbers)
        size += sum(own.records.n_bytes for own in facts.values()) if keep_records else 0
        print(f"writing about {size / 1e6:,.1f} MB of pages", file=sys.stderr, flush=True)

    def fill(target: Path) -> None:
        n_shards = sum(len(Shards(own, numbers)) for own in facts.values())
        with progress_bar("writing pages", total=n_shards, unit="files", shown=progress) as bar:
            for name, content in _files(facts, numbers, strings, title):
                file = target / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
                bar.update(file.stem.isdecimal())
        if keep_records:
            save_records(target, {name: own.records for name, own in facts.items()})

    folder.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(folder, fill)
    return Path(path) / "index.html"


def check_folder(folder: Path) -> None:
    """Checks that pages may be written to a folder.

    Raises:
        FileExistsError: If it is a file, or contains other files than earlier pages.
    """
    has_earlier(folder, MANIFEST, (*PROGRAM, "data", RECORDS), "set of pages")


def _fixed(
    facts: Mapping[str, DictionaryFacts], numbers: TokenNumbers, strings: TokenStrings, title: str
) -> dict[str, bytes]:
    """Returns the content of all files except for the shards."""
    package = files("sparsedict.pages")
    found = {name: (package / name).read_bytes() for name in PROGRAM}
    entries = [dictionary_entry(name, own, facts) for name, own in facts.items()]
    found[MANIFEST] = script("manifest", {"title": title, "made_by": "sparsedict", "dictionaries": entries})
    found["data/tokens.js"] = script("tokens", numbers.content(strings))
    for index, own in enumerate(facts.values()):
        found[f"data/{index}/table.js"] = script(f"{index}/table", table(own, numbers))
    return found


def _files(
    facts: Mapping[str, DictionaryFacts], numbers: TokenNumbers, strings: TokenStrings, title: str
) -> Iterator[tuple[str, bytes]]:
    yield from _fixed(facts, numbers, strings, title).items()
    for index, own in enumerate(facts.values()):
        shards = Shards(own, numbers)
        for number in range(len(shards)):
            yield f"data/{index}/{number}.js", script(f"{index}/{number}", shards.shard(number))


def _size_of_shards(facts: Mapping[str, DictionaryFacts], numbers: TokenNumbers) -> float:
    """Estimates the size of all shards from some of them."""
    total = 0.0
    for own in facts.values():
        shards = Shards(own, numbers)
        chosen = sample(len(shards), N_MEASURED)
        sizes = [len(script("0/0", shards.shard(number))) for number in chosen]
        total += sum(sizes) / len(chosen) * len(shards)
    return total
