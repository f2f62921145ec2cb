"""`Resample` against the published procedure: draw, new rows, optimiser state and inputs."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sparsedict as sd
from sparsedict.data import SyntheticFeatures
from sparsedict.training import LazyAdam

D, N_LATENTS = 6, 10
DEAD = torch.tensor([2, 5, 7])
LIVE = torch.tensor([0, 1, 3, 4, 6, 8, 9])
IDLE = torch.zeros(N_LATENTS, dtype=torch.int64).index_fill_(0, DEAD, 100)
RESAMPLE = sd.Resample(every=1, dead_after=100)


def rows(n: int = 200, seed: int = 1) -> Tensor:
    return SyntheticFeatures(D, 20, 2.0, seed=0).sample(n, seed)[0].outputs


def coder(**kwargs: Any) -> sd.SparseAutoencoder:
    dictionary = sd.SparseAutoencoder(D, N_LATENTS, activation=sd.ReLU(), decoder_norm=sd.UnitNorm(), **kwargs).train()
    with torch.no_grad():
        dictionary.encoder.mul_(torch.linspace(0.5, 2, N_LATENTS)[:, None])
        dictionary.decoder_bias.copy_(rows().mean(0))
        dictionary.encoder_bias.fill_(0.25)
    return dictionary


def resampled(
    dictionary: sd.Dictionary, x: Tensor, targets: Tensor, resample: sd.Resample = RESAMPLE, optimizer: Any = None
) -> sd.ForwardPass:
    out = dictionary.forward_pass(x, targets, step=0, tokens_since_fired=IDLE.clone())
    resample(out, optimizer or torch.optim.Adam(dictionary.parameters()))
    return out


def test_rows_are_those_of_the_source() -> None:
    dictionary, x = coder(), rows()
    before = {name: value.clone() for name, value in dictionary.state_dict().items()}
    out = resampled(dictionary, x, x)
    norm = 0.2 * before["encoder"][LIVE].norm(dim=-1).mean()
    directions = torch.nn.functional.normalize(x - before["decoder_bias"], dim=-1)
    drawn = (dictionary.decoder[DEAD].detach() @ directions.T).argmax(1)
    assert len(set(drawn.tolist())) == len(DEAD)
    torch.testing.assert_close(dictionary.decoder[DEAD].detach(), directions[drawn])
    torch.testing.assert_close(dictionary.encoder[DEAD].detach(), directions[drawn] * norm)
    assert torch.equal(dictionary.encoder_bias[DEAD].detach(), torch.zeros(3))
    assert torch.equal(out.tokens_since_fired, torch.zeros_like(IDLE))
    for name in ("encoder", "encoder_bias", "decoder"):
        assert torch.equal(dictionary.state_dict()[name][LIVE], before[name][LIVE])
    assert torch.equal(dictionary.decoder_bias, before["decoder_bias"])


@pytest.mark.parametrize("training", [False, True])
def test_decoder_rows_from_errors_leave_out_what_is_explained(training: bool) -> None:
    dictionary, x = coder().train(training), rows()
    directions = torch.nn.functional.normalize(x - dictionary.decoder_bias.detach(), dim=-1)
    with torch.no_grad():
        errors = torch.nn.functional.normalize(x - dictionary(x).reconstruction, dim=-1)
    resampled(dictionary, x, x, sd.Resample(every=1, dead_after=100, decoder_rows="errors"))
    drawn = (torch.nn.functional.normalize(dictionary.encoder[DEAD].detach(), dim=-1) @ directions.T).argmax(1)
    torch.testing.assert_close(dictionary.decoder[DEAD].detach(), errors[drawn])
    assert float((errors[drawn] * directions[drawn]).sum(1).min()) < 0.99
    assert dictionary.training is training


@pytest.mark.as_installed
def test_decoder_rows_must_be_known() -> None:
    wrong: Any = "inputs"
    with pytest.raises(ValueError, match=r"`decoder_rows` must be .*targets.*errors.*got 'inputs'"):
        sd.Resample(every=1, decoder_rows=wrong)


@pytest.mark.parametrize("input_bias", [False, True])
def test_inputs_that_the_dictionary_does_not_centre_are_centred(input_bias: bool) -> None:
    """Or a row that points at one of them would fire on all."""
    kwargs: dict[str, Any] = {"activation": sd.ReLU(), "decoder_norm": sd.UnitNorm(), "input_bias": input_bias}
    dictionary = sd.SparseDistiller(D, 4, N_LATENTS, skip=True, **kwargs).train()
    with torch.no_grad():
        dictionary.skip.normal_()
        dictionary.decoder_bias.normal_()
    x = rows() + 20.0
    targets = torch.randn(len(x), 4) * 10
    resampled(dictionary, x, targets)
    pre = dictionary.pre_activations(x)[:, DEAD].detach()
    torch.testing.assert_close(pre.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    assert 0.2 < float((pre > 0).double().mean()) < 0.8
    rest = targets - x @ dictionary.skip.detach().T - dictionary.decoder_bias.detach()
    cosines = dictionary.decoder[DEAD].detach() @ torch.nn.functional.normalize(rest, dim=-1).T
    torch.testing.assert_close(cosines.max(1).values, torch.ones(3))


def test_tokens_are_drawn_by_the_square_of_their_squared_error() -> None:
    dictionary = coder()
    x = dictionary.decoder_bias.detach() + torch.eye(D)[:3] * torch.tensor([1.0, 2.0, 3.0]).sqrt()[:, None]
    tokens_since_fired = torch.zeros(N_LATENTS, dtype=torch.int64).index_fill_(0, torch.tensor([2]), 100)
    seen: Counter[int] = Counter()
    optimizer = torch.optim.Adam(dictionary.parameters())
    for seed in range(700):
        with torch.no_grad():
            dictionary.encoder_bias.fill_(-100.0)  # the output is the decoder bias
        out = dictionary.forward_pass(x, x, tokens_since_fired=tokens_since_fired.clone())
        sd.Resample(every=1, dead_after=100, seed=seed)(out, optimizer)
        seen[int(dictionary.decoder[2].argmax())] += 1
    # 50, 200 and 450 are expected, with deviations of 7, 12 and 13.
    assert abs(seen[0] - 50) < 28
    assert abs(seen[1] - 200) < 48
    assert abs(seen[2] - 450) < 52


def test_equal_inputs_make_no_twins() -> None:
    dictionary, x = coder(), rows(2, seed=3).repeat(50, 1)  # of four features each, so that both are likely to be drawn
    out = resampled(dictionary, x, x)
    assert int((out.tokens_since_fired == 0).sum()) == len(LIVE) + 2
    cosine = dictionary.decoder[2].detach() @ dictionary.decoder[5].detach()
    assert float(cosine) < 1 - 1e-4


def test_nothing_is_drawn_twice_where_more_are_dead_than_there_are_tokens() -> None:
    dictionary, x = coder(), rows(1)
    out = resampled(dictionary, x, x)
    assert out.tokens_since_fired[DEAD].tolist() == [0, 100, 100]


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam, torch.optim.AdamW, LazyAdam, torch.optim.RMSprop, torch.optim.Adagrad]
)
def test_the_optimiser_forgets_the_rows(optimizer: Any) -> None:
    dictionary, x = coder(), rows()
    made = optimizer(dictionary.parameters(), lr=1e-3)
    for _ in range(3):
        made.zero_grad()
        with torch.enable_grad():
            (dictionary(x).reconstruction - x).square().sum().backward()
        made.step()
    resampled(dictionary, x, x, optimizer=made)
    n_forgotten = 0
    for name in ("encoder", "encoder_bias", "decoder"):
        for key, value in made.state[getattr(dictionary, name)].items():
            if isinstance(value, Tensor) and value.ndim:
                assert not value[DEAD].any(), (name, key)
                assert value[LIVE].any(), (name, key)
                n_forgotten += 1
    assert n_forgotten >= 3
    assert made.state[dictionary.decoder_bias]


class Watched(sd.StepHook):
    """Notes what it could draw from."""

    def __init__(self) -> None:
        self.sizes: list[list[int]] = []
        self.rows: list[Tensor] = []

    def __call__(self, out: sd.ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        drawn = [inputs for inputs, _ in out.sample(250)]
        self.sizes.append([len(inputs) for inputs in drawn])
        self.rows.append(out.inputs)
        self.following = drawn[0] if len(self.rows) == 1 else self.following


def test_the_draw_is_among_batches_to_come_and_takes_none_away() -> None:
    watched = Watched()
    sd.fit(coder(), rows(1000), n_tokens=600, batch_size=100, step_hooks=[watched], progress=False)
    assert watched.sizes == [[100] * n for n in (3, 3, 3, 2, 1, 0)]
    assert torch.equal(watched.following, watched.rows[1])
    plain = Watched()
    plain.sizes = watched.sizes
    once = iter([rows(1000)[start : start + 100] for start in range(0, 600, 100)])
    sd.fit(coder(), once, n_tokens=600, step_hooks=[plain], progress=False)
    assert len(plain.rows) == 6


def test_a_latent_may_start_at_a_token_of_a_later_batch() -> None:
    usual = rows(100)
    late = usual.clone()
    late[17] = 100 * torch.eye(D)[3]
    dictionary = coder()
    with torch.no_grad():
        dictionary.encoder_bias[2] = -100.0
    batches = [usual, usual, usual, late, usual]
    resample = sd.Resample(every=1, dead_after=100, until=1)
    sd.fit(dictionary, iter(batches), n_tokens=500, lr=1e-9, step_hooks=[resample], progress=False)
    assert float(dictionary.decoder[2, 3].detach()) > 0.9


@pytest.mark.parametrize(("until", "is_resampled"), [(0.5, False), (0.75, True), (1.0, True), (4, False), (5, True)])
def test_resampling_ends_after_a_step_or_a_fraction_of_the_run(until: float, is_resampled: bool) -> None:
    dictionary = coder()
    with torch.no_grad():
        dictionary.encoder_bias[2] = -100.0
    # The only resampling is after the step 4 of 7, counted from 0.
    resample = sd.Resample(every=5, dead_after=100, until=until)
    sd.fit(dictionary, rows(700), n_tokens=700, batch_size=100, lr=1e-9, step_hooks=[resample], progress=False)
    assert (float(dictionary.encoder_bias[2].detach()) > -50) == is_resampled


def test_the_last_step_resamples_nothing() -> None:
    dictionary = coder()
    with torch.no_grad():
        dictionary.encoder_bias[2] = -100.0
    resample = sd.Resample(every=3, dead_after=100)
    sd.fit(dictionary, rows(300), n_tokens=300, batch_size=100, lr=1e-9, step_hooks=[resample], progress=False)
    assert float(dictionary.encoder_bias[2].detach()) == pytest.approx(-100.0)


class Noisy(sd.Penalty):
    """Draws from the global generator at each step, as data of one's own may."""

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        return (out.dictionary.encoder * torch.randn(N_LATENTS, D)).sum() * 0.01


