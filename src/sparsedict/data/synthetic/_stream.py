"""`stream`, synthetic activations as training data."""

from __future__ import annotations

from collections.abc import Iterator

from sparsedict import checks
from sparsedict.data._row_source import Chunk, Position, RowSource
from sparsedict.data._source import ActivationSource
from sparsedict.data.synthetic._truth import Truth
from sparsedict.seeds import generator
from sparsedict.torch_state import own_state

CHUNK = 4096
"""Number of tokens that are drawn at once. It doesn't depend on the batch size, so tokens don't either."""
DEFAULT_BATCH_SIZE = 1024
DEFAULT_TOKENS = 2**20
_STREAM = int.from_bytes(b"strm", "big")


class SyntheticStream(ActivationSource):
    """Synthetic activations as training data, drawn when they are needed.

    Iterating makes one pass of ``n_tokens`` tokens, which is the same each time. ``fit`` makes further passes, each
    with new tokens, so a run never sees a token twice. The tokens depend on ``seed`` and not on the batch size. Those
    of ``truth.sample`` are different for every seed.

    Args:
        truth: The synthetic features.
        batch_size: Tokens per batch.
        seed: Seed of the tokens.
        n_tokens: Number of tokens of one pass.
    """

    def __init__(
        self, truth: Truth, *, batch_size: int = DEFAULT_BATCH_SIZE, seed: int = 0, n_tokens: int = DEFAULT_TOKENS
    ) -> None:
        super().__init__(batch_size, seed, None)
        if not isinstance(truth, Truth):
            raise TypeError(
                "`truth` must be synthetic features such as `SyntheticFeatures` or `TeacherMLP`, got "
                f"{type(truth).__name__}."
            )
        self.truth: Truth = truth
        self.buffer_size: int = CHUNK
        self.bytes_per_token: int = sum(part.nbytes for part in truth.sample(1)[0].values())
        self._n_tokens = checks.at_least("n_tokens", n_tokens, 1)

    @property
    def names(self) -> tuple[str, ...] | None:
        return tuple(dict.fromkeys(point.rpartition(".")[0] for point in self.truth.points if "." in point)) or None

    @property
    def n_tokens(self) -> int:
        return self._n_tokens

    def __repr__(self) -> str:
        return (
            f"SyntheticStream({self.truth!r}, batch_size={self.batch_size:,}, seed={self.seed}, "
            f"n_tokens={self.n_tokens:,})"
        )

    def _rows(self) -> RowSource:
        return _SyntheticRows(self.truth, self.seed, self._n_tokens)


class _SyntheticRows(RowSource):
    """Rows that are drawn in chunks, each from its own generator."""

    def __init__(self, truth: Truth, seed: int, n_tokens: int) -> None:
        self._truth = truth
        self._seed = seed
        self.points = truth.points
        self.n_tokens = n_tokens
        self.origin = f"{n_tokens:,} tokens of {truth!r}, new ones in each pass"

    def chunks(self, epoch: int, start: Position, max_rows: int | None = None) -> Iterator[Chunk]:
        assert self.n_tokens is not None
        for index in range(start[0], -(-self.n_tokens // CHUNK)):
            with own_state():
                drawn, _ = self._truth.draw(CHUNK, generator(self._seed, _STREAM, epoch, index))
            n_rows = min(CHUNK, self.n_tokens - index * CHUNK)
            yield Chunk(drawn.rows(slice(n_rows)), None, (index, 0), (index + 1, 0))


def stream(
    truth: Truth, *, batch_size: int = DEFAULT_BATCH_SIZE, seed: int = 0, n_tokens: int = DEFAULT_TOKENS
) -> SyntheticStream:
    """Returns synthetic activations as training data for `fit`, see `SyntheticStream`.

    Args:
        truth: The synthetic features.
        batch_size: Tokens per batch.
        seed: Seed of the tokens.
        n_tokens: Number of tokens of one pass. Each pass has new tokens.

    Raises:
        TypeError: If ``truth`` isn't synthetic features.

    Example:
        >>> import sparsedict as sd
        >>> truth = sd.data.SyntheticFeatures(d=16, n_features=48, l0=3)
        >>> sae = sd.SparseAutoencoder(16, 64, activation=sd.TopK(3), decoder_norm=sd.UnitNorm())
        >>> history = sd.fit(sae, sd.data.synthetic.stream(truth), n_tokens=4096, progress=False)
    """
    return SyntheticStream(truth, batch_size=batch_size, seed=seed, n_tokens=n_tokens)
