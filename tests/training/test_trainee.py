"""`Trainee` and the default learning rate."""

import pytest
import torch

import sparsedict as sd
from sparsedict.training import DefaultLR, RelativeLR, default_lr


def coder(d: int, n_latents: int) -> sd.SparseAutoencoder:
    return sd.SparseAutoencoder(d, n_latents, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())


def test_the_default_rate_falls_with_both_widths_and_has_a_highest():
    assert default_lr(coder(128, 2048)) == pytest.approx(1e-2)
    assert default_lr(coder(512, 2048)) == pytest.approx(5e-3)
    assert default_lr(coder(128, 8192)) == pytest.approx(5e-3)
    assert default_lr(coder(4, 8)) == 2e-2


def test_a_given_rate_is_taken_and_a_rate_that_is_left_out_is_the_default():
    dictionary = coder(512, 2048)
    assert sd.Trainee(dictionary, lr=0.3).make_optimizer().param_groups[0]["lr"] == 0.3
    assert sd.Trainee(dictionary).make_optimizer().param_groups[0]["lr"] == default_lr(dictionary)


def test_fit_notes_the_rate_it_took():
    dictionary = coder(16, 4096)
    history = sd.fit(dictionary, torch.randn(64, 16), n_tokens=64, batch_size=16, log_every=1, progress=False)
    assert dictionary.trained_on["lr"] == default_lr(dictionary)
    assert max(history.column("lr")) == pytest.approx(default_lr(dictionary))


def test_a_multiple_of_the_default_rate_equals_the_relative_rate() -> None:
    found = []
    for lr in (DefaultLR(0.5), RelativeLR(0.5 * default_lr(coder(16, 64)))):
        generator = torch.Generator().manual_seed(0)
        parts = {"activation": sd.TopK(2), "decoder_norm": sd.UnitNorm(), "generator": generator}
        dictionary = sd.SparseAutoencoder(16, 64, **parts)
        data = 100 * torch.randn(256, 16, generator=torch.Generator().manual_seed(1))
        sd.fit(dictionary, data, n_tokens=512, batch_size=64, lr=lr, progress=False)
        found.append(dictionary.decoder.detach())
    assert torch.equal(*found)
    for wrong in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="`factor` must lie in"):
            DefaultLR(wrong)


@pytest.mark.as_installed
@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_no_positive_number_raises(lr: float):
    with pytest.raises(ValueError, match="`lr` must lie in"):
        sd.Trainee(coder(4, 8), lr=lr)


def test_each_dictionary_of_a_run_takes_the_rate_of_its_own_widths():
    trainees = {str(n): sd.Trainee(coder(64, n)) for n in (2048, 8192)}
    sd.fit_many(trainees, torch.randn(64, 64), n_tokens=64, batch_size=32, progress=False)
    rates = [trainee.dictionary.trained_on["lr"] for trainee in trainees.values()]
    assert rates == [default_lr(trainee.dictionary) for trainee in trainees.values()]
    assert rates[0] == pytest.approx(2 * rates[1])
