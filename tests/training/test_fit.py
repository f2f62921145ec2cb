"""`fit` of one dictionary, with data of any form."""

import functools
import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import sparsedict as sd
from sparsedict.data import SyntheticFeatures
from sparsedict.kernels import Workspace
from sparsedict.training import Constant
from sparsedict.training._trainer import DictionaryTrainer

D, N_LATENTS = 8, 24


def coder(activation: sd.Activation | None = None, seed: int = 0, **kwargs) -> sd.SparseAutoencoder:
    generator = torch.Generator().manual_seed(seed)
    kwargs = {"decoder_norm": sd.UnitNorm()} | kwargs
    return sd.SparseAutoencoder(D, N_LATENTS, activation=activation or sd.TopK(3), generator=generator, **kwargs)


def distiller(activation: sd.Activation | None = None, **kwargs) -> sd.SparseDistiller:
    generator = torch.Generator().manual_seed(0)
    kwargs = {"decoder_norm": sd.MaxNorm()} | kwargs
    return sd.SparseDistiller(D, D, N_LATENTS, activation=activation or sd.TopK(3), generator=generator, **kwargs)


def rows(n: int = 2048, seed: int = 0) -> Tensor:
    batch, _ = SyntheticFeatures(D, 16, 2.0, seed=0).sample(n, seed)
    return batch.inputs


def quick(dictionary: sd.Dictionary, data, **kwargs) -> sd.History:
    kwargs = {"n_tokens": 20_000, "lr": 1e-2, "progress": False} | kwargs
    return sd.fit(dictionary, data, **kwargs)


