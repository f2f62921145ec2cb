from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

import examples.report.dictionary_cache as module
from examples.report import DictionarySpec, Experiment
from examples.report.losses import SequenceLosses, recovered, sampling_error
from sparsedict import L1, Site
from sparsedict.analysis import loss_recovered

from ._experiment import Model, experiment_of, setting_of


def spec_of(experiment: Experiment, coefficient: float = 0.01, **options: object) -> DictionarySpec:
    return DictionarySpec("mlp 1", 12, experiment.setting.report, (L1(coefficient),), **options)  # pyright: ignore[reportArgumentType]


EXACT = "donot_use_mm_for_euclid_dist"


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("trained again")


def test_knows_every_mlp_and_the_stream_after_each_layer() -> None:
    experiment = experiment_of()
    assert list(experiment.sites) == ["mlp 0", "mlp 1", "residual 0", "residual 1"]
    assert (experiment.layer, experiment.other_layer, experiment.layers) == (1, 0, [0, 1])
    assert experiment.width(1) == 12
    assert experiment.width(1, 3) == 36


def test_held_out_activations_match_the_model() -> None:
    experiment = experiment_of()
    model: Any = experiment.sites["mlp 1"].model
    ids = experiment.held_out_tokens
    held = experiment.held_out("residual 0")
    assert held.outputs.shape == (256, 6)
    with torch.no_grad():
        every = model.blocks[0](model.embedding(ids)).flatten(0, 1)
    assert torch.cdist(held.outputs, every, compute_mode=EXACT).min(dim=1).values.max() < 1e-5


def test_equal_orders_share_one_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = experiment_of()
    first = experiment.dictionary(spec_of(experiment))
    monkeypatch.setattr(module, "fit_many", refuse)
    assert experiment.dictionary(spec_of(experiment)) is first


def test_dictionaries_are_found_again_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = experiment_of(tmp_path)
    trained = experiment.dictionary(spec_of(experiment))
    monkeypatch.setattr(module, "fit_many", refuse)
    again = experiment_of(tmp_path)
    assert torch.equal(again.dictionary(spec_of(again)).encoder, trained.encoder)
    assert not list(tmp_path.glob("training-*"))


