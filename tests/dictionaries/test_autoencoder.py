from __future__ import annotations

import pytest
import torch

import sparsedict as sd


def coder(**changes: object) -> sd.SparseAutoencoder:
    return sd.SparseAutoencoder(6, 12, **{"activation": sd.ReLU(), "decoder_norm": sd.UnitNorm(), **changes})


def test_the_encoder_starts_as_the_decoders_transpose_without_sharing_it() -> None:
    made = coder()
    assert torch.equal(made.encoder, made.decoder)
    assert made.encoder.data_ptr() != made.decoder.data_ptr()


@pytest.mark.parametrize("reads", ["inputs", "outputs", "neurons"])
def test_an_autoencoder_writes_the_point_that_it_reads(reads: str) -> None:
    made = coder(reads=reads)
    assert (made.reads, made.writes) == (reads, reads)
    assert made.d_in == made.d_out == 6


def test_the_decoder_bias_is_taken_from_the_input() -> None:
    made = coder()
    with torch.no_grad():
        made.decoder_bias.copy_(torch.arange(6.0))
    output = made(torch.arange(6.0))
    assert not output.latents.any()
    assert torch.equal(output.reconstruction, torch.arange(6.0))


def test_input_offsets_are_of_three_kinds() -> None:
    assert coder().input_bias is None
    assert coder(input_offset="none").input_bias is None
    assert coder(input_offset="own").input_bias.shape == (6,)


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="`reads` must be one of 'inputs', 'outputs', 'neurons', got 'residual'"):
        coder(reads="residual")
    with pytest.raises(ValueError, match="`input_offset` must be one of 'decoder_bias', 'own', 'none', got True"):
        coder(input_offset=True)
