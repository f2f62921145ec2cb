"""The targets of a model's predictions, and significant gaps of the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import sparsedict as sd
from sparsedict.analysis import LossRecovered, evaluate, loss_recovered
from sparsedict.analysis._gaps import LossSums
from sparsedict.analysis._token_loss import TokenLoss
from sparsedict.sites import Constant, Site

from ._models import VOCABULARY, WIDTH, LanguageModel, distiller, tokens

SIZES = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = {"reads": "bert.encoder.layer.1.intermediate:in", "writes": "bert.encoder.layer.1.output.dense:out"}


def noisy(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def bert(**options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return noisy(transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, **options)))


def t5() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 2, "num_heads": 2}
    return noisy(transformers.T5ForConditionalGeneration(transformers.T5Config(decoder_start_token_id=0, **sizes)))


def ids(n_sequences: int = 4, n_positions: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(3, 30, (n_sequences, n_positions), generator=torch.Generator().manual_seed(seed))


def student(seed: int = 0) -> sd.SparseDistiller:
    generator = torch.Generator().manual_seed(seed)
    return sd.SparseDistiller(16, 16, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm(), generator=generator)


@torch.no_grad()
def test_a_decoder_predicts_the_decoder_s_next_token() -> None:
    model = t5()
    given = {"input_ids": ids(), "decoder_input_ids": ids(4, 7, seed=1)}
    logits, target = model(**given).logits, given["decoder_input_ids"]
    expected = cross_entropy(logits[:, :-1].flatten(0, 1), target[:, 1:].flatten()).item()
    for path in ("decoder.block.1.layer.2.DenseReluDense", "encoder.block.1.layer.1.DenseReluDense"):
        found = loss_recovered(Site(model, path), student(), given, batch_size=3)
        assert found.base == pytest.approx(expected, rel=1e-5)
        assert found.n_tokens == 4 * 6
        assert found.replaced != found.base
    mask = torch.ones_like(target)
    mask[1, 4:] = 0
    padded = {**given, "decoder_attention_mask": mask}
    for path in ("decoder.block.1.layer.2.DenseReluDense", "encoder.block.1.layer.1.DenseReluDense"):
        assert loss_recovered(Site(model, path), student(), padded).n_tokens == 3 * 6 + 3
    # What an encoder's site leaves out are tokens of the encoder.
    site = Site(model, "encoder.block.1.layer.1.DenseReluDense", exclude_first=3, exclude_tokens=[int(target[0, 2])])
    assert loss_recovered(site, student(), given).n_tokens == 4 * 6


@torch.no_grad()
def test_labels_are_the_predicted_values() -> None:
    model, labels = t5(), ids(4, 7, seed=1)
    labels[0, 5:] = -100
    given = {"input_ids": ids(), "labels": labels}
    site = Site(model, "decoder.block.1.layer.2.DenseReluDense")
    found = loss_recovered(site, student(), given, batch_size=3)
    assert found.base == pytest.approx(model(**given).loss.item(), rel=1e-5)
    assert found.n_tokens == 4 * 7 - 2
    causal = Site(LanguageModel(), "mlp")
    text = tokens()
    prompted = text.clone()
    prompted[:, :5] = -100

    class Labelled(LanguageModel):
        def forward(
            self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
        ) -> Tensor:
            return super().forward(input_ids, attention_mask)

    site = Site(Labelled(), "mlp")
    found = loss_recovered(site, distiller(), {"input_ids": text, "labels": prompted})
    logits = causal.logits(text)
    expected = cross_entropy(logits[:, 4:-1].flatten(0, 1), text[:, 5:].flatten()).item()
    assert found.n_tokens == 12 * 4
    assert found.base == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_a_masked_language_model_predicts_masked_tokens() -> None:
    model, text = bert(), ids(6, 20)
    site = Site(model, **BERT, exclude_first=1)
    found = loss_recovered(site, student(), text, mask_token=2)
    assert found.n_tokens == 6 * math.ceil(0.15 * 19)
    # The same tokens are masked whatever the batches, and in every call.
    for size in (1, 4):
        again = loss_recovered(site, student(), text, mask_token=2, batch_size=size)
        assert again.base == pytest.approx(found.base, rel=1e-5)
        assert again.kl == pytest.approx(found.kl, rel=1e-4)
    for side in ((0, 4), (4, 0)):
        mask = pad(torch.ones_like(text), side)
        padded = loss_recovered(site, student(), {"input_ids": pad(text, side), "attention_mask": mask}, mask_token=2)
        assert padded.n_tokens == found.n_tokens
        assert padded.base == pytest.approx(found.base, rel=1e-5)
    seen: list[Tensor] = []
    handle = model.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    loss_recovered(site, student(), text, mask_token=2)
    handle.remove()
    masked = next(x for x in seen if bool((x == 2).any()))
    chosen = masked == 2
    assert not chosen[:, 0].any()
    assert torch.equal(masked[~chosen], text[~chosen])
    expected = cross_entropy(model(masked).logits[chosen], text[chosen]).item()
    assert found.base == pytest.approx(expected, rel=1e-5)
    with site.ablated():
        zeroed = cross_entropy(model(masked).logits[chosen], text[chosen]).item()
    assert found.zero_ablated == pytest.approx(zeroed, rel=1e-5)


@torch.no_grad()
def test_labels_of_a_masked_language_model_stand_where_they_are_predicted() -> None:
    model, text = bert(), ids(6, 20)
    masked, labels = text.clone(), torch.full_like(text, -100)
    masked[:, 3], labels[:, 3] = 2, text[:, 3]
    given = {"input_ids": masked, "labels": labels}
    found = loss_recovered(Site(model, **BERT), student(), given)
    assert found.n_tokens == 6
    assert found.base == pytest.approx(model(**given).loss.item(), rel=1e-5)


def test_a_mask_token_is_found_in_the_configuration_or_asked_for() -> None:
    site = Site(bert(), **BERT)
    with pytest.raises(TypeError, match=r"isn't causal: the logits of a BertForMaskedLM.*pass `mask_token=`"):
        loss_recovered(site, student(), ids())
    found = evaluate(site, student(), ids())
    assert found.fvu > 0
    assert found.losses is not None
    assert math.isnan(found.losses.base)
    assert "pass `mask_token=`" in str(found)
    assert "pass `mask_token=`" in repr(found.losses)
    assert found.to_dict()["loss_base"] is None
    named = Site(bert(mask_token_id=2), **BERT)
    expected = loss_recovered(site, student(), ids(), mask_token=2)
    assert loss_recovered(named, student(), ids()).base == pytest.approx(expected.base, rel=1e-6)
    with pytest.raises(ValueError, match="`exclude_tokens` must not contain the mask token 2"):
        loss_recovered(Site(bert(), **BERT, exclude_tokens=[2]), student(), ids(), mask_token=2)
    with pytest.raises(ValueError, match="`mask_token` must be"):
        loss_recovered(site, student(), ids(), mask_token=-1)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM", "BertLMHeadModel", "RobertaForMaskedLM"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_causality_is_found_by_trying(name: str, side: str) -> None:
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    # At the models' own small initial weights, where a later token has the least effect.
    sizes = {**SIZES, "is_decoder": True} if name == "BertLMHeadModel" else SIZES
    if name == "GPT2LMHeadModel":
        sizes = {"vocab_size": 30, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = kind(kind.config_class(pad_token_id=0, **sizes)).eval()
    path = next(path for path, module in model.named_modules() if isinstance(module, nn.ModuleList))
    site = Site(model, reads=f"{path}.1:out", writes=f"{path}.1:out")
    pads = (9, 0) if side == "left" else (0, 9)
    text = {
        "input_ids": nn.functional.pad(ids(4, 6), pads),
        "attention_mask": nn.functional.pad(torch.ones(4, 6).long(), pads),
    }
    # Sequences of one token, which show nothing, come first.
    text["attention_mask"][:2] = 0
    text["attention_mask"][:2, pads[0]] = 1
    if "Masked" in name:
        with pytest.raises(TypeError, match="isn't causal"):
            loss_recovered(site, Constant(torch.zeros(16)), text)
    else:
        assert loss_recovered(site, Constant(torch.zeros(16)), text).n_tokens == 2 * 5


class Closed(LanguageModel):
    """A model that gives some tokens no probability at all."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = super().forward(input_ids, attention_mask)
        return logits.masked_fill(torch.arange(VOCABULARY) == 0, -torch.inf)