def test_a_stopped_pass_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = experiment_of().dictionary(spec_of(experiment_of()))
    fit_many = module.fit_many

    def stop(*args: object, **options: object) -> None:
        def halt(*_: object) -> None:
            raise KeyboardInterrupt

        fit_many(*args, callbacks=[halt], **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(module, "LOG_EVERY", 4)
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(module, "fit_many", stop)
    experiment = experiment_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        experiment.train([spec_of(experiment)])
    assert list(tmp_path.glob("training-*"))
    monkeypatch.setattr(module, "fit_many", fit_many)
    again = experiment_of(tmp_path)
    assert torch.equal(again.dictionary(spec_of(again)).encoder, whole.encoder)


def test_another_seed_gives_another_dictionary() -> None:
    a, b = experiment_of(), experiment_of(seed=1)
    assert not torch.equal(a.dictionary(spec_of(a)).encoder, b.dictionary(spec_of(b)).encoder)


def test_a_warm_start_goes_on_from_the_other() -> None:
    experiment = experiment_of()
    first = spec_of(experiment)
    still = dataclasses.replace(experiment.setting.report, lr=1e-12)
    second = dataclasses.replace(spec_of(experiment, 0.5, warm=first), training=still)
    assert torch.allclose(experiment.dictionary(second).encoder, experiment.dictionary(first).encoder, atol=1e-6)


def test_coefficients_grow_with_the_outputs_deviation() -> None:
    experiment = experiment_of()
    assert experiment.coefficient(0.3, experiment.layer) == 0.3
    ratio = (experiment.variance("mlp 0") / experiment.variance("mlp 1")) ** 0.5
    assert experiment.coefficient(0.3, 0) == pytest.approx(0.3 * ratio, rel=1e-3)


def test_a_stream_replaces_activations_too_large_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.report.harvest.HELD_BYTES", 0)
    experiment = experiment_of()
    assert experiment.sample("mlp 1") is experiment.held_out("mlp 1")
    assert experiment.dictionary(spec_of(experiment)).trained_on["n_tokens"] == 512


def test_measurements_match_the_analysis() -> None:
    experiment = experiment_of()
    wanted = spec_of(experiment)
    firing = experiment.firing(wanted)
    assert firing.n_tokens == 256
    assert experiment.l0(wanted) == pytest.approx(float(firing.frequency.sum()))
    assert experiment.error(wanted).fvu > 0
    assert experiment.losses(wanted) is experiment.losses(wanted)


@pytest.mark.parametrize("left_out", [(), (3, 7)])
def test_losses_are_those_of_the_analysis(left_out: tuple[int, ...]) -> None:
    experiment = experiment_of(exclude_tokens=left_out)
    wanted = spec_of(experiment)
    site, held = experiment.sites["mlp 1"], experiment.held_out("mlp 1")
    theirs = loss_recovered(site, experiment.dictionary(wanted), experiment.loss_tokens, mean=held.outputs.mean(0))
    ablations, own = experiment.ablations("mlp 1"), experiment.losses(wanted)
    assert int(own.counts.sum()) == theirs.n_tokens
    for ours, loss in (
        (ablations.base, theirs.base),
        (own, theirs.replaced),
        (ablations.zero, theirs.zero_ablated),
        (ablations.average, theirs.mean_ablated),
    ):
        assert ours.mean == pytest.approx(loss, rel=1e-5)


def test_the_bootstrap_finds_the_spread_of_new_texts() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.full((200,), 50)

    def losses(n_texts: int) -> list[list[SequenceLosses]]:
        noise = torch.randn(n_texts, 3, 200, generator=generator).double()
        means = torch.tensor([3.0, 1.0, 2.0]).double()[:, None]
        return [[SequenceLosses(part, counts) for part in 50 * (means + 0.5 * text)] for text in noise]

    shares = [recovered(own, base, worst) for worst, base, own in losses(500)]
    (worst, base, own), *_ = losses(1)
    assert sampling_error([own], base, worst) == pytest.approx(float(torch.tensor(shares).std()), rel=0.2)
    assert sampling_error([own], base, worst) == sampling_error([own], base, worst)


def test_the_loss_recovered_is_a_share_of_the_gap() -> None:
    base, own, worst = (SequenceLosses(torch.full((4,), x).double(), torch.full((4,), 2)) for x in (2.0, 3.0, 6.0))
    assert own.mean == 1.5
    assert recovered(own, base, worst) == pytest.approx(0.75)
    noisy = SequenceLosses(torch.tensor([9.0, -6.0, 9.0, -3.0]).double(), worst.counts)
    assert math.isnan(recovered(own, base, noisy))
    # Zero in the MLP's place that lowers the loss leaves no gap to recover.
    assert math.isnan(recovered(own, worst, base))
    same = SequenceLosses(torch.ones(4).double(), torch.ones(4).long())
    assert math.isnan(recovered(same, same, same))


def test_seeds_have_other_weights_other_starts_and_another_order_of_the_data() -> None:
    experiment = experiment_of()
    wanted = spec_of(experiment)
    first, second = (experiment.dictionary(repeated) for repeated in experiment.repeated(wanted))
    assert not torch.equal(first.encoder, second.encoder)
    started = dataclasses.replace(wanted, training=experiment.setting.modern)
    first, second = (experiment.start(repeated) for repeated in experiment.repeated(started))
    # No latent starts from the same token.
    cosines = normalize(first.decoder.detach(), dim=-1) @ normalize(second.decoder.detach(), dim=-1).T
    assert (cosines.max(dim=1).values > 1 - 1e-6).float().mean() < 0.5
    assert experiment.other_seed(experiment.other_seed(wanted)) == wanted


def test_a_start_is_untrained() -> None:
    experiment = experiment_of()
    wanted = dataclasses.replace(spec_of(experiment), training=experiment.setting.modern)
    a, b = experiment.start(wanted), experiment.dictionary(wanted)
    assert a is not b
    assert not torch.equal(a.encoder, b.encoder)
    assert experiment.start(wanted) is a


@pytest.mark.as_installed
def test_rejects_a_path_that_leads_nowhere() -> None:
    ids = torch.zeros(2, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"`path` must have \{\}"):
        Experiment.from_model(Model(), ids, ids, setting_of(), path="blocks.0.mlp")
    with pytest.raises(ValueError, match=r"the model has no 'layers\.0\.mlp'"):
        Experiment.from_model(Model(), ids, ids, setting_of(), path="layers.{}.mlp")
    assert isinstance(Site(Model(), "blocks.0.mlp"), Site)
