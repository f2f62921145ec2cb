from __future__ import annotations

import torch

import sparsedict as sd


def test_only_positive_entries_are_stored() -> None:
    pre = torch.tensor([[-1.0, 0.0, 2.0], [1.0, -0.0, -2.0]])
    support = sd.ReLU().support(pre, {}, training=True)
    assert support.tokens.tolist() == [0, 1]
    assert support.latents.tolist() == [2, 0]
    assert sd.ReLU().values(pre, {}).tolist() == [[0, 0, 2], [1, 0, 0]]
