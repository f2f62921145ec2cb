"""Tokens through a model to shuffled batches of activations."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsedict import checks
from sparsedict.data._batches import AnyBatch, Batches
from sparsedict.data._given import DEFAULT_BATCH_SIZE, DEFAULT_SEED
from sparsedict.data._harvest import HarvestedRows, Harvester, takes_mask
from sparsedict.data._items import Tokenizer, token_source
from sparsedict.data._shards import DTYPES
from sparsedict.data._store import ActivationStore
from sparsedict.data._store_description import StoreDescription
from sparsedict.data._store_writer import tokens_per_shard, write_store
from sparsedict.data._stored_sites import own_dtype, probed, stored_sites
from sparsedict.data._tokens import BlockSize
from sparsedict.sites import Site

BUFFER_BYTES = 2**30
MOST_BUFFERED = 2**18
FORWARD_POSITIONS = {"cpu": 1024}
MOST_FORWARD_POSITIONS = 16384
"""Positions in one forward pass where the number of sequences is left open, on the CPU and elsewhere.

On the CPU, where small passes stay in its caches, as measured by ``benchmarks.harvest``.
"""


class ActivationStream(Iterable[AnyBatch]):
    """Batches of what sites read and write, shuffled in bounded memory.

    Sequences (or documents) are taken in a random order where the tokens can be gone through in any order, the model
    runs on them up to the last site, and the kept positions fill a buffer. Its rows are served in random order until
    it is empty; then it is filled again. Positions that a site leaves out (its ``exclude_tokens``, ``exclude_first``)
    and padding aren't served; of several sites, positions that any of them leaves out.

    Iterating makes one pass, the same each time; the last batch may be short. ``fit`` goes on with further passes,
    each shuffled anew. Tokens that fit into the buffer are harvested once for all passes of an iterator.

    Memory: ``buffer_size`` tokens of ``bytes_per_token`` (``buffer_bytes`` in all) per iterator, and beside it the
    activations of one forward pass and one batch. Nothing else grows with the data.

    Args:
        sites: A site, or sites of one model by name; batches are then dicts by the same names, whose rows are the
            same tokens in the same order.
        tokens: Token ids ``[n_sequences, context]`` as a tensor, an array or a memory map; one long row, which is cut
            into sequences; a mapping of ``input_ids`` and ``attention_mask``; a Hugging Face dataset with a column
            ``input_ids`` or ``text``; or any iterable of rows, of batches of rows, of such mappings, or of texts.
            An iterable without random access keeps its order and is gone through again from its beginning for each
            pass (and to resume); the buffer alone shuffles it.
        batch_size: Tokens per batch.
        seed: Of all shuffling.
        tokenizer: Of texts; by default the model's ``tokenizer``, if it has one. Texts are packed into rows, each row
            and each document begun by its BOS.
        context: Tokens per sequence for texts and for one long row, 256 by default; longer items are cut.
        buffer_size: Tokens in the buffer; by default as many as 1 GiB holds, at most 262,144 and at least four
            batches.
        model_batch_size: Sequences per forward pass; by default as many as make up about 1,024 tokens on the CPU and
            16,384 elsewhere.
        neurons: Whether to serve the MLP's hidden activations too, or the names of the sites where to.
        dtype: Of the activations served; by default the model's.
        device: Where the buffer is and batches are served; by default the model's.

    Raises:
        TypeError: If ``tokens`` aren't integers or in none of these forms, or texts come without a tokenizer.
        ValueError: If ``batch_size`` exceeds ``buffer_size``, the tokens are empty, or the sites lie in several
            models; while iterating, if ids lie outside of the model's vocabulary, activations aren't finite, or no
            position is kept.

    Example:
        >>> import torch
        >>> from sparsedict.sites import Site
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 3))
        >>> stream = ActivationStream(Site(model, "1"), torch.randint(10, (5, 8)), batch_size=16)
        >>> [tuple(batch.outputs.shape) for batch in stream]
        [(16, 3), (16, 3), (8, 3)]
    """

    def __init__(
        self,
        sites: Site | Mapping[str, Site],
        tokens: Any,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        seed: int = DEFAULT_SEED,
        tokenizer: Tokenizer | None = None,
        context: int | None = None,
        buffer_size: int | None = None,
        model_batch_size: int | None = None,
        neurons: bool | Iterable[str] = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.batch_size: int = checks.at_least("batch_size", batch_size, 1)
        self.seed: int = checks.at_least("seed", seed, 0)
        by_name = _by_name(sites)
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"`dtype` must be a floating-point type, got {dtype}.")
        device = None if device is None else torch.device(device)
        self._harvester = Harvester(by_name, _chosen(by_name, neurons), dtype, device)
        model = self._harvester.model
        self._tokens = token_source(tokens, tokenizer or getattr(model, "tokenizer", None), context)
        self.bytes_per_token: int = _bytes_per_token(self._harvester)
        self.buffer_size: int = self._checked_buffer(buffer_size)
        if model_batch_size is not None:
            checks.at_least("model_batch_size", model_batch_size, 1)
        where = next((parameter.device.type for parameter in model.parameters()), "cpu")
        target = FORWARD_POSITIONS.get(where, MOST_FORWARD_POSITIONS)
        self._block_size = BlockSize(model_batch_size, target, self.buffer_size, takes_mask(model))
        self._counted: int | None = None
        self._state: Mapping[str, Any] | None = None
        self._latest: Batches | None = None

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the sites; ``None`` for one site without a name."""
        return tuple(name for name in self._harvester.sites if name is not None) or None

    @property
    def sites(self) -> dict[str, Site] | Site:
        """As they were given."""
        sites = self._harvester.sites
        return sites[None] if None in sites else {name: site for name, site in sites.items() if name is not None}

    @property
    def n_positions(self) -> int | None:
        """Tokens of one pass, those left out included; ``None`` where that is known only after a pass."""
        return self._tokens.n_positions

    @property
    def n_tokens(self) -> int | None:
        """Tokens that one pass serves; ``None`` where that is known only after a pass.

        Counted once, by reading all tokens (without running the model) where positions are left out.
        """
        if self._counted is None:
            self._counted = self._rows().count()
        return self._counted

    @property
    def n_batches(self) -> int | None:
        """Batches of one pass, where known."""
        return None if self.n_tokens is None else -(-self.n_tokens // self.batch_size)

    @property
    def buffer_bytes(self) -> int:
        """What a full buffer takes, in bytes."""
        held = self.buffer_size if self.n_positions is None else min(self.buffer_size, self.n_positions)
        return held * self.bytes_per_token

    def __repr__(self) -> str:
        return (
            f"ActivationStream({self.sites!r}, {self._tokens.origin}, batch_size={self.batch_size:,}, "
            f"seed={self.seed}, buffer_size={self.buffer_size:,} ({self.buffer_bytes / 2**20:,.1f} MiB))"
        )

    def __iter__(self) -> Iterator[AnyBatch]:
        """Makes the first pass, or goes on after `load_state_dict`."""
        batches = self.batches(repeat=False)
        if self._state is not None:
            batches.load_state_dict(self._state)
            self._state = None
        return batches

    def epoch(self, number: int) -> Batches:
        """Returns pass ``number``: as iterating, which makes pass 0, with a shuffle of its own."""
        batches = self.batches(repeat=False)
        batches.load_state_dict({**batches.state_dict(), "epoch": checks.at_least("number", number, 0)})
        return batches

    def batches(self, *, repeat: bool = True) -> Batches:
        """Returns a new iterator: pass after pass, or one pass only."""
        rows = self._rows()
        rows.n_tokens = self._counted
        self._latest = Batches(rows, batch_size=self.batch_size, seed=self.seed, repeat=repeat)
        return self._latest

    def state_dict(self) -> dict[str, Any]:
        """Returns where the iterator that was made last stands: a few integers.

        Activations aren't stored. To go on, the model runs again on the tokens of the buffer that was being served,
        with the same sequences in each forward pass, so that the batches that follow are equal bit for bit (on the
        same machine and with the same tokens, sites and options).
        """
        return (self._latest or self.batches(repeat=False)).state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next iteration go on from a state.

        Raises:
            ValueError: If the state isn't a stream's, or was saved with another batch size or seed.
        """
        self.batches().load_state_dict(state)
        self._state = dict(state)

    def save_to(
        self,
        folder: str | os.PathLike[str],
        *,
        n_tokens: int | None = None,
        dtype: torch.dtype | None = None,
        progress: bool = True,
    ) -> ActivationStore:
        """Harvests one pass and writes it to a folder, to be trained on any number of times.

        The folder holds safetensors files of about 256 MiB with a checksum for every 256 tokens, and a JSON that says
        what they are. The tokens lie in the order in which the stream serves them. A writer that was stopped goes on
        where it was when this is called again with the same stream: the same files come out, bit for bit on the same
        machine. A folder that is complete is left as it is.

        Args:
            folder: Made where it doesn't exist.
            n_tokens: Tokens to store; one pass where left out. Must be given where a pass's tokens aren't known.
            dtype: To store them in: ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``; as they are served
                where left out.
            progress: Whether to print the size before anything is written, and to show a progress bar.

        Returns:
            The store, with this stream's batch size and seed.

        Raises:
            ValueError: If ``n_tokens`` must be given, or the folder holds other activations.
            OSError: If the disk lacks room for all of it, before anything is written.
        """
        description = self._described(n_tokens, dtype or self._harvester.dtype or own_dtype(self._harvester.model))
        write_store(Path(folder), description, self._rows(), self.seed, progress)
        return ActivationStore(folder, batch_size=self.batch_size, seed=self.seed)

    def _described(self, n_tokens: int | None, dtype: torch.dtype) -> StoreDescription:
        if dtype not in DTYPES.values():
            raise ValueError(f"`dtype` must be one of {', '.join(map(str, DTYPES.values()))}, got {dtype}.")
        known = self.n_tokens
        if n_tokens is None and known is None:
            raise ValueError("`n_tokens` must be given where the tokens of a pass aren't known before it is made.")
        planned = known if n_tokens is None else checks.at_least("n_tokens", n_tokens, 1)
        assert planned is not None
        facts, layout = probed(self._harvester, self._tokens, self._block_size)
        widths, sites = stored_sites(self._harvester, layout)
        description = StoreDescription(
            columns=widths,
            sites=sites,
            dtype=dtype,
            n_tokens=planned if known is None else min(planned, known),
            tokens_per_shard=1,
            origin=self._tokens.origin,
            made_by={
                "tokens": self._tokens.origin,
                "n_tokens": planned,
                "seed": self.seed,
                "buffer_size": self.buffer_size,
                "model_batch_size": self._block_size.n_sequences or f"about {self._block_size.target} tokens",
                **facts,
            },
        )
        return replace(description, tokens_per_shard=tokens_per_shard(description.bytes_per_token))

    def _rows(self) -> HarvestedRows:
        return HarvestedRows(
            self._harvester,
            self._tokens,
            buffer_size=self.buffer_size,
            block_size=self._block_size,
            seed=self.seed,
        )

    def _checked_buffer(self, size: int | None) -> int:
        if size is None:
            return max(min(BUFFER_BYTES // self.bytes_per_token, MOST_BUFFERED), 4 * self.batch_size)
        if checks.at_least("buffer_size", size, 1) < self.batch_size:
            raise ValueError(
                f"`batch_size` must not exceed `buffer_size`, got {self.batch_size} and {size} tokens: a batch is "
                "drawn from the buffer, and mixes well if that holds many batches."
            )
        return size


def _by_name(sites: Site | Mapping[str, Site]) -> dict[str | None, Site]:
    by_name: dict[str | None, Site] = {**sites} if isinstance(sites, Mapping) else {None: sites}
    if not by_name:
        raise ValueError("`sites` must name at least one site, got an empty mapping.")
    for name, site in by_name.items():
        if not isinstance(site, Site):
            hint = " Write `Site(model, path)`." if isinstance(site, nn.Module | str) else ""
            raise TypeError(f"`sites` must be a Site, or Sites by name, got {type(site).__name__} for {name!r}.{hint}")
    if len({id(site.model) for site in by_name.values()}) > 1:
        raise ValueError(
            f"`sites` must lie in one model, got sites of several: {', '.join(map(repr, by_name.values()))}."
        )
    return by_name


def _chosen(sites: Mapping[str | None, Site], neurons: bool | Iterable[str]) -> frozenset[str | None]:
    if isinstance(neurons, bool):
        return frozenset(sites if neurons else ())
    chosen = frozenset(neurons)
    if not chosen <= sites.keys():
        raise ValueError(
            f"`neurons` must be names of the sites, {sorted(map(str, sites))}, got {sorted(map(str, chosen))}."
        )
    return chosen


def _bytes_per_token(harvester: Harvester) -> int:
    columns, _ = stored_sites(harvester)
    return sum(width for _, width in columns) * (harvester.dtype or own_dtype(harvester.model)).itemsize