class Drawn:
    """Batches drawn from the global generator."""

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield torch.randn(40, D)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 3, 5, 8])
def test_a_run_that_has_read_ahead_resumes_bit_for_bit(stop: int, tmp_path: Path) -> None:
    def run(folder: str, stop: int | None = None, **kwargs: Any) -> dict[str, Tensor]:
        def interrupt(name: str, record: sd.training.Record, dictionary: sd.Dictionary) -> None:
            if record.step == stop:
                raise StoppedError

        torch.manual_seed(3)
        dictionary = sd.SparseAutoencoder(D, N_LATENTS, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
        with torch.no_grad():
            dictionary.encoder_bias[:3] = -100.0  # dead, or there would be nothing to read ahead for
        sd.fit(
            dictionary,
            Drawn(),
            n_tokens=400,
            penalties=[Noisy()],
            step_hooks=[sd.Resample(every=4, dead_after=40, n_inputs=120)],
            checkpoint=tmp_path / folder,
            checkpoint_every=1,
            log_every=1,
            callbacks=[interrupt],
            progress=False,
            **kwargs,
        )
        return dictionary.state_dict()

    whole = run("whole")
    with pytest.raises(StoppedError):
        run("stopped", stop + 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`data` can't go to where the run was stopped")
        resumed = run("stopped", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


CHOOSING = [sd.TopK(3), sd.AbsTopK(3), sd.BatchTopK(3), sd.GroupMax(4), sd.JumpReLU(0.5, 0.5), sd.Gated()]


def choosing(activation: sd.Activation) -> tuple[sd.SparseAutoencoder, Tensor]:
    """A dictionary whose latents 0 to 7 are dead, in evaluation mode ready to be used."""
    x = SyntheticFeatures(16, 40, 4.0, seed=0).sample(4096, 1)[0].outputs
    dictionary = sd.SparseAutoencoder(
        16, 64, activation=activation, decoder_norm=sd.UnitNorm(), generator=torch.Generator().manual_seed(0)
    )
    dictionary.initialise_(x, x)
    with torch.no_grad():
        dictionary.encoder[8:] *= 10
        dictionary.encoder_bias[8:] *= 10
        dictionary.encoder[:8], dictionary.encoder_bias[:8] = 0, 0
        for name, value in dictionary.activation_state.named_parameters():
            value[:8] = {"log_threshold": 5.0, "gate_bias": -50.0, "log_scale": 0.0, "magnitude_bias": 0.0}[name]
        if isinstance(activation, sd.BatchTopK):
            pre = dictionary.pre_activations(x).relu()
            dictionary.activation_state.threshold.fill_(pre.flatten().topk(3 * len(x)).values.min())
    return dictionary, x


@pytest.mark.parametrize("activation", CHOOSING, ids=repr)
def test_new_latents_fire_where_they_must_compete(activation: sd.Activation) -> None:
    dictionary, x = choosing(activation)
    dead = torch.arange(64) < 8
    assert not dictionary.encode(x)[:, dead].any()
    per_latent = [name for name, value in dictionary.state_dict().items() if value.shape[:1] == (64,)]
    live = {name: dictionary.state_dict()[name][~dead].clone() for name in per_latent}
    dictionary.train()
    out = dictionary.forward_pass(x, x, tokens_since_fired=torch.where(dead, 100, 0))
    sd.Resample(every=1, dead_after=100, n_inputs=len(x))(out, torch.optim.Adam(dictionary.parameters()))
    assert dictionary.training
    fired = dictionary.eval().encode(x)[:, dead] != 0
    assert int(fired.any(0).sum()) >= 7
    assert float(fired.double().mean()) < 0.5
    after = dictionary.state_dict()
    for name, value in live.items():
        torch.testing.assert_close(after[name][~dead], value)


def test_a_new_latent_of_top_k_has_twice_the_smallest_pre_activation_on_its_token() -> None:
    dictionary, x = choosing(sd.TopK(3))
    before = dictionary.encode(x)
    smallest = torch.where(before > 0, before, torch.inf).min(-1).values
    tokens_since_fired = torch.zeros(64, dtype=torch.int64).index_fill_(0, torch.tensor([2]), 100)
    out = dictionary.train().forward_pass(x, x, tokens_since_fired=tokens_since_fired)
    sd.Resample(every=1, dead_after=100, n_inputs=len(x))(out, torch.optim.Adam(dictionary.parameters()))
    directions = torch.nn.functional.normalize(x - dictionary.decoder_bias.detach(), dim=-1)
    token = int((directions @ dictionary.decoder[2].detach()).argmax())
    pre = dictionary.pre_activations(x[token])[2].detach()
    torch.testing.assert_close(pre, 2 * smallest[token])


@pytest.mark.parametrize(
    ("activation", "penalties"),
    [(sd.TopK(4), []), (sd.BatchTopK(4), []), (sd.JumpReLU(), [sd.TargetL0(4)])],
    ids=["TopK", "BatchTopK", "JumpReLU"],
)
@pytest.mark.filterwarnings("ignore:The dictionary. The target of TargetL0")
def test_dead_latents_come_back_to_stay(activation: sd.Activation, penalties: list[sd.Penalty]) -> None:
    x = SyntheticFeatures(16, 64, 4.0, seed=0).sample(20_000, 1)[0].outputs
    n_dead = {}
    for hooks in ([], [sd.Resample(every=25, dead_after=1500, until=100, n_inputs=1024)]):
        dictionary = sd.SparseAutoencoder(
            16, 64, activation=activation, decoder_norm=sd.UnitNorm(), generator=torch.Generator().manual_seed(0)
        )
        dictionary.initialise_(x[:2048], x[:2048])
        with torch.no_grad():
            dictionary.encoder[:10] *= -1e-3
            dictionary.encoder_bias[:10] = -30.0
        lr = sd.training.RelativeLR(0.006)
        sd.fit(
            dictionary,
            x,
            n_tokens=19_200,
            batch_size=128,
            lr=lr,
            penalties=penalties,
            step_hooks=hooks,
            progress=False,
        )
        n_dead[bool(hooks)] = int((sd.analysis.firing_frequencies(dictionary, x).counts[:10] == 0).sum())
    assert n_dead[False] == 10
    assert n_dead[True] <= 2
