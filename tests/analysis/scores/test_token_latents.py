"""`record` and `TokenLatents`, against dense latents."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sparsedict as sd
from sparsedict.analysis.scores import SiteStates, TextEmbedding, TokenLatents, record

from .._models import VOCABULARY, LanguageModel, autoencoder, distiller


def dense(text: TokenLatents) -> Tensor:
    latents = torch.zeros(text.n_latents, text.tokens.numel())
    latents[text.owner, text.positions] = text.values
    return latents.view(text.n_latents, *text.tokens.shape).permute(1, 2, 0)


def random_text(seed: int, n_sequences: int = 6) -> tuple[TokenLatents, Tensor]:
    random = torch.Generator().manual_seed(seed)
    latents = torch.randn(n_sequences, 5, 4, generator=random).relu() * (torch.rand(4, generator=random) < 0.8)
    tokens = torch.randint(VOCABULARY, latents.shape[:-1], generator=random)
    return TokenLatents.from_dense(latents, tokens), latents


@given(st.integers(0, 100))
def test_dense_latents_come_back(seed: int) -> None:
    text, latents = random_text(seed)
    assert torch.equal(dense(text), latents)
    assert torch.equal(text.counts, (latents != 0).sum((0, 1)))
    assert torch.equal(text.maxima, latents.amax((0, 1)))


@given(st.integers(0, 100), st.permutations(range(4)), st.sets(st.integers(0, 5), min_size=1))
def test_selections_are_those_of_dense_latents(seed: int, order: list[int], rows: set[int]) -> None:
    text, latents = random_text(seed)
    chosen = torch.tensor(sorted(rows))
    assert torch.equal(dense(text.latents(torch.tensor(order))), latents[..., order])
    part = text.sequences(chosen)
    assert torch.equal(dense(part), latents[chosen])
    assert torch.equal(part.tokens, text.tokens[chosen])
    keys = part.owner * part.tokens.numel() + part.positions
    assert (keys.diff() > 0).all()


@given(st.integers(0, 100))
def test_shuffling_keeps_everything_but_the_places(seed: int) -> None:
    text, latents = random_text(seed)
    moved = dense(text.shuffled(seed)).flatten(0, 1)
    rows = sorted(map(tuple, latents.flatten(0, 1).tolist()))
    assert sorted(map(tuple, moved.tolist())) == rows
    assert torch.equal(dense(text.shuffled(seed)), dense(text.shuffled(seed)))


def test_shuffling_leaves_excluded_tokens_out() -> None:
    latents, kept = torch.ones(4, 5, 1), torch.rand(4, 5) < 0.5
    text = TokenLatents.from_dense(latents, torch.zeros(4, 5, dtype=torch.int64), kept=kept)
    assert torch.equal(dense(text.shuffled()).squeeze(-1) != 0, kept)


@given(st.integers(2, 300), st.integers(0, 5))
def test_split_takes_every_sequence_once(n: int, seed: int) -> None:
    text = TokenLatents.from_dense(torch.ones(n, 1, 1), torch.zeros(n, 1, dtype=torch.int64))
    first, second = text.split(seed)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(n))
    assert min(len(first), len(second)) >= 1
    if n >= 128:
        assert all(len({int(i) in first.tolist() for i in run}) == 1 for run in torch.arange(n).split(8))


def test_values_at_any_position() -> None:
    text, latents = random_text(3)
    latent, position = torch.meshgrid(torch.arange(4), torch.arange(30), indexing="ij")
    found = text.values_at(latent.flatten(), position.flatten()).view(4, 30)
    assert torch.equal(found, latents.flatten(0, 1).T)


def site(**options: object) -> sd.Site:
    return sd.Site(LanguageModel(), "mlp", **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("make", [distiller, autoencoder])
def test_records_are_the_latents_of_the_dictionary(make: Callable[[], sd.Dictionary]) -> None:
    own, dictionary = site(), make()
    tokens = torch.randint(VOCABULARY, (7, 5), generator=torch.Generator().manual_seed(1))
    text = record(own, dictionary, tokens, batch_size=3)
    captured = own.capture(tokens)
    inputs = captured.inputs if dictionary.reads == "inputs" else captured.outputs
    assert torch.allclose(dense(text), dictionary.encode(inputs), atol=1e-6)
    assert torch.equal(text.tokens, tokens)
    few = record(own, dictionary, tokens, latents=[3, 1])
    assert torch.allclose(dense(few), dense(text)[..., [3, 1]], atol=1e-6)


def test_neurons_above_a_threshold() -> None:
    own = site()
    tokens = torch.randint(VOCABULARY, (4, 5))
    text = record(own, own.neurons, tokens, above=0.1)
    neurons = own.capture(tokens, neurons=True).neurons
    assert torch.allclose(dense(text), neurons * (neurons > 0.1), atol=1e-6)


def test_excluded_tokens_have_no_latents() -> None:
    own = site(exclude_tokens=[2], exclude_first=1)
    tokens = torch.randint(VOCABULARY, (6, 5))
    text = record(own, distiller(), tokens)
    assert torch.equal(text.kept, (tokens != 2) & (torch.arange(5) >= 1))
    assert not dense(text)[~text.kept].any()
    assert text.n_tokens == int(text.kept.sum())


def test_batches_of_several_lengths_are_padded() -> None:
    own = site()
    short, long = torch.randint(VOCABULARY, (3, 4)), torch.randint(VOCABULARY, (2, 6))
    text = record(own, distiller(), [short, long])
    assert text.tokens.shape == (5, 6)
    assert (text.tokens[:3, 4:] == -1).all()
    assert not text.kept[:3, 4:].any()
    assert torch.allclose(dense(text)[3:], dense(record(own, distiller(), long)), atol=1e-6)
    assert torch.allclose(dense(text)[:3, :4], dense(record(own, distiller(), short)), atol=1e-6)


@pytest.mark.as_installed
def test_bad_arguments_raise() -> None:
    own = site()
    tokens = torch.randint(VOCABULARY, (4, 5))
    with pytest.raises(ValueError, match=r"`latents` must be indices in \[0, \d+\), got \[999\]"):
        record(own, distiller(), tokens, latents=[999])
    with pytest.raises(ValueError, match=r"`above` must lie in \[0.0, inf\), got -1"):
        record(own, distiller(), tokens, above=-1)
    with pytest.raises(ValueError, match="must have the leading shape of `tokens`"):
        TokenLatents.from_dense(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="`latents` must be finite, got 24 NaN"):
        TokenLatents.from_dense(torch.full((2, 3, 4), torch.nan), torch.zeros(2, 3, dtype=torch.int64))


def test_states_are_those_of_the_site() -> None:
    own = site()
    tokens = torch.randint(VOCABULARY, (9, 5))
    text = record(own, distiller(), tokens)
    positions = torch.randperm(45)[:20]
    found = SiteStates(own, batch_size=2)(text, positions)
    assert torch.allclose(found, own.capture(tokens).outputs.flatten(0, 1)[positions], atol=1e-6)
    inputs = SiteStates(own, role="inputs")(text, positions)
    assert torch.allclose(inputs, own.capture(tokens).inputs.flatten(0, 1)[positions], atol=1e-6)


def test_text_embedding_marks_the_token() -> None:
    text = TokenLatents.from_dense(
        torch.ones(2, 4, 1), torch.arange(8).view(2, 4), strings=lambda ids: [f"t{i} " for i in ids]
    )
    seen: list[str] = []

    def embed(texts: list[str]) -> list[list[float]]:
        seen.extend(texts)
        return [[float(len(text)), 1.0] for text in texts]

    vectors = TextEmbedding(embed, before=2, after=1)(text, torch.tensor([2, 4, 7]))
    assert seen == ["t0 t1 <<t2 >>t3 ", "<<t4 >>t5 ", "t5 t6 <<t7 >>"]
    assert vectors.shape == (3, 2)
    with pytest.raises(ValueError, match="`function` must return one vector for each text"):
        TextEmbedding(lambda texts: [[1.0]])(text, torch.tensor([2, 4]))
    nameless = TokenLatents.from_dense(torch.ones(2, 4, 1), torch.arange(8).view(2, 4))
    with pytest.raises(ValueError, match=r"`text\.strings` must be passed"):
        TextEmbedding(embed)(nameless, torch.tensor([2]))


def test_repr_is_short() -> None:
    text, _ = random_text(0)
    assert repr(text).startswith("TokenLatents(tokens=int64[6, 5]")


def test_several_sites_are_recorded() -> None:
    model = sd.zoo.load_model()
    sites = sd.Sites(model, {"0": "transformer.h.0.mlp", "1": "transformer.h.1.mlp"})
    dictionary = sd.CrossLayerDistiller(sites, 8, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    tokens = torch.randint(4096, (2, 6))
    text = record(sites, dictionary, tokens)
    inputs, _ = dictionary.select(sites.capture(tokens).batch())
    assert torch.allclose(dense(text).flatten(0, 1), dictionary.encode(inputs), atol=1e-5)