@torch.no_grad()
def test_tokens_of_no_probability_add_nothing_to_the_divergence() -> None:
    site, text = Site(Closed(), "mlp"), tokens()
    found = loss_recovered(site, distiller(), text)
    with site.replaced(distiller()):
        other = site.logits(text)
    p, q = (logits[:, :-1, 1:].log_softmax(-1) for logits in (site.logits(text), other))
    assert found.kl == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-4)


def test_a_divergence_is_never_negative() -> None:
    logits = torch.randn(4, 6, 50, generator=torch.Generator().manual_seed(0))
    loss = TokenLoss(torch.zeros(4, 6, dtype=torch.int64), torch.ones(4, 6, dtype=torch.bool))
    assert loss.divergence(logits, logits + 1e-7).min() >= 0


@torch.no_grad()
def test_only_positions_where_something_is_replaced_are_counted() -> None:
    text = tokens()
    site = Site(LanguageModel(), "mlp", exclude_first=3)
    found = loss_recovered(site, distiller(), text)
    with site.replaced(distiller()):
        other = site.logits(text)
    base, target = site.logits(text), text[:, 4:].flatten()
    p, q = (logits[:, 3:-1].log_softmax(-1) for logits in (base, other))
    assert found.n_tokens == 12 * 5
    assert found.kl == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-4)
    assert found.base == pytest.approx(cross_entropy(base[:, 3:-1].flatten(0, 1), target).item(), rel=1e-5)