def fvu(dictionary: sd.Dictionary, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(sd.metrics.fvu(dictionary(x).reconstruction, y))


@pytest.mark.parametrize(
    ("activation", "penalties"),
    [
        (sd.TopK(3), []),
        (sd.TopK(3), [sd.AuxK(dead_after=2000)]),
        (sd.BatchTopK(3), []),
        (sd.ReLU(), [sd.L1(0.02)]),
        (sd.ReLU(), [sd.WarmUp(sd.NormWeighted(sd.Sqrt(0.01)), n_steps=20)]),
        (sd.JumpReLU(threshold=0.1, bandwidth=0.1), [sd.L0(0.01)]),
        (sd.GELU(), [sd.L1(0.02)]),
    ],
    ids=str,
)
def test_every_activation_learns(activation, penalties):
    x = rows()
    for dictionary, data in ((coder(activation), x), (distiller(activation), (x, x.relu()))):
        target = data if isinstance(data, Tensor) else data[1]
        with torch.no_grad():
            before = (dictionary.train()(x).reconstruction - target).square().mean()
        history = quick(dictionary, data, batch_size=256, penalties=penalties)
        assert not dictionary.training
        assert fvu(dictionary, x, target) < 0.5
        assert (dictionary(x).reconstruction - target).square().mean() < before
        assert history.n_tokens == 20_224  # whole batches
        assert history.last.n_tokens == history.n_tokens


def test_the_same_seed_gives_the_same_weights():
    first, second, other = coder(), coder(), coder()
    for dictionary, seed in ((first, 1), (second, 1), (other, 2)):
        quick(dictionary, rows(), batch_size=256, seed=seed)
    assert torch.equal(first.encoder, second.encoder)
    assert not torch.equal(first.encoder, other.encoder)


def test_fitting_again_continues_training():
    dictionary = coder()
    x = rows()
    quick(dictionary, x, n_tokens=5_000, batch_size=256)
    early = fvu(dictionary, x, x)
    quick(dictionary, x, batch_size=256)
    assert fvu(dictionary, x, x) < early


def test_the_norm_constraint_holds_after_training():
    unit, short = coder(), distiller()
    quick(unit, rows(), batch_size=256)
    quick(short, (rows(), rows()), batch_size=256)
    assert torch.allclose(unit.decoder.norm(dim=-1), torch.ones(N_LATENTS), atol=1e-6)
    assert short.decoder.norm(dim=-1).max() <= 1 + 1e-6


def test_records_match_their_definitions():
    dictionary, reference, x = coder(), coder(), rows(1024)
    with torch.no_grad():
        for edited in (dictionary, reference):
            edited.encoder *= 2
    history = sd.fit(
        dictionary,
        x,
        n_tokens=1024,
        batch_size=1024,
        lr=1e-9,
        penalties=[sd.L1(0.5), sd.L1(0.25)],
        progress=False,
        schedule=Constant(),
    )
    [record] = history.records
    with torch.no_grad():
        latents, reconstruction = reference(x)
    error = (reconstruction - x).square().sum(-1).mean()
    l1 = latents.sum(-1).mean()
    assert record.loss == pytest.approx(float(error), rel=1e-4)
    assert record.penalties == {"L1 1": pytest.approx(float(l1) / 2), "L1 2": pytest.approx(float(l1) / 4)}
    assert record.objective == pytest.approx(float(error + 0.75 * l1), rel=1e-4)
    assert record.fvu == pytest.approx(float(sd.metrics.fvu(reconstruction, x)), rel=1e-4)
    assert record.l0 == pytest.approx(float(sd.metrics.l0(latents)), rel=1e-4)
    assert record.lr == 1e-9


def test_records_come_at_the_interval_and_at_the_end():
    history = quick(coder(), rows(), n_tokens=2560, batch_size=256, log_every=4)
    assert history.column("step") == [4, 8, 10]
    assert len(history) == 3
    assert history.to_dict()["records"][0]["step"] == 4
    assert "n_steps=10" in repr(history)


def test_dead_share_counts_tokens_without_firing():
    dictionary = coder()
    with torch.no_grad():
        dictionary.encoder_bias[:6] = -100.0
    history = quick(dictionary, rows(), n_tokens=2560, batch_size=256, lr=1e-9, log_every=1, dead_after=1024)
    shares = history.column("dead")
    assert math.isnan(shares[2])  # 768 tokens seen: too few to call anything dead
    assert not math.isnan(shares[3])
    assert shares[-1] >= 6 / N_LATENTS


def test_new_weights_are_fitted_to_the_first_batch_and_edited_ones_are_left():
    x = rows(1024)
    still = {"n_tokens": 1024, "batch_size": 1024, "lr": 1e-9}
    new, edited, loaded = coder(), coder(), coder()
    assert new.is_untouched
    with torch.no_grad():
        edited.encoder[3] = -edited.encoder[3]
    loaded.load_state_dict(coder(seed=1).state_dict())
    weights = {name: dictionary.encoder.clone() for name, dictionary in (("edited", edited), ("loaded", loaded))}
    for dictionary in (new, edited, loaded):
        quick(dictionary, x, **still)
        assert not dictionary.is_untouched
        assert dictionary.trained_on["n_tokens"] == 1024
    assert torch.allclose(new.decoder_bias, x.mean(0), atol=1e-5)
    assert torch.allclose(edited.encoder, weights["edited"], atol=1e-6)
    assert torch.allclose(loaded.encoder, weights["loaded"], atol=1e-6)


def test_each_latent_starts_at_a_token():
    x = rows(N_LATENTS * 4)
    student = distiller(decoder_norm=sd.UnitNorm())
    y = x.relu() + 1.0
    student.initialise_(x, y)
    centred = nn.functional.normalize(y - y.mean(0), dim=-1)
    tokens = (student.decoder @ centred.T).argmax(1)
    assert len(set(tokens.tolist())) == N_LATENTS
    assert torch.allclose(student.decoder, centred[tokens], atol=1e-5)
    assert torch.allclose(student.decoder_bias, y.mean(0), atol=1e-5)
    assert torch.allclose(student.pre_activations(x).mean(0), torch.zeros(N_LATENTS), atol=1e-5)
    # Whitened rows: a latent answers to its own token more than to others.
    own = student.pre_activations(x)[tokens].diagonal()
    assert (own > 0).all()


def test_few_tokens_still_give_distinct_latents():
    for x in (rows(5), torch.ones(5, D)):
        tied = coder()
        tied.initialise_(x, x)
        gram = tied.decoder @ tied.decoder.T - torch.eye(N_LATENTS)
        assert gram.max() < 0.999
        assert torch.allclose(tied.decoder.norm(dim=-1), torch.ones(N_LATENTS), atol=1e-5)
        assert all(torch.isfinite(p).all() for p in tied.parameters())


def test_moving_a_new_dictionary_to_another_type_leaves_it_new():
    assert coder().to(torch.bfloat16).is_untouched
    assert coder().double().is_untouched


def test_any_optimizer_and_clipping():
    dictionary = coder()
    quick(dictionary, rows(), batch_size=256, optimizer=functools.partial(torch.optim.SGD, momentum=0.9), lr=1e-3)
    start, moved = coder(), coder()
    for dictionary in (start, moved):
        dictionary.initialise_(rows(), rows())
    sd.fit(
        moved, rows(), n_tokens=256, batch_size=256, optimizer=torch.optim.SGD, lr=1.0, clip_norm=1e-4, progress=False
    )
    total = sum((a - b).square().sum() for a, b in zip(start.parameters(), moved.parameters(), strict=True))
    assert 0 < total.sqrt() < 3e-4  # the projection onto unit rows may add to the clipped step


def test_bfloat16_autocast_learns_and_keeps_float32_weights():
    dictionary, x = distiller(), rows()
    quick(dictionary, (x, x.relu()), batch_size=256, autocast=torch.bfloat16)
    assert dictionary.encoder.dtype == torch.float32
    assert fvu(dictionary, x, x.relu()) < 0.5


def test_autoencoder_of_neurons_takes_a_bare_tensor_or_a_stream_of_neurons():
    dictionary = coder(reads="neurons")
    x = rows()
    quick(dictionary, x, batch_size=256)
    assert fvu(dictionary, x, x) < 0.5


def test_an_iterable_of_batches_of_any_size():
    x = rows()
    history = quick(coder(), [x[:300], x[300:900], x[900:]], n_tokens=5000)
    assert history.n_tokens >= 5000


def test_a_stream_of_a_site():
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, D))
    model = nn.Sequential(nn.Embedding(30, D), mlp, nn.Linear(D, 30))
    site = sd.Site(model, "1")
    stream = sd.ActivationStream(site, torch.randint(30, (64, 32)), batch_size=256, buffer_size=1024)
    student = sd.SparseDistiller(D, D, 64, activation=sd.TopK(8), decoder_norm=sd.UnitNorm())
    history = quick(student, stream, n_tokens=40_000)
    assert history.last.fvu < 0.3
    with pytest.raises(ValueError, match="batch_size"):
        quick(student, stream, batch_size=3)


