"""Tokens through a model to shuffled batches of activations."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from sparsedict import checks
from sparsedict.data._forms import token_source
from sparsedict.data._harvest import HarvestedRows, Mix
from sparsedict.data._harvester import Harvester, takes_mask
from sparsedict.data._packing import Bos
from sparsedict.data._source import ActivationSource
from sparsedict.data._store import ActivationStore
from sparsedict.data._store_writer import write_store
from sparsedict.data._stored_sites import bytes_per_token, planned
from sparsedict.data._tokenizers import Tokenizer
from sparsedict.data._tokens import BlockSize
from sparsedict.data._user_data import DEFAULT_BATCH_SIZE, DEFAULT_SEED
from sparsedict.sites import Site
from sparsedict.sites.models import input_device, longest_row
from sparsedict.torch_state import in_own_state

BUFFER_BYTES = 2**30
MAX_BUFFERED = 2**18
FORWARD_POSITIONS = {"cpu": 1024}
MAX_FORWARD_POSITIONS = 16384
"""Positions in one forward pass where the number of sequences is left open, on the CPU and elsewhere.

On the CPU, where small passes stay in its caches, as measured by ``benchmarks.harvest``.
"""


class ActivationStream(ActivationSource):
    """Batches of what sites read and write, shuffled in bounded memory.

    Sequences (or documents) are taken in a random order where the tokens can be gone through in any order, the model
    runs on them up to the last site, and the kept positions fill a buffer. Its rows are served in random order until
    it is empty; then it is filled again. Positions that a site leaves out (its ``exclude_tokens``, ``exclude_first``)
    and padding aren't served; of several sites, positions that any of them leaves out.

    Iterating makes one pass, the same each time; the last batch may be short. ``fit`` goes on with further passes,
    each shuffled anew. Tokens that fit into the buffer are harvested once for all passes of an iterator.

    Memory: ``buffer_size`` tokens of ``bytes_per_token`` (``buffer_bytes`` in all) per iterator, 16 bytes per token for
    its id and position, and the activations of one forward pass and one batch. Nothing else grows with the data.

    Args:
        sites: A site, or `Sites` (or a dict of sites) by name; the points of a batch then carry the sites' names, such
            as ``"0.inputs"``. Sites may belong to several models, which are all run on the same tokens.
        tokens: Token ids ``[n_sequences, context]`` as a tensor, an array or a memory map; one long row, which is cut
            into sequences; a mapping of ``input_ids`` and ``attention_mask``; a Hugging Face dataset, or a table of
            pandas, polars or pyarrow, with a column ``input_ids`` or ``text``; a column of one; or any iterable of
            rows, of batches of rows, of such mappings, or of texts. Rows and texts without tokens are left out.
            An iterable without random access keeps its order and is gone through again from its beginning for each
            pass (and to resume); the buffer alone shuffles it.
        batch_size: Tokens per batch.
        seed: Of all shuffling.
        mix: ``"tokens"`` draws a batch from all tokens of the buffer. ``"sequences"`` draws whole sequences, the
            positions of each in reading order, for losses that run the model on a batch's tokens; a batch then holds
            as many sequences as ``batch_size`` tokens have room for, at least one.
        tokenizer: Of texts; by default the model's ``tokenizer``, if it has one. Texts are packed into rows as by
            `pack`; rows that remain short are served too, padded and masked.
        context: Tokens per sequence for texts and for one long row, by default 256 or the model's positions where
            these are fewer; longer items are cut.
        text_column: Column of a table or dataset, or key of items, that holds the texts; by default ``text``.
        bos: Where texts get the tokenizer's BOS, see `pack`.
        join: Whether a row may hold tokens of several texts, see `pack`.
        buffer_size: Tokens in the buffer; by default as many as 1 GiB holds, at most 262,144 and at least four
            batches.
        model_batch_size: Sequences per forward pass; by default as many as make up about 1,024 tokens on the CPU and
            16,384 elsewhere.
        neurons: Whether to serve the MLP's hidden activations too, or the names of the sites where to.
        dtype: Of the activations served; by default the model's.
        device: Where the buffer is and batches are served; by default the model's.

    Raises:
        TypeError: If ``tokens`` aren't integers or in none of these forms, or texts come without a tokenizer.
        ValueError: If ``batch_size`` exceeds ``buffer_size``, the tokens are empty, rows are longer than the model's
            positions; while iterating, if ids lie outside of the model's
            vocabulary, activations aren't finite, or no position is kept. Errors name the row, counted from 0.

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
        mix: Mix = "tokens",
        tokenizer: Tokenizer | None = None,
        context: int | None = None,
        text_column: str | None = None,
        bos: Bos = "both",
        join: bool = True,
        buffer_size: int | None = None,
        model_batch_size: int | None = None,
        neurons: bool | Iterable[str] = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(batch_size, seed, dtype)
        checks.one_of("mix", mix, ("tokens", "sequences"))
        self._mix: Mix = mix
        self._harvester = Harvester.from_sites(sites, neurons, dtype, None if device is None else torch.device(device))
        model = self._harvester.model
        tokenizer = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
        self._tokens = token_source(
            tokens, tokenizer, context, text_column=text_column, bos=bos, join=join, longest=longest_row(model)
        )
        self.bytes_per_token: int = bytes_per_token(self._harvester)
        usual = min(BUFFER_BYTES // self.bytes_per_token, MAX_BUFFERED)
        self.buffer_size: int = self._checked_buffer(buffer_size, usual, self.n_positions)
        if model_batch_size is not None:
            model_batch_size = checks.at_least("model_batch_size", model_batch_size, 1)
        runs_on = input_device(model)
        target = FORWARD_POSITIONS.get("cpu" if runs_on is None else runs_on.type, MAX_FORWARD_POSITIONS)
        self._block_size = BlockSize(model_batch_size, target, self.buffer_size, takes_mask(model))
        self._counted: int | None = None

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the sites; ``None`` for one site without a name."""
        return tuple(name for name in self._harvester.sites if name) or None

    @property
    def sites(self) -> dict[str, Site] | Site:
        """As they were given."""
        sites = self._harvester.sites
        return sites[""] if "" in sites else dict(sites)

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
        """Batches of one pass; ``None`` where that is known only after a pass, as with ``mix="sequences"``."""
        return super().n_batches if self._mix == "tokens" else None

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

    @in_own_state
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
            ValueError: If ``n_tokens`` must be given, the folder holds other activations, or the stream serves whole
                sequences, which a store doesn't keep together.
            OSError: If the disk lacks room for all of it, before anything is written.
        """
        path = checks.path("folder", folder)
        if self._mix != "tokens":
            raise ValueError(
                f"`mix` must be 'tokens' for a stream that is saved, got {self._mix!r}: a store serves single tokens "
                "in random order. Make another stream for the store."
            )
        made_by = {"seed": self.seed, "buffer_size": self.buffer_size}
        description = planned(self._harvester, self._tokens, self._block_size, n_tokens, self.n_tokens, dtype, made_by)
        write_store(path, description, self._rows(), self.seed, progress)
        return ActivationStore(folder, batch_size=self.batch_size, seed=self.seed)

    def _rows(self) -> HarvestedRows:
        rows = HarvestedRows(
            self._harvester,
            self._tokens,
            buffer_size=self.buffer_size,
            block_size=self._block_size,
            seed=self.seed,
            mix=self._mix,
        )
        rows.n_tokens = self._counted
        return rows
