"""`ActivationStream`, shuffled batches of activations from a model that runs on tokens."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from sparsedict import checks
from sparsedict.data._forms import token_source
from sparsedict.data._model_rows import Mix, ModelRows
from sparsedict.data._packing import Bos
from sparsedict.data._site_capture import SiteCapture, takes_mask
from sparsedict.data._source import ActivationSource
from sparsedict.data._store import ActivationStore
from sparsedict.data._store_writer import write_store
from sparsedict.data._stored_sites import bytes_per_token, plan_store
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
"""Default number of positions in one forward pass, on the CPU and on other devices.

The optimum on the CPU, where small passes stay in its caches, was measured by ``benchmarks.harvest``.
"""


class ActivationStream(ActivationSource):
    """Shuffled batches of the activations of sites, computed by running the model on tokens.

    The model runs on sequences (or documents) up to the last site, in random order if the tokens have random access.
    The kept positions fill a buffer. Its rows are returned in random order until it is empty; then it is filled again.
    Padding is left out, and so are positions that any of the sites excludes (``exclude_tokens``, ``exclude_first``).

    Iterating makes one pass, which is the same each time. The last batch may be short. ``fit`` makes further passes,
    each with a new shuffle. If a pass fits into the buffer, each iterator runs the model only once.

    Memory: each iterator needs ``buffer_size`` tokens of ``bytes_per_token`` (``buffer_bytes`` in all), 16 bytes per
    token for its id and position, and the activations of one forward pass and one batch. The memory doesn't grow with
    the data.

    Args:
        sites: A site, `Sites`, or a dict of sites by name. With several sites, names of points start with the name of
            the site, such as ``"0.inputs"``. Sites may belong to several models, which all run on the same tokens.
        tokens: Token ids ``[n_sequences, context]`` as a tensor, an array or a memory map; one long row, which is split
            into sequences; a mapping of ``input_ids`` and ``attention_mask``; a Hugging Face dataset, or a table of
            pandas, polars or pyarrow, with a column ``input_ids`` or ``text``; a column of one; or any iterable of
            rows, of batches of rows, of such mappings, or of texts. Empty rows and texts are skipped. An iterable
            without random access is read from its beginning for each pass (and to resume). Only the buffer shuffles it.
        batch_size: Tokens per batch.
        seed: Seed of the shuffling.
        mix: ``"tokens"`` draws a batch from all tokens of the buffer. ``"sequences"`` draws whole sequences with their
            positions in order, for losses that run the model on a batch's tokens. A batch then has as many sequences as
            fit into ``batch_size`` tokens, and at least one.
        tokenizer: Tokenizer for texts; by default the model's ``tokenizer``, if it has one. Texts are packed into rows
            as by `pack`. Short rows are padded and masked.
        context: Tokens per sequence for texts and for one long row. By default it is 256, or the model's maximum length
            if that is smaller. Longer items are split.
        text_column: Column of a table or dataset, or key of items, with the texts; by default ``text``.
        bos: Where texts get the tokenizer's BOS; see `pack`.
        join: Whether a row may contain tokens of several texts; see `pack`.
        buffer_size: Number of tokens in the buffer; by default 1 GiB of them, at most 262,144 and at least four
            batches.
        model_batch_size: Sequences per forward pass; by default about 1,024 tokens on the CPU and 16,384 on other
            devices.
        neurons: Whether to also return the MLP's hidden activations, or names of the sites for which to return them.
        dtype: Type of the activations; by default the model's.
        device: Device of the buffer and the batches; by default the model's.

    Raises:
        TypeError: If ``tokens`` aren't integers or have none of these forms, or hold texts without a tokenizer.
        ValueError: If ``batch_size`` exceeds ``buffer_size``, the tokens are empty, or rows exceed the model's maximum
            length; while iterating, if ids are outside of the model's vocabulary, activations aren't finite, or all
            positions are excluded. Errors name the row, counted from 0.

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
        self._capture = SiteCapture.from_sites(sites, neurons, dtype, checks.device("device", device))
        model = self._capture.model
        tokenizer = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
        longest = min((n for own in self._capture.models if (n := longest_row(own)) is not None), default=None)
        self._tokens = token_source(
            tokens, tokenizer, context, text_column=text_column, bos=bos, join=join, longest=longest
        )
        self.bytes_per_token: int = bytes_per_token(self._capture)
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
        return tuple(name for name in self._capture.sites if name) or None

    @property
    def sites(self) -> dict[str, Site] | Site:
        """The sites as passed to the constructor."""
        sites = self._capture.sites
        return sites[""] if "" in sites else dict(sites)

    @property
    def n_positions(self) -> int | None:
        """Number of tokens of one pass, including excluded ones; ``None`` if unknown before a pass."""
        return self._tokens.n_positions

    @property
    def n_tokens(self) -> int | None:
        """Number of kept tokens of one pass; ``None`` if unknown before a pass.

        If positions are excluded, all tokens are read once to count them, without running the model.
        """
        if self._counted is None:
            self._counted = self._rows().count()
        return self._counted

    @property
    def n_batches(self) -> int | None:
        """Number of batches of one pass; ``None`` if unknown before a pass, such as with ``mix="sequences"``."""
        return super().n_batches if self._mix == "tokens" else None

    @property
    def buffer_bytes(self) -> int:
        """Size of a full buffer, in bytes."""
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
        """Writes the activations of one pass to a folder, for any number of training runs.

        The folder contains safetensors files of about 256 MiB, with a checksum for every 256 tokens, and a description
        in JSON. The tokens are in the order of the stream, with their ids and positions. If writing was interrupted,
        another call with the same stream continues it. The resulting files are bit-identical on the same machine. A
        complete folder isn't changed.

        Args:
            folder: The folder. It is created if necessary.
            n_tokens: Number of tokens to store; one pass by default. Required if the size of a pass is unknown.
            dtype: Type of the stored activations: ``torch.float32``, ``torch.bfloat16``, ``torch.float16``, or
                ``torch.int8`` with a scale per token. By default it is the type of the stream.
            progress: Whether to print the size before writing, and to show a progress bar.

        Returns:
            The store, with this stream's batch size and seed.

        Raises:
            ValueError: If ``n_tokens`` is required, the folder contains other activations, or the stream has
                ``mix="sequences"``, since a store doesn't keep sequences together.
            OSError: If the disk has too little space. Nothing is written then.
        """
        path = checks.path("folder", folder)
        progress = checks.boolean("progress", progress)
        if self._mix != "tokens":
            raise ValueError(
                f"`mix` must be 'tokens' for a stream that is saved, got {self._mix!r}. A store returns single tokens "
                "in random order. Create another stream for the store."
            )
        made_by = {"seed": self.seed, "buffer_size": self.buffer_size}
        description = plan_store(self._capture, self._tokens, self._block_size, n_tokens, self.n_tokens, dtype, made_by)
        write_store(path, description, self._rows(), self.seed, progress)
        return ActivationStore(folder, batch_size=self.batch_size, seed=self.seed)

    def _rows(self) -> ModelRows:
        rows = ModelRows(
            self._capture,
            self._tokens,
            buffer_size=self.buffer_size,
            block_size=self._block_size,
            seed=self.seed,
            mix=self._mix,
        )
        rows.n_tokens = self._counted
        return rows
