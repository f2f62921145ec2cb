"""Invalid arguments of the pages of latents raise errors before the pass over the tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sparsedict as sd


class Unread:
    """Tokens that may not be read."""

    def __iter__(self) -> Any:
        raise AssertionError("The tokens were read before the arguments were checked.")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scores": {"other": {"clarity": torch.zeros(4)}}}, r"`scores` must have names of dictionaries, .*'other'"),
        ({"scores": {"sae": {"clarity": torch.zeros(3)}}}, r"`scores\['sae'\]\['clarity'\]` must .*3"),
        ({"scores": {"sae": {"max": torch.zeros(4)}}}, r"must have other names than the columns .*'max'"),
        ({"scores": {"sae": {"Fires on": torch.zeros(4)}}}, r"must have other names than the columns .*'Fires on'"),
        ({"tokenizer": 3}, r"`tokenizer` must be a tokenizer"),
        ({"threshold": 2.0}, r"`threshold` must"),
    ],
    ids=["dictionary", "length", "column", "heading", "tokenizer", "threshold"],
)
def test_arguments_are_checked_before_the_pass(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    site = sd.Site(sd.zoo.load_model(), "transformer.h.0.mlp")
    sae = sd.SparseAutoencoder(site.d_out, 4, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
    with pytest.raises((TypeError, ValueError), match=message):
        sd.pages.write(tmp_path / "pages", site, {"sae": sae}, Unread(), progress=False, **given)
    assert not (tmp_path / "pages").exists()
