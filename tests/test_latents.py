from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sparsedict as sd
from sparsedict.latents import per_entry


@st.composite
def dense_latents(draw: st.DrawFn, leading: int | None = None) -> Tensor:
    """Latents with rows from empty to full, of any leading shape."""
    sizes = st.integers(0, 4)
    shape = draw(st.lists(sizes, min_size=leading or 0, max_size=3 if leading is None else leading))
    n_latents = draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    latents = torch.rand(*shape, n_latents, generator=generator)
    share = torch.randint(0, 3, (*shape, 1), generator=generator) / 2
    signs = torch.randint(0, 2, latents.shape, generator=generator) * 2 - 1
    return latents * signs * (torch.rand(latents.shape, generator=generator) < share)


def entries(support: sd.Support) -> list[tuple[int, int]]:
    return list(zip(support.tokens.tolist(), support.latents.tolist(), strict=True))


@given(dense_latents())
def test_dense_to_sparse_and_back(latents: Tensor) -> None:
    sparse = sd.SparseLatents.from_dense(latents)
    assert sparse.shape == latents.shape
    assert sparse.batch_shape == latents.shape[:-1]
    assert sparse.n_latents == latents.shape[-1]
    assert torch.equal(sparse.to_dense(), latents)
    assert sparse.values.numel() == int((latents != 0).sum())


@given(dense_latents(leading=1))
def test_three_ways_to_name_a_support_agree(latents: Tensor) -> None:
    mask = latents != 0
    n_tokens, n_latents = mask.shape
    wanted = mask.nonzero().tolist()
    from_mask = sd.Support.from_mask(mask)
    from_flat = sd.Support.from_flat(mask.flatten().nonzero()[:, 0], n_tokens, n_latents)
    for support in (from_mask, from_flat):
        assert [list(entry) for entry in entries(support)] == wanted
        assert support.offsets.tolist() == [0, *mask.sum(-1).cumsum(0).tolist()]
        assert (support.n_tokens, support.n_latents, support.n_entries) == (n_tokens, n_latents, len(wanted))


@given(st.integers(0, 5), st.integers(1, 6))
def test_indices_name_k_latents_for_every_token(n_tokens: int, k: int) -> None:
    indices = torch.stack([torch.randperm(6)[:k] for _ in range(n_tokens)]) if n_tokens else torch.zeros(0, k).long()
    support = sd.Support.from_indices(indices, 6)
    assert entries(support) == [(token, int(latent)) for token in range(n_tokens) for latent in indices[token]]
    assert support.offsets.tolist() == [k * token for token in range(n_tokens + 1)]
    assert support.latents.is_contiguous()


@given(dense_latents(leading=1))
def test_the_transposed_support_holds_the_same_entries(latents: Tensor) -> None:
    support = sd.Support.from_mask(latents != 0)
    turned = support.by_latent
    assert sorted(turned.order.tolist()) == list(range(support.n_entries))
    for latent in range(support.n_latents):
        own = slice(int(turned.offsets[latent]), int(turned.offsets[latent + 1]))
        assert (support.latents[turned.order[own]] == latent).all()
        assert turned.tokens[own].tolist() == (latents[:, latent] != 0).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("n_latents", [2**16 - 1, 2**16, 2**16 + 1, 100_000])
def test_the_support_of_a_wide_dictionary_is_ordered_by_latent_then_entry(n_latents: int) -> None:
    latents = torch.cat((torch.randint(n_latents, (500,)), torch.tensor([n_latents - 1, 0, n_latents - 1, 0])))
    support = sd.Support(latents, torch.tensor([0, 200, len(latents)]), n_latents)
    turned = support.by_latent
    assert turned.order.tolist() == sorted(range(len(latents)), key=lambda entry: (int(latents[entry]), entry))
    assert torch.equal(turned.offsets.diff(), torch.bincount(latents, minlength=n_latents))


@given(dense_latents())
def test_counts_are_of_positive_values_not_of_stored_ones(latents: Tensor) -> None:
    rows = latents.reshape(-1, latents.shape[-1])
    everything = sd.Support.from_mask(torch.ones_like(rows, dtype=torch.bool))
    sparse = sd.SparseLatents(rows.flatten(), everything, latents.shape[:-1])
    assert torch.equal(sparse.firing_counts(), (rows != 0).sum(0))
    assert float(sparse.l0()) == pytest.approx(float((rows != 0).sum() / max(len(rows), 1)))
    assert torch.equal(sparse.to_dense(), latents)


def test_the_dense_form_passes_gradients_to_the_values() -> None:
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    sparse = sd.SparseLatents(values, sd.Support.from_flat(torch.tensor([1, 2, 5]), 2, 3), torch.Size((2,)))
    (sparse.to_dense() * torch.arange(6.0).reshape(2, 3)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1, 2, 5]
    assert not sparse.detach().values.requires_grad
    assert sparse.detach().support is sparse.support


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("value", "got"),
    [([1.0], "list"), (torch.zeros(2, dtype=torch.int64), r"torch\.int64 \(2,\)"), (torch.ones(()), r"\(\)")],
)
def test_from_dense_takes_floating_point_tensors(value: object, got: str) -> None:
    with pytest.raises(TypeError, match=rf"`latents` must be a floating-point tensor .* got .*{got}"):
        sd.SparseLatents.from_dense(value)


def test_a_value_per_latent_is_aligned_with_entries() -> None:
    vector = torch.tensor([1.0, 2.0, 3.0])
    assert per_entry(vector, torch.tensor([2, 0, 2])).tolist() == [3, 1, 3]
    assert per_entry(vector, None) is vector
    scalar = torch.tensor(1.0)
    assert per_entry(scalar, torch.tensor([2, 0])) is scalar
