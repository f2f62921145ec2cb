"""`collect`, which records the activations of every latent in one pass over tokens."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsedict import checks
from sparsedict.analysis._blocks import evaluation_mode
from sparsedict.analysis._collector import Amounts, Collector
from sparsedict.analysis._entry_blocks import BLOCK_TOKENS, EntryBlock, EntryBlocks
from sparsedict.analysis._latent_records import LatentRecords
from sparsedict.analysis._pass_checkpoint import DEFAULT_EVERY, PassCheckpoint
from sparsedict.analysis._site_dictionary import SiteDictionary, site_dictionaries
from sparsedict.batches import Points
from sparsedict.progress import progress_bar
from sparsedict.sites import Neurons, Site, Sites


def collect(
    site: Site | Sites,
    dictionaries: Mapping[str, Any],
    tokens: Any,
    *,
    n_tokens: int | None = None,
    n_top: int = 16,
    n_quantiles: int = 5,
    n_per_quantile: int = 4,
    context: int | tuple[int, int] = (16, 8),
    n_partners: int = 10,
    batch_size: int = 16,
    seed: int = 0,
    reads: Points | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | timedelta = DEFAULT_EVERY,
    resume: bool = False,
) -> dict[str, LatentRecords]:
    """Records the activations of every latent of one or several dictionaries, in one pass over tokens.

    The records hold firing counts, quantiles, histograms, examples of the largest activations and of every quantile,
    and the latents that fire on the same tokens. See `LatentRecords`. The memory depends on the number of latents, and
    not on the number of tokens. The examples depend on the seed, and not on the batch size.

    Args:
        site: The site or the sites of the dictionaries.
        dictionaries: Dictionaries by name, each a `Dictionary`, `Neurons`, or any object with ``encode``. If there are
            several sites, a key that is the name of a site stands for its dictionary or for a mapping of its
            dictionaries, whose records are named ``"site.name"``. Any other key is the name of a dictionary that names
            its points in full, such as ``"0.inputs"``.
        tokens: Ids ``[n_sequences, n_positions]``, or any other form that an `ActivationStream` accepts.
        n_tokens: Number of tokens after which to stop, at the end of a sequence. One pass over the tokens by default.
            A pass that continues may have another number, of at least the tokens that were read before.
        n_top: Number of examples of the largest magnitudes for each latent.
        n_quantiles: Number of quantiles of equal numbers of tokens.
        n_per_quantile: Largest number of examples of each quantile. A quantile has fewer if the latent fires rarely,
            and seldom by chance.
        context: Number of tokens before and after an example's token: one number, or a tuple of two.
        n_partners: Largest number of latents that fire on the same tokens.
        batch_size: Number of sequences in a forward pass.
        seed: Random seed of the quantiles' examples and of the tokens that are sampled to find partners.
        reads: The activations that objects of another library read.
        progress: Whether to show a progress bar.
        checkpoint: Folder for the state of the pass. It is empty when the pass is finished. An error or Ctrl-C writes
            the state as well.
        checkpoint_every: Tokens or time between two checkpoints, 10 minutes by default.
        resume: Whether to continue from the checkpoint, if there is one. The result is that of an uninterrupted pass.

    Returns:
        The records of each dictionary by name.

    Raises:
        TypeError: If ``dictionaries`` isn't a mapping.
        ValueError: If the tokens aren't token ids, a dictionary's points are unknown, latents aren't finite, the
            checkpoint belongs to other arguments, or ``resume`` is True without ``checkpoint``.
        FileExistsError: If there is a checkpoint and ``resume`` is False.

    Example:
        >>> import sparsedict as sd
        >>> site = sd.Site(sd.zoo.load_model(), "transformer.h.1.mlp", exclude_tokens=[0])
        >>> tokens = sd.zoo.tokens("evaluation", n_tokens=2048)
        >>> found = sd.analysis.collect(site, {"neurons": site.neurons}, tokens, n_quantiles=4, progress=False)
        >>> [len(found["neurons"].examples(3, quantile)) for quantile in range(4)]
        [4, 4, 4, 4]
    """
    resolved = site_dictionaries(site, dictionaries, reads)
    before, after = checks.pair("context", context, 0)
    progress = checks.boolean("progress", progress)
    amounts = Amounts(
        checks.at_least("n_top", n_top, 1),
        checks.at_least("n_quantiles", n_quantiles, 1),
        checks.at_least("n_per_quantile", n_per_quantile, 1),
        (before, after),
        checks.at_least("n_partners", n_partners, 1),
    )
    n_tokens = None if n_tokens is None else checks.at_least("n_tokens", n_tokens, 1)
    run = _Pass(resolved, amounts, checks.at_least("seed", seed, 0), n_tokens)
    resume, folder = checks.resumed(resume, checkpoint), None
    if checkpoint is not None:
        settings = {**asdict(amounts), "seed": seed, "batch_size": batch_size, "dictionaries": _fingerprints(resolved)}
        every = checks.interval("checkpoint_every", checkpoint_every, "tokens")
        folder = PassCheckpoint(checks.path("checkpoint", checkpoint, "a folder"), every, settings)
        run.restore_(folder.load(resume), folder.folder)
    # A block ends where a checkpoint is due.
    size = BLOCK_TOKENS if folder is None or isinstance(folder.every, timedelta) else min(BLOCK_TOKENS, folder.every)
    blocks = EntryBlocks(
        site, resolved, tokens, batch_size, n_tokens, size, run.n_sequences, run.n_tokens, run.digest or None
    )
    models = [site.model] if isinstance(site, Site) else list(site.models)
    total = _n_tokens(tokens, n_tokens)
    with (
        evaluation_mode(*models, *(own.adapter for own in resolved)),
        progress_bar("collecting", total=total, initial=run.n_tokens, shown=progress) as bar,
    ):
        try:
            for block in blocks:
                bar.update(run.update_(block, blocks))
                if folder is not None and folder.is_due(run.n_tokens):
                    folder.write(run.n_tokens, run.state())
        except BaseException:
            if folder is not None and run.is_whole:
                folder.write(run.n_tokens, run.state())
            raise
    if not run.collectors:
        raise ValueError("`tokens` must contain at least one sequence, got none.")
    records = {name: collector.records() for name, collector in run.collectors.items()}
    if folder is not None:
        folder.clear()
    return records


@dataclass
class _Pass:
    """The collectors of all dictionaries."""

    resolved: list[SiteDictionary]
    amounts: Amounts
    seed: int
    limit: int | None
    collectors: dict[str, Collector] = field(default_factory=dict)
    digest: str = ""
    is_whole: bool = True
    """Whether all collectors have the same tokens."""

    @property
    def n_tokens(self) -> int:
        return next(iter(self.collectors.values())).n_tokens if self.collectors else 0

    @property
    def n_sequences(self) -> int:
        return next(iter(self.collectors.values())).n_sequences if self.collectors else 0

    def update_(self, block: Mapping[str, EntryBlock], blocks: EntryBlocks) -> int:
        """Adds a block of every dictionary, and returns its number of tokens."""
        self.is_whole = False
        for name, own in block.items():
            if name not in self.collectors:
                self.collectors[name] = Collector(blocks.n_latents[name], self.amounts, self.seed)
            self.collectors[name].update_(own)
        self.digest = blocks.digest
        self.is_whole = True
        return next(iter(block.values())).text.n_tokens

    def state(self) -> dict[str, Any]:
        """Returns the state of the pass for a checkpoint."""
        collectors = {name: own.state() for name, own in self.collectors.items()}
        return {"collectors": collectors, "digest": self.digest, "limit": self.limit}

    def restore_(self, state: Mapping[str, Any] | None, folder: Path) -> None:
        """Restores a state, if there is one.

        Raises:
            ValueError: If the state has more tokens than this pass, or is that of a whole pass over other tokens.
        """
        if state is None:
            return
        states = state["collectors"].items()
        self.collectors = {name: Collector.restored(own, self.amounts, self.seed) for name, own in states}
        self.digest = state["digest"]
        before, n = state.get("limit"), self.n_tokens
        if self.limit == before:
            return
        required = None
        if before is not None and n >= before:
            required = f"{before}, as in the interrupted pass, which has read all of them"
        elif self.limit is not None and n > self.limit:
            required = f"at least {n}, the number that the interrupted pass has read"
        if required is not None:
            raise ValueError(
                f"`n_tokens` must be {required}, got {self.limit}. Change it, or delete {folder} to begin again."
            )


def _fingerprints(resolved: list[SiteDictionary]) -> dict[str, str]:
    """Returns a hash of the weights of each dictionary."""
    found: dict[str, str] = {}
    for own in resolved:
        source, digest = own.adapter.source, hashlib.sha256()
        state = source.state_dict() if isinstance(source, nn.Module) else {}
        if isinstance(source, Neurons):
            state = {"encoder": source.encoder, "decoder": source.decoder}
        for name, value in state.items():
            if isinstance(value, Tensor):
                digest.update(name.encode())
                digest.update(value.detach().cpu().double().contiguous().numpy().tobytes())
        found[own.name] = digest.hexdigest()
    return found


def _n_tokens(tokens: Any, wanted: int | None) -> int:
    known = tokens.numel() if isinstance(tokens, Tensor) else None
    if isinstance(tokens, Mapping):
        known = next((v.numel() for v in tokens.values() if isinstance(v, Tensor) and v.ndim == 2), None)
    return min(value for value in (known, wanted, 2**62) if value is not None) if known or wanted else 0
