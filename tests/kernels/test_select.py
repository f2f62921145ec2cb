from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import cases
import sparsedict as sd
from sparsedict.kernels import _select, can_select, select
from sparsedict.selections import Above, Largest, LargestOfBatch, Selection

SHAPES = {
    "n_tokens": st.integers(1, 40),
    "n_latents": st.sampled_from([1, 2, 7, 16, 48, 64, 97, 256]),
    "d": st.sampled_from([1, 3, 32]),
    "seed": st.integers(0, 2**20),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_select, "BLOCK_BYTES", 1)
    monkeypatch.setattr(_select, "MIN_BLOCK_TOKENS", 16)


def drawn(n_tokens: int, n_latents: int, d: int, seed: int, dtype: torch.dtype = torch.float32):
    """Inputs, rows and bias."""
    generator = torch.Generator().manual_seed(seed)
    inputs, rows = (torch.randn(n, d, generator=generator, dtype=dtype) for n in (n_tokens, n_latents))
    return inputs, rows, torch.randn(n_latents, generator=generator, dtype=dtype)


def check(rule: Selection, inputs: Tensor, rows: Tensor, bias: Tensor, bounded: bool) -> None:
    """The entries are those of the rule's own meaning, but for what rounding of the product decides."""
    picked = select(inputs, rows, bias, rule, bounded=bounded)
    assert picked is not None
    support, known = picked
    pre = torch.addmm(bias, inputs, rows.T)
    found = torch.zeros_like(pre, dtype=torch.bool)
    found[support.tokens, support.latents] = True
    wanted = torch.zeros_like(found)
    meant = rule.support(pre)
    wanted[meant.tokens, meant.latents] = True
    assert found.sum() == support.n_entries
    torch.testing.assert_close(known, pre[support.tokens, support.latents], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pre * found.sum(-1, keepdim=True).sign(), pre * wanted.sum(-1, keepdim=True).sign())
    differs = found != wanted
    if differs.any():
        limit = rule.threshold.expand_as(pre)[differs] if isinstance(rule, Above) else pre[wanted].amin()
        per_token = isinstance(rule, Largest)
        limit = pre.masked_fill(~wanted, torch.inf).amin(-1)[differs.nonzero()[:, 0]] if per_token else limit
        assert ((pre[differs] - limit).abs() < 1e-5).all()


@pytest.mark.parametrize("bounded", [False, True])
@given(**SHAPES, k=st.integers(1, 40), lowest_ties=st.booleans())
def test_the_largest_of_each_token(
    bounded: bool, n_tokens: int, n_latents: int, d: int, seed: int, k: int, lowest_ties: bool
) -> None:
    rule = Largest(min(k, n_latents), lowest_ties=lowest_ties)
    check(rule, *drawn(n_tokens, n_latents, d, seed), bounded=bounded)


@pytest.mark.parametrize("bounded", [False, True])
@given(**SHAPES, each=st.booleans(), shift=st.sampled_from([-9.0, -0.5, 0.0, 0.5, 2.0, 9.0]))
def test_everything_above_a_threshold(
    bounded: bool, n_tokens: int, n_latents: int, d: int, seed: int, each: bool, shift: float
) -> None:
    inputs, rows, bias = drawn(n_tokens, n_latents, d, seed)
    threshold = (bias.flip(0) if each else torch.zeros(())) + shift
    check(Above(threshold), inputs, rows, bias, bounded)


