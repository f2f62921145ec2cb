"""`Block`, consecutive latents of a dictionary with equal inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.display import Displayed
from sparsedict.norms import DecoderNorm

TIED_ROWS = 2**10
"""Number of tied decoder rows that are expanded to whole rows at once."""


@dataclass(frozen=True, eq=False, repr=False)
class Block(Displayed):
    """Consecutive latents of a dictionary, with their encoder and decoder rows.

    Entries of the encoder and decoder matrices outside of the blocks are zero and aren't stored. Most dictionaries have
    one block, which reads all inputs and writes all outputs.

    Attributes:
        latents: Slice of the latents among all latents of the dictionary.
        encoder: Encoder rows, ``[n, d_read]``.
        decoder: Decoder rows, ``[n, d_row]``.
        reads: Slice of the input columns.
        writes: Slice of the output columns.
        widths: Widths of the points that a decoder row writes. Their sum is the width of ``writes``.
        n_copies: Number of copies of the stored decoder row in a whole row: 1, or the number of ``widths``.
    """

    latents: slice
    encoder: Float[Tensor, "n d_read"]
    decoder: Float[Tensor, "n d_row"]
    reads: slice
    writes: slice
    widths: tuple[int, ...]
    n_copies: int = 1

    @property
    def n_latents(self) -> int:
        return len(self.encoder)

    def rows_of(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the positions in ``latents`` of the latents of this block, and their rows in this block."""
        here = ((latents >= self.latents.start) & (latents < self.latents.stop)).nonzero().flatten()
        return here, latents[here] - self.latents.start

    def norms(self) -> Float[Tensor, " n"]:
        """Returns the norm of each whole decoder row. The result is differentiable."""
        return torch.linalg.vector_norm(self.decoder, dim=-1) * self.n_copies**0.5

    def point_norms(self) -> Float[Tensor, "n n_points"]:
        """Returns the norm of each decoder row at each point that the block writes. The result is differentiable."""
        if self.n_copies > 1:
            return torch.linalg.vector_norm(self.decoder, dim=-1, keepdim=True).expand(-1, self.n_copies)
        parts = self.decoder.split(self.widths, dim=-1)
        return torch.stack([torch.linalg.vector_norm(part, dim=-1) for part in parts], dim=-1)

    def whole_rows(self) -> Float[Tensor, "n d_written"]:
        """Returns whole decoder rows, with all copies of tied rows."""
        return self.decoder.repeat(1, self.n_copies) if self.n_copies > 1 else self.decoder

    def stored_rows(self, rows: Float[Tensor, "m d_written"]) -> Float[Tensor, "m d_row"]:
        """Returns the stored part of whole rows, which is the mean over copies."""
        return rows.unflatten(-1, (self.n_copies, -1)).mean(-2) if self.n_copies > 1 else rows

    def constrain_(self, norm: DecoderNorm) -> None:
        """Applies a decoder norm to the whole rows, in place."""
        norm = norm.at_points(self.widths)
        if self.n_copies == 1:
            norm.constrain_(self.decoder)
            return
        for rows in self.decoder.detach().split(TIED_ROWS):
            whole = rows.repeat(1, self.n_copies)
            norm.constrain_(whole)
            rows.copy_(whole[:, : rows.shape[1]])

    def project_gradient_(self, norm: DecoderNorm, gradient: Float[Tensor, "n d_row"]) -> None:
        """Removes the component of the gradient of the stored rows that the constraint would undo, in place."""
        norm = norm.at_points(self.widths)
        if self.n_copies == 1:
            norm.project_gradient_(self.decoder, gradient)
            return
        for rows, slopes in zip(self.decoder.detach().split(TIED_ROWS), gradient.split(TIED_ROWS), strict=True):
            whole = slopes.repeat(1, self.n_copies)
            norm.project_gradient_(rows.repeat(1, self.n_copies), whole)
            slopes.copy_(whole[:, : slopes.shape[1]])