def recovered(**values: Any) -> LossRecovered:
    numbers = {"base": 2.0, "replaced": 2.1, "zero_ablated": 3.0, "mean_ablated": 2.5, "kl": 0.1, "n_tokens": 100}
    return LossRecovered(**{**numbers, "zero_error": 0.1, "mean_error": 0.1, **values})


def test_a_share_of_a_gap_within_noise_is_nan_with_a_reason() -> None:
    clear = recovered()
    assert clear.note is None
    assert (clear.zero, clear.mean) == pytest.approx((0.9, 0.8))
    within = recovered(zero_ablated=2.29)
    assert math.isnan(within.zero)
    assert within.mean == pytest.approx(0.8)
    assert within.note is not None
    assert "writing zero doesn't raise the loss by more than noise: +0.29 with a standard error of 0.1" in within.note
    assert f"note={within.note!r}" in repr(within)
    for ablated in (1.5, 2.0, 2.0 + 1e-7):
        assert math.isnan(recovered(mean_ablated=ablated, mean_error=0.0).mean)
    infinite = recovered(zero_ablated=math.inf)
    assert math.isnan(infinite.zero)
    assert "isn't finite" in str(infinite.note)
    assert recovered(zero_ablated=2.31).zero == pytest.approx((2.31 - 2.1) / 0.31)


def test_an_ablation_that_does_not_hurt_has_no_share() -> None:
    text = torch.randint(1, VOCABULARY, (12, 9), generator=torch.Generator().manual_seed(1))
    site = Site(LanguageModel(), "mlp")
    found = evaluate(site, distiller(), text)
    assert found.losses is not None
    assert math.isnan(found.losses.zero)
    assert f"note: {found.losses.note}" in str(found)
    assert "writing zero doesn" in found._repr_html_()
    assert found.note == found.losses.note
    assert found.to_dict()["loss_recovered_zero"] is None


def test_errors_are_over_sequences() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [3, 1, 6, 4]
    sequences = torch.tensor([s for s, n in enumerate(lengths) for _ in range(n)])
    base, other = (torch.randn(14, generator=generator) for _ in range(2))
    sums = LossSums()
    sums.update_([base[:4], other[:4]], sequences[:4])
    sums.update_([base[4:], other[4:]], sequences[4:])
    assert sums.n == 14
    assert sums.means == pytest.approx([base.mean().item(), other.mean().item()], rel=1e-5)
    gap = (other - base).mean()
    residuals = torch.tensor([((other - base - gap)[sequences == s]).sum() for s in range(4)])
    assert sums.gap_errors == pytest.approx([0.0, (4 / 3 * residuals.square().sum()).sqrt().item() / 14], rel=1e-5)
    single = LossSums()
    single.update_([base, other], torch.zeros(14, dtype=torch.int64))
    assert single.gap_errors[1] == pytest.approx((other - base).std().item() / 14**0.5, rel=1e-5)
    one = LossSums()
    one.update_([base.mean(), other.mean()], None)
    assert one.gap_errors == [0.0, 0.0]


def test_noise_is_as_large_as_it_seems() -> None:
    """Three standard errors: a gap of zero is hardly ever taken for one, five of them nearly always are."""
    n_clear = {0.0: 0, 5.0: 0}
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        own = torch.randn(30, 1, generator=generator).expand(30, 8)  # the same for all tokens of a sequence
        difference = own + 0.3 * torch.randn(30, 8, generator=generator)
        for gap in n_clear:
            sums = LossSums()
            others = 5 + gap / 30**0.5 + difference.flatten()
            sums.update_([torch.full((240,), 5.0), others], torch.arange(30).repeat_interleave(8))
            base, ablated = sums.means
            found = LossRecovered(base, 5.0, ablated, ablated, None, 240, *sums.gap_errors[1:] * 2)
            n_clear[gap] += found.note is None
    assert n_clear[0.0] <= 6
    assert n_clear[5.0] >= 380


def test_top_examples_show_the_decoder_s_tokens() -> None:
    model, target = t5(), ids(4, 7, seed=1)
    site = Site(model, "decoder.block.1.layer.2.DenseReluDense")
    found = sd.analysis.top_examples(site, student(), {"input_ids": ids(), "decoder_input_ids": target})
    for examples in found.values():
        for example in examples.examples:
            assert example.tokens[example.peak] == target[example.sequence, example.position]


def test_tokens_may_be_any_mapping() -> None:
    class Batch(Mapping[str, Tensor]):
        def __init__(self, **values: Tensor) -> None:
            self.values_ = values

        def __getitem__(self, key: str) -> Tensor:
            return self.values_[key]

        def __iter__(self) -> Any:
            return iter(self.values_)

        def __len__(self) -> int:
            return len(self.values_)

    site = Site(LanguageModel(), "mlp")
    expected = loss_recovered(site, distiller(), tokens())
    assert loss_recovered(site, distiller(), Batch(input_ids=tokens())).replaced == pytest.approx(expected.replaced)
    assert site.d_in == WIDTH
