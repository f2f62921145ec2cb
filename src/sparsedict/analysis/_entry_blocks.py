"""Blocks of active latents of one or several dictionaries, from one pass over tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsedict.analysis._site_dictionary import SiteDictionary
from sparsedict.analysis._token_batches import Tokens, token_batches, token_ids
from sparsedict.batches import Activations
from sparsedict.latents import SparseLatents, fires
from sparsedict.sites import Site, Sites

BLOCK_ENTRIES = 2**21
"""Number of active latents of one dictionary after which a block ends."""
BLOCK_TOKENS = 2**16
"""Number of tokens after which a block ends."""


@dataclass(frozen=True, eq=False)
class Text:
    """The tokens of consecutive sequences.

    Attributes:
        tokens: Token ids, -1 at padding, ``[n_places]``.
        sequences: Index of each token's sequence, counted over the whole pass, ``[n_places]``.
        positions: Position in the sequence, ``[n_places]``.
        n_tokens: Number of tokens that were encoded.
        n_sequences: Number of sequences.
    """

    tokens: NDArray[np.int32]
    sequences: NDArray[np.int64]
    positions: NDArray[np.int32]
    n_tokens: int
    n_sequences: int

    @classmethod
    def joined(cls, parts: Sequence[Text]) -> Text:
        """Returns the tokens of several parts."""
        return cls(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.sequences for part in parts]),
            np.concatenate([part.positions for part in parts]),
            sum(part.n_tokens for part in parts),
            sum(part.n_sequences for part in parts),
        )


@dataclass(frozen=True, eq=False)
class EntryBlock:
    """The active latents of a dictionary on a text, ordered by latent, then by place.

    Attributes:
        values: Value of the latent, ``[n_entries]``.
        latents: Index of the latent, ``[n_entries]``.
        places: Index of the token in the text, ``[n_entries]``.
        starts: Index of the first entry of each latent in the block, ``[n_present]``.
        text: The text.
    """

    values: NDArray[np.float32]
    latents: NDArray[np.int32]
    places: NDArray[np.int64]
    starts: NDArray[np.int64]
    text: Text

    @classmethod
    def sorted(cls, values: Tensor, latents: Tensor, places: Tensor, n_latents: int, text: Text) -> EntryBlock:
        """Sorts entries, which must be ordered by place."""
        numbers = latents.numpy()
        # NumPy uses a radix sort for 16-bit integers.
        order = np.argsort(numbers.astype(np.uint16) if n_latents <= 2**16 else numbers, kind="stable")
        ordered = numbers[order].astype(np.int32)
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        return cls(values.numpy()[order], ordered, places.numpy()[order], starts, text)

    @property
    def present(self) -> NDArray[np.int32]:
        """The latents with entries, in ascending order."""
        return self.latents[self.starts]

    def __len__(self) -> int:
        return len(self.values)

    def renumbered(self, numbers: NDArray[np.int32]) -> EntryBlock:
        """Returns the entries of some latents with new numbers, of which -1 leaves a latent out."""
        latents = numbers[self.latents]
        chosen = np.flatnonzero(latents >= 0)
        order = chosen[np.argsort(latents[chosen], kind="stable")]
        starts = np.flatnonzero(np.diff(latents[order], prepend=-1))
        return EntryBlock(self.values[order], latents[order], self.places[order], starts, self.text)


@dataclass
class _Buffer:
    """Entries of one dictionary that aren't in a block yet."""

    n_latents: int = 0
    n_entries: int = 0
    parts: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)


