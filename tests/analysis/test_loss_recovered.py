from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

import sparsedict as sd
from sparsedict.analysis import loss_recovered
from sparsedict.sites import Constant, Site

from ._models import HIDDEN, WIDTH, Foreign, LanguageModel, autoencoder, distiller, tokens


def masked_loss(logits: Tensor, ids: Tensor, mask: Tensor) -> float:
    losses = cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    return losses[mask[:, :-1] & mask[:, 1:]].mean().item()


@torch.no_grad()
def test_losses_are_those_of_the_definition(site: Site) -> None:
    ids, student = tokens(), distiller()
    ids[:, 4] = 0
    seen = site.capture(ids)
    found = loss_recovered(site, student, ids, batch_size=5)
    outputs = {"base": site.logits(ids)}
    mean = seen.batch().outputs.mean(0)
    for name, x in (
        ("replaced", student),
        ("zero_ablated", Constant(torch.zeros(WIDTH))),
        ("mean_ablated", Constant(mean)),
    ):
        with site.replaced(x):
            outputs[name] = site.logits(ids)
    for name, logits in outputs.items():
        assert getattr(found, name) == pytest.approx(masked_loss(logits, ids, seen.mask), rel=1e-5)
    counts = seen.mask[:, :-1] & seen.mask[:, 1:]
    logs = {name: logits[:, :-1][counts].log_softmax(-1) for name, logits in outputs.items()}
    expected = kl_div(logs["replaced"], logs["base"], log_target=True, reduction="batchmean").item()
    assert found.kl == pytest.approx(expected, rel=1e-4)
    assert found.n_tokens == int(counts.sum()) == 12 * 5
    assert found.zero == pytest.approx((found.zero_ablated - found.replaced) / (found.zero_ablated - found.base))
    assert found.mean == pytest.approx((found.mean_ablated - found.replaced) / (found.mean_ablated - found.base))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU()])
def test_neurons_recover_everything(activation: nn.Module) -> None:
    site = Site(LanguageModel(activation), "mlp")
    found = loss_recovered(site, site.neurons, tokens())
    assert found.zero == pytest.approx(1, abs=1e-5)
    assert found.mean == pytest.approx(1, abs=1e-5)
    assert found.kl == pytest.approx(0, abs=1e-6)
    student = sd.SparseDistiller.from_neurons(site.neurons)
    assert loss_recovered(site, student, tokens()).zero == pytest.approx(1, abs=1e-5)


def test_writing_zero_or_the_mean_recovers_nothing(site: Site) -> None:
    zero = loss_recovered(site, Constant(torch.zeros(WIDTH)), tokens())
    assert zero.zero == 0
    mean = site.capture(tokens()).batch().outputs.mean(0)
    assert loss_recovered(site, Constant(mean), tokens()).mean == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_batches_change_nothing(site: Site, batch_size: int) -> None:
    found, expected = (loss_recovered(site, autoencoder(), tokens(), batch_size=size) for size in (batch_size, 12))
    for name in ("base", "replaced", "zero_ablated", "mean_ablated", "kl"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: str) -> None:
    site = Site(LanguageModel(), "mlp", exclude_first=1)
    ids, mask = tokens(), torch.ones(12, 9, dtype=torch.int64)
    pads = (3, 0) if side == "left" else (0, 3)
    padded = {"input_ids": nn.functional.pad(ids, pads), "attention_mask": nn.functional.pad(mask, pads)}
    found, expected = (loss_recovered(site, distiller(), text, batch_size=4) for text in (padded, ids))
    assert found.n_tokens == expected.n_tokens
    assert found.replaced == pytest.approx(expected.replaced, rel=1e-5)
    assert found.zero == pytest.approx(expected.zero, rel=1e-4)


