"""`Example`, a token on which a latent is active, with the text around it, and `ExampleTable`, those of all latents."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from sparsedict.display import Displayed


@dataclass(frozen=True, eq=False, repr=False)
class Example(Displayed):
    """A token on which a latent is active, with the tokens around it.

    Attributes:
        tokens: Token ids of the window, ``[n_window]``.
        activations: Values of the latent on these tokens, ``[n_window]``; 0 at positions that the site excludes.
        peak: Index of this token in the window.
        sequence: Index of the sequence, counted over all batches.
        position: Position of this token in the sequence. For a site in a decoder, in the tokens of the decoder.
    """

    tokens: Int[Tensor, " n_window"]
    activations: Float[Tensor, " n_window"]
    peak: int
    sequence: int
    position: int

    @property
    def value(self) -> float:
        """The value of the latent at the token."""
        return float(self.activations[self.peak])

    @property
    def max(self) -> float:
        """The same value. In a top example, its magnitude is the largest in the sequence."""
        return self.value


@dataclass(frozen=True, eq=False, repr=False)
class ExampleTable(Displayed):
    """Examples of all latents, as arrays.

    Rows are grouped: group ``g`` has the rows ``offsets[g]:offsets[g + 1]``. A group is a latent, or a quantile of a
    latent.

    Attributes:
        tokens: Token ids of the windows, -1 outside of the sequence and at padding, ``[n_examples, n_window]``.
        activations: Values of the latent in the windows; 0 where it doesn't fire and at excluded positions,
            ``[n_examples, n_window]``.
        sequences: Index of the sequence in the tokens of the pass, ``[n_examples]``.
        positions: Position of the example's token in the sequence, ``[n_examples]``.
        offsets: First row of each group, ``[n_groups + 1]``.
        n_before: Number of tokens before the example's token, which is in column ``n_before`` of the windows.
    """

    tokens: Int[Tensor, "n_examples n_window"]
    activations: Float[Tensor, "n_examples n_window"]
    sequences: Int[Tensor, " n_examples"]
    positions: Int[Tensor, " n_examples"]
    offsets: Int[Tensor, " n_groups_and_one"]
    n_before: int

    @property
    def values(self) -> Float[Tensor, " n_examples"]:
        """Value of the latent at each example's token."""
        return self.activations[:, self.n_before]

    def group(self, index: int) -> tuple[Example, ...]:
        """Returns the examples of a group."""
        start, end = self.offsets[index : index + 2].tolist()
        return tuple(map(self._example, range(start, end)))

    def _example(self, row: int) -> Example:
        inside = self.tokens[row] >= 0
        peak = int(inside[: self.n_before].sum())
        where = int(self.sequences[row]), int(self.positions[row])
        return Example(self.tokens[row][inside], self.activations[row][inside], peak, *where)