@dataclass
class EntryBlocks:
    """Iterator over blocks of the active latents of several dictionaries.

    Blocks end after whole batches. The entries don't depend on the sizes of batches and blocks, except for the rounding
    of the model.

    Args:
        site: The site, or the sites.
        resolved: The dictionaries.
        tokens: Tokens, see `token_batches`.
        batch_size: Number of sequences in a forward pass.
        n_tokens: Number of tokens after which to stop, at the end of a sequence.
        block_tokens: Largest number of tokens of a block, rounded up to whole batches.
        skip: Number of sequences at the beginning that were already processed.
        n_before: Number of tokens in the skipped sequences.
        skipped: Digest of the skipped sequences, see `digest`; ``None`` if it is unknown.

    Raises:
        ValueError: During iteration, if the skipped sequences have another digest.
    """

    site: Site | Sites
    resolved: Sequence[SiteDictionary]
    tokens: Any
    batch_size: int
    n_tokens: int | None = None
    block_tokens: int = BLOCK_TOKENS
    skip: int = 0
    n_before: int = 0
    skipped: str | None = None
    n_latents: dict[str, int] = field(default_factory=dict)
    _digest: Any = field(default_factory=hashlib.sha256, repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the token ids of all sequences so far."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[dict[str, EntryBlock]]:
        n_seen, number = self.n_before, 0
        texts: list[Text] = []
        buffers = {own.name: _Buffer() for own in self.resolved}
        for batch in token_batches(self.tokens, self.batch_size, self.site):
            if number < self.skip:
                number += self._skip(batch)
                continue
            if self.n_tokens is not None and n_seen >= self.n_tokens:
                break
            if number == self.skip and self.skipped not in (None, self.digest):
                raise ValueError("`tokens` must be those of the interrupted pass, but earlier sequences differ.")
            captured = self._capture(batch)
            kept = captured.kept.cpu()
            # Sequences after the last requested token don't count.
            before = n_seen + kept.sum(1).cumsum(0) - kept.sum(1)
            counts = before < (2**62 if self.n_tokens is None else self.n_tokens)
            kept &= counts[:, None]
            text = self._text(captured, kept, number, int(counts.sum()))
            self._encode(captured, kept, sum(len(part.tokens) for part in texts), buffers)
            texts.append(text)
            n_seen, number = n_seen + text.n_tokens, number + len(kept)
            if self._is_full(texts, buffers):
                yield self._block(texts, buffers)
                texts = []
        if texts:
            yield self._block(texts, buffers)

    def _skip(self, batch: Tokens) -> int:
        """Returns the number of sequences of a batch that was already processed."""
        ids = token_ids(batch)
        if ids is None:
            raise ValueError("`tokens` must be token ids to continue a pass, got a batch without `input_ids`.")
        self._digest.update(ids.cpu().numpy().tobytes())
        return len(ids)

    def _capture(self, batch: Tokens) -> Activations:
        if isinstance(self.site, Site):
            captured = self.site.capture(batch, neurons=any(own.adapter.uses("neurons") for own in self.resolved))
        else:
            names = [
                point.rpartition(".")[0] or own.site
                for own in self.resolved
                for points in own.adapter.points
                for point in ((points,) if isinstance(points, str) else points)
                if point.rpartition(".")[2] == "neurons"
            ]
            captured = self.site.capture(batch, neurons=[name for name in dict.fromkeys(names) if name])
        if captured.tokens is None or captured.tokens.shape != captured.shape:
            raise ValueError(
                "`tokens` must be token ids [n_sequences, n_positions], because examples contain tokens, got "
                f"activations of leading shape {tuple(captured.shape)}."
            )
        return captured

    def _text(self, captured: Activations, kept: Tensor, number: int, n_counted: int) -> Text:
        assert captured.tokens is not None
        self._digest.update(captured.tokens.cpu().long().numpy().tobytes())
        ids, real = captured.tokens.cpu(), captured.attention_mask
        ids = ids if real is None else ids.masked_fill(~real.cpu(), -1)
        n_sequences, width = ids.shape
        return Text(
            ids.flatten().numpy().astype(np.int32),
            np.repeat(np.arange(number, number + n_sequences, dtype=np.int64), width),
            np.tile(np.arange(width, dtype=np.int32), n_sequences),
            int(kept.sum()),
            n_counted,
        )

    def _encode(self, captured: Activations, kept: Tensor, first: int, buffers: Mapping[str, _Buffer]) -> None:
        places = kept.flatten().nonzero().squeeze(1) + first
        captured.mask = kept
        rows = captured.batch()
        for own in self.resolved:
            buffer, x = buffers[own.name], own.inputs(rows)
            for start in range(0, max(len(x), 1), own.adapter.n_rows):
                latents = own.adapter.encode_sparse(x[start : start + own.adapter.n_rows])
                sparse = latents if isinstance(latents, SparseLatents) else SparseLatents.from_dense(latents)
                buffer.n_latents = self.n_latents[own.name] = sparse.n_latents
                part = _active(own, sparse, places[start:])
                buffer.parts.append(part)
                buffer.n_entries += len(part[0])

    def _is_full(self, texts: Sequence[Text], buffers: Mapping[str, _Buffer]) -> bool:
        n_entries = max(buffer.n_entries for buffer in buffers.values())
        return n_entries >= BLOCK_ENTRIES or sum(text.n_tokens for text in texts) >= self.block_tokens

    def _block(self, texts: Sequence[Text], buffers: Mapping[str, _Buffer]) -> dict[str, EntryBlock]:
        text, found = Text.joined(texts), {}
        for name, buffer in buffers.items():
            values, latents, places = (torch.cat(parts) for parts in zip(*buffer.parts, strict=True))
            found[name] = EntryBlock.sorted(values, latents, places, buffer.n_latents, text)
            buffer.parts, buffer.n_entries = [], 0
        return found


def _active(own: SiteDictionary, sparse: SparseLatents, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns value, latent and place of the entries that fire, on the CPU."""
    active = fires(sparse.values)
    if sparse.support.has_padding or not bool(active.all()):
        found = (sparse.values[active], sparse.latents[active], sparse.support.tokens[active])
    else:
        found = (sparse.values, sparse.latents, sparse.support.tokens)
    values, latents, rows = (part.cpu() for part in found)
    values = values.float()
    if not bool(values.isfinite().all()):
        raise ValueError(f"The latents of {own.name!r} must be finite, got NaN or infinity. Check its weights.")
    return values, latents.to(torch.int32), places[rows]
