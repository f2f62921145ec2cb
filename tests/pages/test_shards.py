"""Numbers in the data of the pages."""

from __future__ import annotations

import json

import numpy as np
import torch

from sparsedict.pages._shards import DIGITS, rounded


def test_activations_in_float32_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(20_000, generator=generator) * torch.randn(20_000, generator=generator).mul(9).exp()).numpy()
    read = json.loads(json.dumps(rounded(values, DIGITS).tolist()))
    np.testing.assert_array_equal(np.asarray(read, dtype=np.float32), values)
    assert max(len(str(value)) for value in read if abs(value) < 1e6) <= 16
    assert (rounded(values, 6).astype(np.float32) != values).any()