def test_callbacks_see_each_record():
    seen = []
    dictionary = coder()
    history = quick(dictionary, rows(), batch_size=256, log_every=10, callbacks=[lambda *args: seen.append(args)])
    assert [record for _, record, _ in seen] == history.records
    assert all(name == "" and trained is dictionary for name, _, trained in seen)


class Explode(sd.Penalty):
    """Becomes infinite at a given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        return out.values.sum() * (torch.inf if out.step == self.step else 0.0)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state():
    dictionary, control = coder(), coder()
    quick(control, rows(), n_tokens=256 * 20, batch_size=256, schedule=Constant(), log_every=10)
    with pytest.raises(sd.NonFiniteLossError, match=r"at step 23\b.*after step 20\b.*`lr`"):
        quick(dictionary, rows(), batch_size=256, schedule=Constant(), log_every=10, penalties=[Explode(23)])
    assert not dictionary.training
    assert torch.equal(dictionary.encoder, control.encoder)
    assert torch.equal(dictionary.decoder, control.decoder)


def test_resampled_latents_come_back():
    dictionary = coder(sd.ReLU())
    with torch.no_grad():
        dictionary.encoder_bias[:8] = -100.0
    resample = sd.Resample(every=20, dead_after=2000)
    history = quick(dictionary, rows(), batch_size=256, step_hooks=[resample], dead_after=2000, log_every=5)
    assert max(share for share in history.column("dead") if not math.isnan(share)) >= 8 / N_LATENTS
    assert history.last.dead < 3 / N_LATENTS


def test_a_resampled_latent_does_not_fire_on_the_mean_of_all_tokens():
    dictionary = coder(sd.ReLU())
    x = rows() + 20.0
    with torch.no_grad():
        dictionary.encoder_bias.fill_(-1e3)
        dictionary.decoder_bias.copy_(x.mean(0))
    out = dictionary.forward_pass(x[:256], x[:256], step=4, tokens_since_fired=torch.full((N_LATENTS,), 10))
    optimizer = torch.optim.Adam(dictionary.parameters())
    sd.Resample(every=5, dead_after=5)(out, optimizer)
    assert (out.tokens_since_fired == 0).all()
    shares = (dictionary.encode(x) > 0).double().mean(0)
    assert 0.2 < shares.mean() < 0.8


def test_resampling_stops_at_its_end_step():
    dictionary = coder(sd.ReLU())
    before = dictionary.encoder.detach().clone()
    resample = sd.Resample(every=5, dead_after=5, until=10)
    for step, changes in ((14, False), (9, True)):
        out = dictionary.forward_pass(rows(), rows(), step=step, tokens_since_fired=torch.full((N_LATENTS,), 10))
        resample(out, torch.optim.Adam(dictionary.parameters()))
        assert torch.equal(dictionary.encoder, before) is not changes


def test_resampling_leaves_divergence_to_the_loop():
    dictionary = coder(sd.ReLU(), decoder_norm=sd.Free())
    with pytest.raises(sd.NonFiniteLossError):
        quick(dictionary, rows() * 1e3, batch_size=256, lr=1e30, step_hooks=[sd.Resample(every=1, dead_after=1)])
    assert all(weight.isfinite().all() for weight in dictionary.parameters())


def test_resampling_where_everything_is_reconstructed():
    dictionary = coder()
    quick(dictionary, torch.zeros(512, D), n_tokens=1024, step_hooks=[sd.Resample(every=1, dead_after=1)])
    assert all(weight.isfinite().all() for weight in dictionary.parameters())


def test_new_dictionaries_do_not_start_from_nan():
    dictionary, batch = coder(), rows(64).clone()
    batch[3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"`data` must be finite, got \d+ NaN"):
        quick(dictionary, [batch])
    assert dictionary.is_untouched


def test_auxk_brings_silent_latents_back():
    shares = []
    for penalties in ([], [sd.AuxK(dead_after=1000, coefficient=1.0)]):
        dictionary = coder()
        with torch.no_grad():
            dictionary.encoder[:8] *= 0.01
        history = quick(dictionary, rows(), batch_size=256, penalties=penalties, dead_after=2000)
        shares.append(history.last.dead)
    assert shares[1] < shares[0]


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_tokens": 0}, ValueError, "`n_tokens` must be at least 1, got 0"),
        ({"lr": -1.0}, ValueError, "`lr` must lie in"),
        ({"penalties": sd.L1(0.1)}, TypeError, r"`penalties` must be a list such as \[sd.L1\(0.2\)\]"),
        ({"penalties": [0.1]}, TypeError, "`penalties` must contain Penalty objects"),
        ({"penalties": [sd.L0(0.1)]}, ValueError, "must define a gradient for firing .* for L0"),
        ({"step_hooks": [None]}, TypeError, "`step_hooks` must contain StepHook objects"),
        ({"optimizer": "adam"}, TypeError, "`optimizer` must be a class or partial"),
        ({"schedule": "cosine"}, TypeError, "`schedule` must be a Schedule"),
        ({"loss": "mse"}, TypeError, "`loss` must be a Loss"),
        ({"autocast": torch.float16}, ValueError, "`autocast` must be torch.bfloat16 or None"),
        ({"clip_norm": 0.0}, ValueError, "`clip_norm` must lie in"),
    ],
)
def test_invalid_settings_raise_errors(change, error, message):
    with pytest.raises(error, match=message):
        quick(coder(), rows(64), **change)


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (torch.randn(64, D), TypeError, "must contain inputs and outputs for a SparseDistiller"),
        ((torch.randn(64, D + 1), torch.randn(64, D)), ValueError, r"`dictionary.d_in` must equal .* 9, got 8"),
        ((torch.randn(64, D), torch.randn(64, D + 1)), ValueError, r"`dictionary.d_out` must equal .* 9, got 8"),
        ((torch.randint(5, (64, D)), torch.randn(64, D)), TypeError, "floating-point"),
        ((torch.full((64, D), torch.nan), torch.randn(64, D)), ValueError, "512 NaN"),
        ((torch.randn(0, D), torch.randn(0, D)), ValueError, "at least one token"),
        ([], ValueError, r"no tokens|at least one|empty"),
        (7, TypeError, "`data` must be"),
    ],
)
def test_invalid_data_raises_errors(data, error, message):
    with pytest.raises(error, match=message):
        quick(distiller(), data)


@pytest.mark.as_installed
def test_a_dictionary_is_not_a_class_or_a_module():
    with pytest.raises(TypeError, match=r"`dictionary` must be a sparsedict.Dictionary .* got Linear"):
        sd.fit(nn.Linear(2, 2), rows(64), n_tokens=64, progress=False)


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("wrap", "attribute"), [(lambda d: torch.compile(d, backend="eager"), "_orig_mod"), (nn.DataParallel, "module")]
)
def test_errors_on_wrapped_dictionaries_name_the_dictionary_inside(wrap, attribute, tmp_path):
    wrapped, message = wrap(distiller()), rf"Pass the SparseDistiller in it, which is its attribute `{attribute}`\."
    writers = (sd.formats.sae_lens.write, sd.formats.circuit_tracer.write, sd.formats.sparsify.write)
    for write in writers:
        with pytest.raises(TypeError, match=message):
            write(wrapped, tmp_path / "out")
    data = (rows(64), rows(64))
    for call in (lambda d: quick(d, data), sd.Trainee, sd.analysis.decoder_shares):
        with pytest.raises(TypeError, match=message):
            call(wrapped)
    assert not any(tmp_path.iterdir())
    quick(getattr(wrapped, attribute), data)


def test_frozen_parameters_stay_and_nothing_to_train_is_an_error():
    dictionary = coder()
    dictionary.decoder.requires_grad_(False)
    before = dictionary.decoder.clone()
    quick(dictionary, rows(), n_tokens=2560, batch_size=256)
    assert torch.allclose(dictionary.decoder, before, atol=1e-6)
    dictionary.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter to train"):
        quick(dictionary, rows())


def test_training_warns_once_of_a_penalty_that_can_be_shrunk_away():
    with pytest.warns(UserWarning, match="no lasting effect"):
        quick(coder(sd.ReLU(), decoder_norm=sd.Free()), rows(), n_tokens=256, penalties=[sd.L1(0.1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(coder(sd.ReLU(), decoder_norm=sd.Free()), rows(), n_tokens=256, penalties=[sd.NormWeighted(sd.L1(0.1))])


class Largest(TorchDispatchMode):
    """Notes the largest array that is made inside."""

    n_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        held = {given.untyped_storage().data_ptr() for given in args if isinstance(given, Tensor)}
        if isinstance(made, Tensor) and made.untyped_storage().data_ptr() not in held:
            self.n_bytes = max(self.n_bytes, made.nbytes)
        return made


def test_a_record_needs_no_memory_the_size_of_the_weights() -> None:
    dictionary = sd.SparseAutoencoder(512, 1024, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
    trainee = sd.Trainee(dictionary)
    trainer = DictionaryTrainer(
        "", trainee, trainee.make_optimizer(), n_steps=2, dead_after=10**6, autocast=None, workspace=Workspace()
    )
    inputs = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    trainer.train_step(sd.ActivationBatch(inputs, inputs))
    with Largest() as largest:
        trainer.record()
    assert 0 < largest.n_bytes <= dictionary.encoder.nbytes // 16


def test_latents_that_fire_negatively_are_neither_dead_nor_resampled() -> None:
    dictionary = sd.SparseAutoencoder(2, 2, activation=sd.AbsTopK(1), decoder_norm=sd.UnitNorm())
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(4096, 2)
    x[:2048, 0] = -1 - torch.rand(2048, generator=generator)
    x[2048:, 1] = 1 + torch.rand(2048, generator=generator)
    x += 0.01 * torch.randn(4096, 2, generator=generator)
    with torch.no_grad():
        for weight in (dictionary.encoder, dictionary.decoder):
            weight.copy_(torch.eye(2))
    history = sd.fit(
        dictionary,
        x,
        n_tokens=12_288,
        batch_size=512,
        lr=1e-6,
        step_hooks=[sd.Resample(every=8, dead_after=1000)],
        dead_after=1000,
        log_every=4,
        progress=False,
    )
    assert max(history.column("fvu")) < 1e-3
    assert history.column("dead") == [0.0] * 6
    assert history.column("l0") == [1.0] * 6
    torch.testing.assert_close(dictionary.encoder.detach(), torch.eye(2), rtol=0, atol=1e-3)