@pytest.mark.parametrize("bounded", [False, True])
@given(**SHAPES, k=st.integers(1, 8), guess=st.sampled_from([None, torch.nan, -1.0, 0.0, 0.5, 3.0, 99.0]))
def test_the_largest_of_the_batch(
    bounded: bool, n_tokens: int, n_latents: int, d: int, seed: int, k: int, guess: float | None
) -> None:
    rule = LargestOfBatch(k, None if guess is None else torch.tensor(guess))
    inputs, rows, bias = drawn(n_tokens, n_latents, d, seed)
    check(rule, inputs, rows, bias, bounded=bounded)
    picked = select(inputs, rows, bias, rule, bounded=bounded)
    assert picked is not None
    assert (picked[1] > 0).all()


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("guess", [None, 0.01, 99.0])
def test_a_guess_that_is_far_off_is_replaced_in_the_same_search(
    bounded: bool, guess: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_select, "MIN_BLOCK_TOKENS", 1024)
    inputs, rows, bias = drawn(1024, 512, 16, 0)
    n_products, candidates = 0, []
    blocks, largest_of_all = _select._Search._blocks, _select.largest_of_all

    def counted(search: Any) -> Any:
        nonlocal n_products
        for found in blocks(search):
            n_products += 1
            yield found

    def noted(values: Tensor, k: int) -> Tensor:
        candidates.append(len(values))
        return largest_of_all(values, k)

    monkeypatch.setattr(_select._Search, "_blocks", counted)
    monkeypatch.setattr(_select, "largest_of_all", noted)
    rule = LargestOfBatch(4, None if guess is None else torch.tensor(guess))
    picked = select(inputs, rows, bias, rule, bounded=bounded)
    assert picked is not None
    assert n_products == 1
    assert max(candidates) <= _select.MAX_CANDIDATES_OF_BATCH * picked[0].n_entries


@pytest.mark.parametrize("rule", [Largest(3, lowest_ties=True), Above(torch.zeros(())), LargestOfBatch(3)])
@pytest.mark.parametrize("bounded", [False, True])
def test_entries_of_a_token_lie_together_and_tokens_in_order(rule: Selection, bounded: bool) -> None:
    picked = select(*drawn(50, 64, 8, 0), rule, bounded=bounded)
    assert picked is not None
    support, _ = picked
    assert (support.tokens.diff() >= 0).all()
    assert support.offsets[0] == 0
    assert support.offsets[-1] == support.n_entries == len(support.latents)


@pytest.mark.parametrize("bounded", [False, True])
def test_ties_go_to_the_lowest_index(bounded: bool) -> None:
    inputs, rows, bias = drawn(20, 512, 8, 0)
    rows = rows[:4].repeat(128, 1)
    picked = select(inputs, rows, bias[:4].repeat(128), Largest(5, lowest_ties=True), bounded=bounded)
    assert picked is not None
    best = torch.addmm(bias[:4], inputs, rows[:4].T).argmax(-1, keepdim=True)
    expected = best + torch.arange(0, 20, 4)
    positive = torch.addmm(bias[:4], inputs, rows[:4].T).amax(-1) > 0
    assert positive.any()
    assert torch.equal(picked[0].latents.view(20, 5).sort(-1).values[positive], expected[positive])


@pytest.mark.parametrize("bounded", [False, True])
def test_nan_is_selected(bounded: bool) -> None:
    inputs, rows, bias = drawn(20, 64, 8, 0)
    inputs[3, 2] = torch.nan
    for rule in (Largest(4), Above(torch.zeros(()))):
        picked = select(inputs, rows, bias, rule, bounded=bounded)
        assert picked is not None
        support, known = picked
        assert known[support.tokens == 3].isnan().all()
        assert (support.tokens == 3).any()


@pytest.mark.parametrize("offset", [-2.7, -30.0])
def test_the_largest_where_few_or_none_are_positive(offset: float) -> None:
    inputs, rows, bias = drawn(64, 512, 16, 0)
    check(Largest(4), inputs, rows, bias + 4 * offset, bounded=True)


def test_outliers_that_many_bounds_reach_are_settled_exactly() -> None:
    inputs, rows, bias = drawn(64, 512, 16, 0)
    rows[7] *= 1e4
    check(Largest(4), inputs, rows, bias, bounded=True)
    check(Above(torch.ones(())), inputs, rows, bias, bounded=True)


def test_where_many_entries_are_above_they_are_not_computed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Tensor) -> Tensor:
        raise AssertionError("dense products are many times faster here")

    monkeypatch.setattr(_select, "sampled_product", refuse)
    check(Above(torch.zeros(())), *drawn(64, 512, 16, 0), bounded=True)
    check(LargestOfBatch(100), *drawn(64, 512, 16, 0), bounded=True)
    check(Largest(100), *drawn(64, 512, 16, 0), bounded=True)


@pytest.mark.parametrize("bounded", [False, True])
def test_no_tokens_pick_nothing(bounded: bool) -> None:
    for rule in (Largest(3), Above(torch.zeros(())), LargestOfBatch(3)):
        picked = select(*drawn(0, 64, 8, 0), rule, bounded=bounded)
        assert picked is not None
        assert picked[0].n_entries == 0
        assert picked[0].n_tokens == 0


