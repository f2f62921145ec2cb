from __future__ import annotations

import pytest
import torch

from sparsedict.analysis import DecoderShares
from sparsedict.figures import decoder_shares

from ._looks import check_looks, legend_of


def test_the_histogram_counts_latents_by_their_share_at_a_point() -> None:
    values = torch.tensor([0.05, 0.5, 0.5, 0.95, 0.2])
    counted = torch.tensor([True, True, True, True, False])
    shares = DecoderShares(("base", "tuned"), torch.stack([1 - values, values], 1), counted, 0.9, 0.6)
    ax = decoder_shares(shares, n_bins=10)
    check_looks(ax)
    assert legend_of(ax) == ["4 latents", "exclusive to base (1)", "exclusive to tuned (1)"]
    assert [patch.get_height() for patch in ax.patches] == [1, 0, 0, 0, 0, 2, 0, 0, 0, 1]
    assert "base" in decoder_shares(shares, "base").get_xlabel()
    with pytest.raises(ValueError, match="`point` must be"):
        decoder_shares(shares, "other")
