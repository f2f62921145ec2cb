"""Input norms that are measured: they are independent of the mean and scale of the data, saved, and written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sparsedict as sd

NORMS = (sd.InputCentre(), sd.InputStandardise())
every_norm = pytest.mark.parametrize("norm", NORMS, ids=str)


def data(n_tokens: int = 2_000) -> torch.Tensor:
    x, _ = sd.data.SyntheticFeatures(d=16, n_features=32, l0=3, seed=0).sample(n_tokens, seed=1)
    return x.outputs


def trained(x: torch.Tensor, norm: sd.InputNorm | None, kind: str = "autoencoder") -> sd.Dictionary:
    parts = {
        "activation": sd.TopK(3),
        "decoder_norm": sd.UnitNorm(),
        "input_norm": norm,
        "generator": torch.Generator().manual_seed(0),
    }
    if kind == "autoencoder":
        made: sd.Dictionary = sd.SparseAutoencoder(16, 48, **parts)
        sd.fit(made, x, n_tokens=5_000, batch_size=250, progress=False)
    else:
        made = sd.SparseDistiller(16, 16, 48, **parts)
        sd.fit(made, (x, data(len(x))), n_tokens=5_000, batch_size=250, progress=False)
    return made


@pytest.mark.parametrize("kind", ["autoencoder", "distiller"])
@every_norm
def test_the_numbers_are_those_of_the_first_tokens(norm: sd.InputNorm, kind: str) -> None:
    x = data() + 7
    dictionary = trained(x, norm, kind)
    # The first batches contain other tokens than the whole data.
    torch.testing.assert_close(dictionary.input_mean, x.mean(0), rtol=0, atol=0.2)
    if isinstance(norm, sd.InputStandardise):
        torch.testing.assert_close(dictionary.input_scale, x.std(0), rtol=0.3, atol=0)


@every_norm
def test_a_mean_has_no_influence_on_the_latents(norm: sd.InputNorm) -> None:
    x, shift = data(), torch.linspace(-64, 64, 16)
    plain, shifted = trained(x, norm), trained(x + shift, norm)
    errors = [
        (dictionary(inputs).reconstruction - inputs).square().sum().detach()
        for dictionary, inputs in ((plain, x), (shifted, x + shift))
    ]
    # Rounding changes the choice of some latents.
    torch.testing.assert_close(errors[1], errors[0], rtol=0.05, atol=0)
    start = [sd.SparseAutoencoder(16, 48, activation=sd.TopK(3), decoder_norm=sd.UnitNorm(), input_norm=norm,
             generator=torch.Generator().manual_seed(0)) for _ in range(2)]  # fmt: skip
    for dictionary, inputs in zip(start, (x, x + shift), strict=True):
        dictionary.initialise_(inputs, inputs)
    torch.testing.assert_close(start[1].encode(x + shift), start[0].encode(x), rtol=0, atol=1e-3)


def test_the_scale_of_a_dimension_has_no_influence_on_standardised_latents() -> None:
    x = data()
    factors = 2.0 ** torch.arange(-4, 12)
    # The targets have another weight for each dimension, so only the first latents are compared.
    start = [sd.SparseAutoencoder(16, 48, activation=sd.TopK(3), decoder_norm=sd.UnitNorm(),
             input_norm=sd.InputStandardise(floor=1e-6), generator=torch.Generator().manual_seed(0))
             for _ in range(2)]  # fmt: skip
    for dictionary, inputs in zip(start, (x, x * factors), strict=True):
        dictionary.initialise_(inputs, inputs)
    torch.testing.assert_close(start[1].encode(x * factors), start[0].encode(x), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        start[1](x * factors).reconstruction, start[0](x).reconstruction * factors, rtol=1e-3, atol=1e-2
    )


def test_constant_dimensions_stay_finite() -> None:
    x = data()
    x[:, 3] = 5.0
    dictionary = trained(x, sd.InputStandardise())
    assert all(value.isfinite().all() for value in dictionary.state_dict().values())
    constant = torch.full((100, 16), 2.0)
    dictionary = sd.SparseAutoencoder(16, 4, activation=sd.TopK(1), decoder_norm=sd.UnitNorm(), input_norm=NORMS[1])
    dictionary.initialise_(constant, constant)
    assert dictionary(constant).reconstruction.isfinite().all()


@every_norm
def test_the_numbers_are_saved_with_the_dictionary(norm: sd.InputNorm, tmp_path: Path) -> None:
    x = data() + 7
    dictionary = trained(x, norm)
    dictionary.save(tmp_path)
    loaded = sd.load(tmp_path)
    assert torch.equal(loaded.encode(x), dictionary.encode(x))
    some = sd.load(tmp_path, latents=[1, 5, 9])
    assert torch.equal(some.input_mean, dictionary.input_mean)


@every_norm
def test_an_interrupted_run_keeps_the_numbers(norm: sd.InputNorm, tmp_path: Path) -> None:
    x = data() + 7

    def make() -> sd.Dictionary:
        generator = torch.Generator().manual_seed(0)
        return sd.SparseAutoencoder(
            16, 48, activation=sd.TopK(3), decoder_norm=sd.UnitNorm(), input_norm=norm, generator=generator
        )

    def stop(name: str, record: sd.training.Record, dictionary: sd.Dictionary) -> None:
        if record.step == 10:
            raise InterruptedError

    options = {"n_tokens": 5_000, "batch_size": 250, "progress": False}
    whole, first, second = make(), make(), make()
    sd.fit(whole, x, **options)
    where = {"checkpoint": tmp_path, "checkpoint_every": 5, "log_every": 10}
    with pytest.raises(InterruptedError):
        sd.fit(first, x, **options, **where, callbacks=[stop])
    sd.fit(second, x, **options, **where, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


@every_norm
def test_they_are_written_for_other_libraries(norm: sd.InputNorm, tmp_path: Path) -> None:
    x = data() + 7
    dictionary = trained(x, norm)
    sd.formats.sae_lens.write(dictionary, tmp_path, model_name="gpt2", hook_name="blocks.1.hook_mlp_out")
    again = sd.formats.sae_lens.read(tmp_path)
    torch.testing.assert_close(again(x).reconstruction, dictionary(x).reconstruction, rtol=1e-3, atol=1e-3)


@every_norm
def test_resampled_latents_and_auxk_train_with_them(norm: sd.InputNorm) -> None:
    x = data() * torch.linspace(0.1, 10, 16) + 7
    sae = sd.SparseAutoencoder(
        16,
        48,
        activation=sd.TopK(3),
        decoder_norm=sd.UnitNorm(),
        input_norm=norm,
        generator=torch.Generator().manual_seed(0),
    )
    sae.initialise_(x, x)
    with torch.no_grad():
        sae.encoder_bias[:24] = -100.0
    hooks = [sd.Resample(every=20, dead_after=2_000, n_inputs=1_000)]
    sd.fit(sae, x, n_tokens=20_000, batch_size=250, step_hooks=hooks, progress=False)
    assert int((sae.encode(x) > 0).any(0)[:24].sum()) >= 20


def test_a_norm_without_numbers_raises() -> None:
    for norm in NORMS:
        with pytest.raises(RuntimeError, match=r"has no numbers of its own\. Use it in a dictionary"):
            norm.normalise(torch.ones(2))


@pytest.mark.as_installed
def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"`floor` must lie in \(0\.0, 1\.0\], got 0"):
        sd.InputStandardise(floor=0)