def test_without_memory_the_largest_have_shapes() -> None:
    inputs, rows, bias = (part.to("meta") for part in drawn(5, 64, 8, 0))
    picked = select(inputs, rows, bias, Largest(3))
    assert picked is not None
    assert picked[0].latents.shape == picked[1].shape == (15,)


@pytest.mark.parametrize("bounded", [False, True])
def test_selection_stops_beyond_its_capacity(bounded: bool) -> None:
    inputs, rows, bias = drawn(64, 64, 8, 0)
    rule = Above(torch.zeros(()))
    picked = select(inputs, rows, bias, rule, bounded=bounded)
    assert picked is not None
    n_entries = picked[0].n_entries
    assert select(inputs, rows, bias, rule, bounded=bounded, max_entries=n_entries) is not None
    assert select(inputs, rows, bias, rule, bounded=bounded, max_entries=n_entries - 1) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_are_searched_as_they_are(dtype: torch.dtype) -> None:
    inputs, rows, bias = drawn(33, 64, 8, 0, dtype)
    pre = torch.addmm(bias, inputs, rows.T)
    picked = select(inputs, rows, bias, Largest(5))
    assert picked is not None
    support, known = picked
    assert known.dtype == dtype
    exact = 1e-10 if dtype == torch.float64 else 2e-2
    best = pre.topk(5).values.sort(-1).values
    torch.testing.assert_close(known.view(33, 5).sort(-1).values, best, rtol=exact, atol=exact)
    assert support.n_tokens == 33


def test_under_autocast_the_product_is_made_in_its_type() -> None:
    inputs, rows, bias = drawn(33, 64, 8, 0)
    with torch.autocast("cpu", torch.bfloat16):
        picked = select(inputs, rows, bias, Largest(5))
    assert picked is not None
    support, known = picked
    pre = torch.addmm(bias.bfloat16(), inputs.bfloat16(), rows.bfloat16().T).float()
    assert known.dtype == torch.float32
    assert torch.equal(known, pre[support.tokens, support.latents])


def test_a_rule_of_ones_own_is_left_to_its_meaning() -> None:
    class Odd(Selection):
        def support(self, pre: Tensor) -> sd.Support:
            return sd.Support.from_mask(torch.arange(pre.shape[-1]).expand_as(pre) % 2 == 1)

    assert not can_select(Odd(), torch.device("cpu"))
    assert not can_select(None, torch.device("cpu"))
    assert can_select(Largest(2), torch.device("cuda"))
    assert not can_select(Above(torch.zeros(())), torch.device("cuda"))


@pytest.mark.parametrize("activation", ["relu", "top_k", "batch_top_k", "jump_relu", "gated"])
@pytest.mark.parametrize("kind", ["distiller_bias_skip", "autoencoder"])
def test_a_training_step_by_way_of_bounds_is_that_without(
    kind: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dictionary = cases.make(kind, activation, dtype=torch.float32).train()
    x, target = cases.tokens(37).float(), torch.randn(37, dictionary.d_out)

    def gradients(bounded: bool) -> dict[str, Tensor]:
        monkeypatch.setattr(_select, "bounds_are_faster", lambda inputs, rows: bounded)
        dictionary.zero_grad()
        sd.SquaredError()(dictionary.forward_pass(x, target)).backward()
        return {name: weight.grad for name, weight in dictionary.named_parameters() if weight.grad is not None}

    usual = gradients(False)
    for name, gradient in gradients(True).items():
        scale = usual[name].abs().max()
        torch.testing.assert_close(gradient / scale, usual[name] / scale, rtol=1e-5, atol=1e-5)


def test_a_threshold_is_not_rounded_to_the_type_of_the_products() -> None:
    """As the activation compares: 1 + 2^-7 exceeds a threshold that bfloat16 rounds up to it."""
    inputs, rows, bias = torch.ones(1, 1), torch.ones(2, 1), torch.tensor([2.0**-7, 0.0])
    with torch.autocast("cpu", torch.bfloat16):
        picked = select(inputs, rows, bias, Above(torch.full((2,), 1 + 0.9 * 2.0**-7)))
    assert picked is not None
    assert picked[0].latents.tolist() == [0]
