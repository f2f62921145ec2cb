"""`folded()`: an equal dictionary whose normalisation lies in its weights."""

from __future__ import annotations

import pytest
import torch

import cases
import sparsedict as sd

OFFSETS = ("decoder_bias", "own", "none")


def scaled(kind: str, activation: str) -> sd.Dictionary:
    part = cases.ACTIVATIONS[activation].activation
    parts = {"activation": part, "decoder_norm": sd.UnitNorm(), "input_norm": sd.InputScale(3.0)}
    if kind == "distiller":
        made: sd.Dictionary = sd.SparseDistiller(6, 5, 12, input_bias=True, skip=True, **parts)
    else:
        made = sd.SparseAutoencoder(6, 12, input_offset=kind, **parts)
    with torch.no_grad():
        for name, weight in made.double().named_parameters():
            if name not in ("encoder", "decoder"):
                weight.add_(torch.randn_like(weight), alpha=0.3)
        for buffer in made.buffers():
            buffer.fill_(0.4)
    return made


@pytest.mark.parametrize("kind", [*OFFSETS, "distiller"])
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
def test_the_folded_dictionary_is_equal(kind: str, activation: str) -> None:
    dictionary = scaled(kind, activation)
    folded = dictionary.folded()
    x = torch.randn(9, 6, dtype=torch.float64)
    torch.testing.assert_close(folded(x).latents, dictionary(x).latents)
    torch.testing.assert_close(folded(x).reconstruction, dictionary(x).reconstruction)
    assert folded.arguments()["input_norm"] is None
    assert folded.decoder_norm == sd.Free()


@pytest.mark.parametrize("kind", [*OFFSETS, "distiller", "distiller_plain"])
@pytest.mark.parametrize("norm", [sd.InputCentre(), sd.InputStandardise()], ids=str)
def test_measured_norms_are_folded(kind: str, norm: sd.InputNorm) -> None:
    parts = {"activation": sd.TopK(3), "decoder_norm": sd.UnitNorm(), "input_norm": norm, "dtype": torch.float64}
    if kind.startswith("distiller"):
        made: sd.Dictionary = sd.SparseDistiller(6, 5, 12, input_bias=kind == "distiller", skip=True, **parts)
    else:
        made = sd.SparseAutoencoder(6, 12, input_offset=kind, **parts)
    x = torch.randn(50, 6, dtype=torch.float64) * torch.linspace(0.2, 4, 6) + torch.linspace(-3, 5, 6)
    made.initialise_(x, x[:, : made.d_out])
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    folded = made.folded()
    torch.testing.assert_close(folded(x).latents, made(x).latents)
    torch.testing.assert_close(folded(x).reconstruction, made(x).reconstruction)
    assert set(folded.state_dict()) == set(made.state_dict()) - {"input_mean", "input_scale"}


def test_the_dictionary_that_is_folded_stays_as_it_was() -> None:
    dictionary = scaled("own", "relu")
    before = {name: weight.clone() for name, weight in dictionary.state_dict().items()}
    dictionary.folded()
    assert all(torch.equal(weight, before[name]) for name, weight in dictionary.state_dict().items())
    assert dictionary.arguments().get("input_norm") == sd.InputScale(3.0)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_every_kind_folds_or_gives_a_reason(kind: str) -> None:
    dictionary = cases.make(kind)
    if isinstance(dictionary.arguments().get("input_norm"), sd.InputLayerNorm | sd.InputRMSNorm):
        with pytest.raises(ValueError, match="`input_norm` must be the same affine map of every input"):
            dictionary.folded()
        return
    if kind == "cross_layer_tied":
        with pytest.raises(ValueError, match="`dictionary` must not have tied decoders if it is folded"):
            dictionary.folded()
        return
    x = cases.tokens(5)
    torch.testing.assert_close(dictionary.folded()(x).reconstruction, dictionary(x).reconstruction)