def test_every_form_of_tokens_gives_the_same(site: Site) -> None:
    ids = tokens()
    expected = loss_recovered(site, distiller(), ids).replaced
    forms = ({"input_ids": ids}, [ids[:5], ids[5:]], (row for row in ids), ids.numpy(), [{"input_ids": ids}])
    for form in forms:
        assert loss_recovered(site, distiller(), form).replaced == pytest.approx(expected, rel=1e-5)


def test_n_tokens_stops_after_the_batch(site: Site) -> None:
    found = loss_recovered(site, distiller(), tokens(), batch_size=2, n_tokens=17)
    assert found.n_tokens == 4 * 7
    assert found.base == pytest.approx(loss_recovered(site, distiller(), tokens()[:4]).base, rel=1e-5)


def test_given_mean_is_used(site: Site) -> None:
    found = loss_recovered(site, distiller(), tokens(), mean=torch.zeros(WIDTH))
    assert found.mean == found.zero


def test_inputs_and_neurons_are_ablated_where_they_are_written(site: Site) -> None:
    for role, width in (("inputs", WIDTH), ("neurons", HIDDEN)):
        coder = sd.SparseAutoencoder(width, 30, activation=sd.ReLU(), decoder_norm=sd.UnitNorm(), reads=role)
        found = loss_recovered(site, coder, tokens())
        with torch.no_grad(), site.replaced(Constant(torch.zeros(width), role)):
            expected = masked_loss(site.logits(tokens()), tokens(), site.capture(tokens()).mask)
        assert found.zero_ablated == pytest.approx(expected, rel=1e-5)


def test_other_libraries_objects_serve(site: Site) -> None:
    found = loss_recovered(site, Foreign(distiller()), tokens(), reads="inputs")
    assert found.replaced == pytest.approx(loss_recovered(site, distiller(), tokens()).replaced, rel=1e-5)
    with pytest.raises(ValueError, match="`reads` must name the point that a Foreign reads"):
        loss_recovered(site, Foreign(distiller()), tokens())


def test_model_in_training_is_measured_as_in_use(site: Site) -> None:
    expected = loss_recovered(site, distiller(), tokens())
    site.model.train()
    assert loss_recovered(site, distiller(), tokens()) == expected
    assert site.model.dropout.training


def test_loss_of_ones_own(site: Site) -> None:
    mean_logit = loss_recovered(site, distiller(), tokens(), loss=lambda output, batch, mask: output[mask].mean(-1))
    assert mean_logit.kl is None
    assert mean_logit.n_tokens == 12 * 8


def test_module_without_logits_has_a_loss_only_if_given() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 4)), nn.Linear(4, 2))
    site, x = Site(model, "1"), torch.randn(20, 4)
    with pytest.raises(TypeError, match=r"must return logits .* for no token ids"):
        loss_recovered(site, site.neurons, x)
    with torch.no_grad():
        targets = model(x)
    found = loss_recovered(
        site, site.neurons, x, batch_size=20, loss=lambda output, batch, mask: (output - targets).square().mean(-1)
    )
    assert found.base == 0
    assert found.zero == pytest.approx(1, abs=1e-6)


def test_activations_over_another_vocabulary_are_no_logits() -> None:
    model = nn.Sequential(nn.Embedding(50, 6), nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6)))
    site = Site(model, "1")
    with pytest.raises(TypeError, match="logits over its vocabulary, got 6"):
        loss_recovered(site, site.neurons, torch.full((2, 5), 40))


def test_nothing_left_to_predict_raises() -> None:
    site = Site(LanguageModel(), "mlp", exclude_tokens=[0])
    with pytest.raises(ValueError, match="at least one token to predict"):
        loss_recovered(site, site.neurons, torch.zeros(2, 5, dtype=torch.int64))


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("bad", "message"), [(torch.zeros(0, 5).long(), "at least one sequence"), (3, "`tokens` must be")]
)
def test_bad_tokens_raise(site: Site, bad: object, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        loss_recovered(site, site.neurons, bad)
