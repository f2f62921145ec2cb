"""What a dictionary says of itself."""

from __future__ import annotations

import torch

import sparsedict as sd


def test_skips_offsets_norms_and_thresholds_are_shown() -> None:
    student = sd.SparseDistiller(
        6, 5, 12, activation=sd.JumpReLU(threshold=0.5), decoder_norm=sd.MaxNorm(1.0), skip=True, input_bias=True
    )
    shown = repr(student)
    for part in ("d_in=6, d_out=5, n_latents=12", "JumpReLU(", "MaxNorm(", "skip=True", "input_bias=True"):
        assert part in shown
    assert "; threshold 0.5" in shown
    with torch.no_grad():
        student.state_dict()["activation_state.log_threshold"][0] = 0.0
    assert "; threshold 0.5 to 1" in repr(student)
    norm = sd.InputScale(0.25)
    coder = sd.SparseAutoencoder(
        6, 12, activation=sd.TopK(2), decoder_norm=sd.UnitNorm(), input_offset="none", input_norm=norm
    )
    assert "input_offset=none" in repr(coder)
    assert f"input_norm={norm}" in repr(coder)
    assert "skip" not in repr(coder)


def test_the_state_of_an_activation_is_shown_once() -> None:
    coder = sd.SparseAutoencoder(4, 8, activation=sd.BatchTopK(2), decoder_norm=sd.UnitNorm())
    assert repr(coder).startswith("SparseAutoencoder(d_in=4, d_out=4, n_latents=8, activation=BatchTopK(k=2, ")
    assert repr(coder).endswith("; threshold nan)")
    coder.extra = torch.nn.Linear(4, 4)
    assert "(extra): Linear(" in repr(coder)
    assert "activation_state" not in repr(coder)
